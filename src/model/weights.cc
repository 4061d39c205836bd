#include "model/weights.h"

#include <fmt/format.h>

#include <cstring>

#include "io/compressed.h"
#include "io/json.h"
#include "model/finite.h"
#include "model/fold.h"

namespace tessera {
namespace {

// The matrices of a map in the formats that the checkpoint has them in, and what they point into.
struct StoredMap {
  std::string name;  // of the first
  MatrixStack stack;
  std::vector<ReadMatrix> sources;
  std::vector<float> bias;  // empty: none
};

// Tensors whose pages are given back while they are read.
constexpr int64_t kLargeBytes = int64_t{16} << 20;

class Loader {
 public:
  Loader(const Checkpoint& checkpoint, const Architecture& architecture, TensorFormats formats,
         Team& team)
      : checkpoint_(checkpoint),
        names_(checkpoint_names(checkpoint, architecture)),
        formats_(std::move(formats)),
        team_(team) {}

  int64_t parameters() const { return parameters_; }

  Result<EmbeddingTable> table(const std::string& pattern, int64_t rows, int64_t width,
                               Precision precision) {
    if (formats_.find(full_name(pattern, 0)) != nullptr)
      return stored_table(full_name(pattern, 0), rows, width, precision);
    TESSERA_ASSIGN_OR_RETURN(const TensorView tensor, find(pattern, 0, {rows, width}));
    if (is_quantized(precision)) return rounded_table(tensor, rows, width);
    EmbeddingTable table{.data = host_device().allocate(tensor.size_bytes),
                         .dtype = tensor.dtype,
                         .rows = rows,
                         .width = width};
    if (table.data.empty()) {
      return out_of_memory(fmt::format("cannot get {} bytes for {}", tensor.size_bytes, pattern));
    }
    const int64_t row_bytes = width * static_cast<int64_t>(size_bytes(tensor.dtype));
    team_.parallel_for(rows, 64, [&](Range part) {
      std::memcpy(table.data.as<char>() + part.begin * row_bytes,
                  static_cast<const char*>(tensor.data) + part.begin * row_bytes,
                  static_cast<size_t>(part.size() * row_bytes));
    });
    checkpoint_.release(tensor);
    return table;
  }

  Result<EmbeddingTable> rounded_table(const TensorView& tensor, int64_t rows, int64_t width) {
    EmbeddingTable table{.dtype = tensor.dtype, .rows = rows, .width = width};
    TESSERA_ASSIGN_OR_RETURN(table.rounded,
                             rounded({tensor.data, tensor.dtype, rows, width}, Precision::kW8));
    return table;
  }

  // One of integers, which stay, or are written out where floats are asked for.
  Result<EmbeddingTable> stored_table(const std::string& name, int64_t rows, int64_t width,
                                      Precision precision) {
    TESSERA_ASSIGN_OR_RETURN(
        const ReadMatrix read,
        read_matrix(checkpoint_, formats_, name, {nullptr, DType::kF32, rows, width}));
    const StoredMatrix& matrix = read.packed.matrix;
    if (!is<QuantizedMatrix>(matrix)) {
      return unsupported(fmt::format("{}: tensor {}: expected a dense or quantized table, found {}",
                                     checkpoint_.directory(), quote(name), format_name(matrix)));
    }
    parameters_ += rows * width;
    EmbeddingTable table{.rows = rows, .width = width};
    if (is_quantized(precision) || precision == Precision::kStored) {
      table.rounded = copy_of(matrix);
    } else {
      const int64_t bytes = dense_bytes(matrix);
      table.data = host_device().allocate(static_cast<size_t>(bytes));
      if (table.data.empty())
        return out_of_memory(fmt::format("cannot get {} bytes for {}", bytes, name));
      to_dense(matrix, table.data.data());
    }
    release(read);
    return table;
  }

  Result<NormWeights> norm(const NormNames& names, int64_t width, int32_t layer = 0) {
    NormWeights weights;
    if (names.weight.empty()) return weights;
    TESSERA_ASSIGN_OR_RETURN(weights.weight, vector(names.weight, width, layer));
    if (!names.bias.empty()) {
      TESSERA_ASSIGN_OR_RETURN(weights.bias, vector(names.bias, width, layer));
    }
    return weights;
  }

  // outputs: of each part of the stack.
  Result<std::unique_ptr<Linear>> linear(const LinearNames& names, int64_t inputs,
                                         const std::vector<int64_t>& outputs, Precision precision,
                                         int32_t layer = 0) {
    TESSERA_ASSIGN_OR_RETURN(const StoredMap map, read_map(names, inputs, outputs, layer));
    return prepare(map, precision);
  }

  Result<StoredMap> read_map(const LinearNames& names, int64_t inputs, std::vector<int64_t> outputs,
                             int32_t layer) {
    // A fused tensor stands for the whole stack.
    if (names.weights.size() == 1) outputs = {sum(outputs)};
    StoredMap map{.name = full_name(names.weights.front(), layer)};
    for (size_t i = 0; i < names.weights.size(); ++i) {
      TESSERA_RETURN_IF_ERROR(
          read_parts(full_name(names.weights[i], layer), names.order, outputs[i], inputs, map));
      if (names.biases.empty()) continue;
      TESSERA_ASSIGN_OR_RETURN(const std::vector<float> part,
                               vector(names.biases[i], outputs[i], layer));
      map.bias.insert(map.bias.end(), part.begin(), part.end());
    }
    return map;
  }

  // Gives the source's pages back.
  Result<std::unique_ptr<Linear>> prepare(const StoredMap& map, Precision precision) {
    auto prepared = prepare(map.stack, map.bias, precision, map.name);
    release(map);
    return prepared;
  }

  Result<PreparedAttention> attention(const Architecture& a, const Plan& plan, int32_t layer) {
    const LayerPlan& choices = plan.layers[static_cast<size_t>(layer)];
    TESSERA_ASSIGN_OR_RETURN(const StoredMap qkv,
                             read_map(names_.layer.qkv, a.hidden_size,
                                      {a.query_width(), a.kv_width(), a.kv_width()}, layer));
    TESSERA_ASSIGN_OR_RETURN(
        const StoredMap output,
        read_map(names_.layer.attention_output, a.query_width(), {a.hidden_size}, layer));
    auto prepared = prepare_attention(
        {qkv.stack, qkv.bias, output.stack, output.bias},
        {.architecture = &a,
         .vo = choices.vo.method,
         .expected_tokens = plan.expected_tokens,
         .weights = choices.weights,
         .team = &team_,
         .prepare = [&](const MatrixStack& stack, const std::vector<float>& bias) {
           return prepare(stack, bias, choices.weights, qkv.name);
         }});
    release(qkv);
    release(output);
    return prepared;
  }

  // The token embedding as a head's output; its bias is of the checkpoint.
  Result<std::unique_ptr<Linear>> tied(const EmbeddingTable& tokens, const LinearNames& names,
                                       Precision precision) {
    std::vector<float> bias;
    if (!names.biases.empty()) {
      TESSERA_ASSIGN_OR_RETURN(bias, vector(names.biases.front(), tokens.rows));
    }
    const std::string name = full_name(names_.token_embedding, 0);
    TESSERA_ASSIGN_OR_RETURN(const ReadMatrix read,
                             read_matrix(checkpoint_, formats_, name,
                                         {nullptr, DType::kF32, tokens.rows, tokens.width}));
    auto prepared = prepare({read.packed.matrix}, bias, precision, name);
    release(read);
    return prepared;
  }

  bool has(const std::string& pattern) const {
    return has_matrix(checkpoint_, formats_, full_name(pattern, 0));
  }

  Result<std::vector<float>> vector(const std::string& pattern, int64_t width, int32_t layer = 0) {
    TESSERA_ASSIGN_OR_RETURN(const TensorView tensor, find(pattern, layer, {width}));
    std::vector<float> values(static_cast<size_t>(width));
    convert_to_f32(tensor.data, tensor.dtype, width, values.data());
    return values;
  }

 private:
  static int64_t sum(const std::vector<int64_t>& values) {
    int64_t total = 0;
    for (int64_t value : values) total += value;
    return total;
  }

  void release(const ReadMatrix& read) const {
    for (const TensorView& tensor : read.tensors) checkpoint_.release(tensor);
  }
  void release(const StoredMap& map) const {
    for (const ReadMatrix& source : map.sources) release(source);
  }

  // Rounds a matrix piece by piece and gives each piece's pages back: all of a table in f32 may be
  // more than the whole model in 4 bits. Its rows are outputs.
  Result<PackedMatrix> rounded(const DenseView& dense, Precision precision) {
    constexpr int64_t kPieceBytes = kLargeBytes / 4;
    const int64_t row_bytes = dense.cols * static_cast<int64_t>(size_bytes(dense.dtype));
    const int64_t rows = std::max<int64_t>(1, kPieceBytes / row_bytes);
    PackedMatrix whole;
    for (int64_t row = 0; row < dense.rows; row += rows) {
      DenseView piece = dense;
      piece.data = static_cast<const char*>(dense.data) + row * row_bytes;
      piece.rows = std::min(rows, dense.rows - row);
      TESSERA_ASSIGN_OR_RETURN(const PackedMatrix packed,
                               pack_quantized(piece, precision, default_group(precision), &team_));
      checkpoint_.release(
          {piece.data, dense.dtype, {}, static_cast<size_t>(piece.rows * row_bytes)});
      append_outputs(packed, dense.rows, whole);
    }
    return whole;
  }

  static bool is_large(const StoredMatrix& matrix) {
    return is<DenseView>(matrix) && matrix.order == MatrixOrder::kOutputRows &&
           dense_bytes(matrix) >= kLargeBytes;
  }

  // The tensor, or the parts of the stack that stands for it.
  Status read_parts(const std::string& name, MatrixOrder order, int64_t outputs, int64_t inputs,
                    StoredMap& map) {
    const std::vector<std::string> parts = parts_of(formats_, name);
    int64_t found = 0;
    for (const std::string& part : parts) {
      const int64_t wanted = parts.size() == 1 ? outputs : -1;
      const bool output_rows = order == MatrixOrder::kOutputRows;
      const DenseView expected{nullptr, DType::kF32, output_rows ? wanted : inputs,
                               output_rows ? inputs : wanted, order};
      TESSERA_ASSIGN_OR_RETURN(ReadMatrix read, read_matrix(checkpoint_, formats_, part, expected));
      for (const TensorView& tensor : read.floats)
        TESSERA_RETURN_IF_ERROR(check_finite(part, tensor));
      found += tessera::outputs(read.packed.matrix);
      parameters_ += tessera::outputs(read.packed.matrix) * inputs;
      map.stack.push_back(read.packed.matrix);
      map.sources.push_back(std::move(read));
    }
    if (found == outputs) return {};
    return invalid_input(
        fmt::format("{}: tensor {}: expected {} outputs, found {} in the parts of its stack",
                    checkpoint_.directory(), quote(name), outputs, found));
  }

  Result<std::unique_ptr<Linear>> prepare(const MatrixStack& stack, const std::vector<float>& bias,
                                          Precision precision, const std::string& name) {
    auto prepared = prepare(stack, bias, precision);
    if (prepared.ok()) return prepared;
    return Status(prepared.status().code(),
                  fmt::format("{}: {}", name, prepared.status().message()));
  }

  Result<std::unique_ptr<Linear>> prepare(const MatrixStack& stack, const std::vector<float>& bias,
                                          Precision precision) {
    MatrixStack matrices = stack;
    std::vector<PackedMatrix> kept;
    for (StoredMatrix& matrix : matrices) {
      if (!is_quantized(precision) || !is_large(matrix)) continue;
      TESSERA_ASSIGN_OR_RETURN(PackedMatrix packed, rounded(get<DenseView>(matrix), precision));
      matrix = packed.matrix;
      kept.push_back(std::move(packed));
    }
    return prepare_linear(matrices, bias.empty() ? nullptr : bias.data(), precision, team_);
  }

  std::string full_name(const std::string& pattern, int32_t layer) const {
    return tensor_name(names_, pattern, layer);
  }

  Result<TensorView> find(const std::string& pattern, int32_t layer,
                          const std::vector<int64_t>& shape) {
    std::string name = full_name(pattern, layer);
    if (!checkpoint_.has(name)) name = old_name(name);
    auto tensor = checkpoint_.tensor(name, shape);
    if (tensor.ok()) {
      int64_t count = 1;
      for (int64_t extent : shape) count *= extent;
      parameters_ += count;
      TESSERA_RETURN_IF_ERROR(check_finite(name, *tensor));
    }
    return tensor;
  }

  // Said here, where the tensor has a name: everything computed with it would be NaN.
  Status check_finite(const std::string& name, const TensorView& tensor) {
    const int64_t at = find_not_finite(tensor, team_);
    // To be read again, from the system's cache.
    if (static_cast<int64_t>(tensor.size_bytes) >= kLargeBytes) checkpoint_.release(tensor);
    if (at < 0) return {};
    float value = 0;
    const char* data = static_cast<const char*>(tensor.data);
    convert_to_f32(data + at * static_cast<int64_t>(size_bytes(tensor.dtype)), tensor.dtype, 1,
                   &value);
    return invalid_input(
        fmt::format("{}: tensor {}: expected finite values, found {} at index {} of {}",
                    checkpoint_.directory(), quote(name), value, at,
                    tensor.size_bytes / size_bytes(tensor.dtype)));
  }

  // The first BERT checkpoints call a norm's weight and bias gamma and beta.
  std::string old_name(const std::string& name) const {
    for (const auto& [now, before] : {std::pair{".LayerNorm.weight", ".LayerNorm.gamma"},
                                      std::pair{".LayerNorm.bias", ".LayerNorm.beta"}}) {
      if (!name.ends_with(now)) continue;
      const std::string old = name.substr(0, name.size() - std::strlen(now)) + before;
      if (checkpoint_.has(old)) return old;
    }
    return name;
  }

  const Checkpoint& checkpoint_;
  TensorNames names_;
  TensorFormats formats_;
  Team& team_;
  int64_t parameters_ = 0;
};

Status load_norms(Loader& loader, const Architecture& a, int32_t layer, LayerWeights& weights) {
  const LayerNames& names = a.names.layer;
  TESSERA_ASSIGN_OR_RETURN(weights.attention_norm,
                           loader.norm(names.attention_norm, a.hidden_size, layer));
  TESSERA_ASSIGN_OR_RETURN(weights.ffn_norm, loader.norm(names.ffn_norm, a.hidden_size, layer));
  TESSERA_ASSIGN_OR_RETURN(weights.query_norm, loader.norm(names.query_norm, a.head_size, layer));
  TESSERA_ASSIGN_OR_RETURN(weights.key_norm, loader.norm(names.key_norm, a.head_size, layer));
  return {};
}

Status load_layer(Loader& loader, const Architecture& a, const Plan& plan, LoadedWeights& loaded) {
  const LayerNames& names = a.names.layer;
  const auto layer = static_cast<int32_t>(loaded.weights.layers.size());
  const Precision precision = plan.layers[static_cast<size_t>(layer)].weights;
  TESSERA_ASSIGN_OR_RETURN(PreparedAttention attention, loader.attention(a, plan, layer));
  loaded.values.push_back(attention.values);
  loaded.vo.push_back(std::move(attention.vo));
  LayerWeights weights;
  weights.qkv = std::move(attention.qkv);
  weights.attention_output = std::move(attention.output);
  const std::vector<int64_t> ffn_in = a.ffn == Ffn::kGated
                                          ? std::vector<int64_t>{a.ffn_size, a.ffn_size}
                                          : std::vector<int64_t>{a.ffn_size};
  TESSERA_ASSIGN_OR_RETURN(weights.ffn_in,
                           loader.linear(names.ffn_in, a.hidden_size, ffn_in, precision, layer));
  TESSERA_ASSIGN_OR_RETURN(
      weights.ffn_out, loader.linear(names.ffn_out, a.ffn_size, {a.hidden_size}, precision, layer));
  TESSERA_RETURN_IF_ERROR(load_norms(loader, a, layer, weights));
  loaded.weights.layers.push_back(std::move(weights));
  return {};
}

int64_t head_outputs(const Architecture& a) {
  switch (a.head) {
    case Head::kCausalLm:
    case Head::kMaskedLm:
      return a.vocabulary_size;
    case Head::kQuestionAnswering:
      return 2;
    default:
      return a.labels;
  }
}

// The output of a head: its own weight, or the token embedding where the two are tied and the
// checkpoint has no other.
Result<std::unique_ptr<Linear>> head_output(Loader& loader, const Architecture& a,
                                            const EmbeddingTable& tokens, Precision precision) {
  LinearNames names = a.names.head.output;
  const std::string& shared_bias = a.names.head.shared_bias;
  if (!shared_bias.empty() && loader.has(shared_bias)) names.biases = {shared_bias};
  if (a.names.head.tying == Tying::kTokenEmbedding && !loader.has(names.weights.front())) {
    return loader.tied(tokens, names, precision);
  }
  return loader.linear(names, a.hidden_size, {head_outputs(a)}, precision);
}

Result<HeadWeights> load_head(Loader& loader, const Architecture& a, const EmbeddingTable& tokens,
                              Precision precision) {
  HeadWeights head;
  if (a.head == Head::kNone) return head;
  const HeadNames& names = a.names.head;
  if (!names.transform.weights.empty()) {
    TESSERA_ASSIGN_OR_RETURN(
        head.transform, loader.linear(names.transform, a.hidden_size, {a.hidden_size}, precision));
    TESSERA_ASSIGN_OR_RETURN(head.norm, loader.norm(names.norm, a.hidden_size));
  }
  TESSERA_ASSIGN_OR_RETURN(head.output, head_output(loader, a, tokens, precision));
  head.outputs = head_outputs(a);
  return head;
}

int64_t bytes_of(const NormWeights& norm) {
  return static_cast<int64_t>((norm.weight.size() + norm.bias.size()) * sizeof(float));
}

// Over all linear maps.
int64_t sum_of(const Weights& weights, int64_t LinearInfo::*member) {
  int64_t total = 0;
  for (const LayerWeights& layer : weights.layers) {
    for (const auto* map : {&layer.qkv, &layer.attention_output, &layer.ffn_in, &layer.ffn_out})
      total += (*map)->info().*member;
  }
  for (const auto* map : {&weights.head.transform, &weights.head.output}) {
    if (*map != nullptr) total += (*map)->info().*member;
  }
  return total;
}

}  // namespace

TensorNames checkpoint_names(const Checkpoint& checkpoint, const Architecture& architecture) {
  TensorNames names = architecture.names;
  const auto has = [&](const std::string& name) {
    return checkpoint.has(name) || checkpoint.has(name + ".values");  // dense or quantized
  };
  const std::string& first = names.token_embedding;
  if (!has(names.prefix + first) && has(first)) names.prefix.clear();
  return names;
}

std::string tensor_name(const TensorNames& names, const std::string& pattern, int32_t layer) {
  std::string name = pattern.starts_with('/') ? pattern.substr(1) : names.prefix + pattern;
  if (const size_t braces = name.find("{}"); braces != std::string::npos) {
    name.replace(braces, 2, std::to_string(layer));
  }
  return name;
}

Result<LayerWeights> load_layer_norms(const Checkpoint& checkpoint,
                                      const Architecture& architecture, int32_t layer, Team& team) {
  Loader loader(checkpoint, architecture, {}, team);
  LayerWeights weights;
  TESSERA_RETURN_IF_ERROR(load_norms(loader, architecture, layer, weights));
  return weights;
}

int64_t EmbeddingTable::bytes() const {
  return data.empty() ? packed_bytes(rounded.matrix)
                      : rows * width * static_cast<int64_t>(size_bytes(dtype));
}

void EmbeddingTable::read(int64_t row, Range columns, float* target) const {
  if (data.empty()) {
    const auto matrix = get<QuantizedMatrix>(rounded.matrix);
    for (int64_t c = columns.begin; c < columns.end; ++c) {
      const float scale = matrix.scale(row, matrix.group == 0 ? 0 : c / matrix.group);
      const float whole = scale * static_cast<float>(matrix.integer(row, c));
      target[c - columns.begin] =
          matrix.input_scales == nullptr ? whole : whole / matrix.input_scales[c];
    }
    return;
  }
  const auto value_bytes = static_cast<int64_t>(size_bytes(dtype));
  convert_to_f32(data.as<char>() + (row * width + columns.begin) * value_bytes, dtype,
                 columns.size(), target);
}

void EmbeddingTable::copy_row(int64_t row, float* target) const { read(row, {0, width}, target); }

void EmbeddingTable::add_row(int64_t row, float* target) const {
  constexpr int64_t kPiece = 256;
  float values[kPiece];
  for (int64_t at = 0; at < width; at += kPiece) {
    const int64_t count = std::min(kPiece, width - at);
    read(row, {at, at + count}, values);
    for (int64_t c = 0; c < count; ++c) target[at + c] += values[c];
  }
}

int64_t Weights::bytes() const {
  int64_t total = bytes_of(embedding_norm) + bytes_of(final_norm) + bytes_of(head.norm);
  for (const EmbeddingTable* table : {&tokens, &positions, &types}) {
    if (!table->empty()) total += table->bytes();
  }
  for (const LayerWeights& layer : layers) {
    for (const auto* map : {&layer.qkv, &layer.attention_output, &layer.ffn_in, &layer.ffn_out}) {
      total += (*map)->info().bytes;
    }
    for (const auto* norm :
         {&layer.attention_norm, &layer.ffn_norm, &layer.query_norm, &layer.key_norm}) {
      total += bytes_of(*norm);
    }
  }
  if (head.transform != nullptr) total += head.transform->info().bytes;
  if (head.output != nullptr) total += head.output->info().bytes;
  return total;
}

int64_t Weights::flops_per_token() const { return sum_of(*this, &LinearInfo::dense_flops_per_row); }

int64_t Weights::executed_flops_per_token() const {
  return sum_of(*this, &LinearInfo::flops_per_row);
}

Result<LoadedWeights> load_weights(const Checkpoint& checkpoint, const Architecture& a,
                                   const Plan& plan, Team& team) {
  TESSERA_ASSIGN_OR_RETURN(TensorFormats formats, TensorFormats::read(checkpoint.config()));
  Loader loader(checkpoint, a, std::move(formats), team);
  LoadedWeights loaded;
  Weights& weights = loaded.weights;
  TESSERA_ASSIGN_OR_RETURN(weights.tokens, loader.table(a.names.token_embedding, a.vocabulary_size,
                                                        a.hidden_size, plan.head_weights));
  if (!a.names.position_embedding.empty()) {
    TESSERA_ASSIGN_OR_RETURN(weights.positions, loader.table(a.names.position_embedding,
                                                             a.max_positions + a.position_offset,
                                                             a.hidden_size, Precision::kStored));
  }
  if (!a.names.type_embedding.empty()) {
    TESSERA_ASSIGN_OR_RETURN(
        weights.types, loader.table(a.names.type_embedding, a.type_vocabulary_size, a.hidden_size,
                                    Precision::kStored));
  }
  TESSERA_ASSIGN_OR_RETURN(weights.embedding_norm,
                           loader.norm(a.names.embedding_norm, a.hidden_size));
  // Before the layers: while a matrix is packed its source is in memory too, and the head's is by
  // far the largest.
  TESSERA_ASSIGN_OR_RETURN(weights.head, load_head(loader, a, weights.tokens, plan.head_weights));
  for (int32_t layer = 0; layer < a.layers; ++layer)
    TESSERA_RETURN_IF_ERROR(load_layer(loader, a, plan, loaded));
  TESSERA_ASSIGN_OR_RETURN(weights.final_norm, loader.norm(a.names.final_norm, a.hidden_size));
  loaded.parameters = loader.parameters();
  return loaded;
}

}  // namespace tessera
