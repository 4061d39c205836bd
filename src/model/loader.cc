#include "model/loader.h"

#include <fmt/format.h>

#include <cstring>

#include "io/compressed.h"
#include "io/json.h"
#include "model/finite.h"
#include "model/fold.h"
#include "model/slots.h"

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
        architecture_(architecture),
        formats_(std::move(formats)),
        team_(team) {}

  int64_t parameters() const { return parameters_; }
  const Checkpoint& checkpoint() const { return checkpoint_; }
  const TensorFormats& formats() const { return formats_; }

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
    for (float& weight : weights.weight) weight += architecture_.norm_weight_offset;
    if (!names.bias.empty()) {
      TESSERA_ASSIGN_OR_RETURN(weights.bias, vector(names.bias, width, layer));
    }
    return weights;
  }

  Result<std::unique_ptr<Linear>> linear(const LinearNames& names, const MapShape& shape,
                                         const LinearChoices& choices, int32_t layer = 0) {
    TESSERA_ASSIGN_OR_RETURN(const StoredMap map, read_map(names, shape, layer));
    return prepare(map, choices);
  }

  Result<StoredMap> read_map(const LinearNames& names, const MapShape& shape, int32_t layer) {
    const bool fused = names.weights.size() == 1;  // a tensor stands for the whole stack
    StoredMap map{.name = full_name(names.weights.front(), layer)};
    for (size_t i = 0; i < names.weights.size(); ++i) {
      const int64_t outputs = fused ? shape.outputs() : shape.parts[i].outputs;
      TESSERA_RETURN_IF_ERROR(
          read_parts(full_name(names.weights[i], layer), names.order, outputs, shape.inputs, map));
      if (names.biases.empty()) continue;
      TESSERA_ASSIGN_OR_RETURN(const std::vector<float> part,
                               vector(names.biases[i], outputs, layer));
      map.bias.insert(map.bias.end(), part.begin(), part.end());
    }
    return map;
  }

  Result<StoredMap> read_map(LayerMap map, int32_t layer) {
    const LayerMapSlot& slot = slot_of(map);
    const LayerRecord& record = architecture_.layer(layer);
    return read_map(record.names.*slot.names, slot.shape(architecture_, record), layer);
  }

  // Gives the source's pages back.
  Result<std::unique_ptr<Linear>> prepare(const StoredMap& map, const LinearChoices& choices) {
    auto prepared = prepare(map.stack, map.bias, choices, map.name);
    release(map);
    return prepared;
  }

  void keep_biases(ValueBias value_bias) { value_bias_ = value_bias; }

  Result<PreparedAttention> attention(const Plan& plan, int32_t layer) {
    const LayerPlan& layer_plan = plan.layers[static_cast<size_t>(layer)];
    TESSERA_ASSIGN_OR_RETURN(const StoredMap qkv, read_map(LayerMap::kQkv, layer));
    TESSERA_ASSIGN_OR_RETURN(const StoredMap output, read_map(LayerMap::kAttentionOutput, layer));
    auto prepared = prepare_attention(
        {qkv.stack, qkv.bias, output.stack, output.bias},
        {.architecture = &architecture_,
         .layer = layer,
         .vo = layer_plan.vo.method,
         .expected_tokens = plan.expected_tokens,
         .value_bias = value_bias_,
         .weights = layer_plan.weights,
         .team = &team_,
         .prepare = [&](const MatrixStack& stack, const std::vector<float>& bias) {
           return prepare(stack, bias, layer_choices(plan, layer), qkv.name);
         }});
    release(qkv);
    release(output);
    return prepared;
  }

  // The token embedding as a head's output; its bias is of the checkpoint.
  Result<std::unique_ptr<Linear>> tied(const EmbeddingTable& tokens, const LinearNames& names,
                                       const LinearChoices& choices) {
    std::vector<float> bias;
    if (!names.biases.empty()) {
      TESSERA_ASSIGN_OR_RETURN(bias, vector(names.biases.front(), tokens.rows));
    }
    const std::string name = full_name(architecture_.names.token_embedding, 0);
    TESSERA_ASSIGN_OR_RETURN(const ReadMatrix read,
                             read_matrix(checkpoint_, formats_, name,
                                         {nullptr, DType::kF32, tokens.rows, tokens.width}));
    auto prepared = prepare({read.packed.matrix}, bias, choices, name);
    release(read);
    return prepared;
  }

  Result<std::vector<float>> vector(const std::string& pattern, int64_t width, int32_t layer = 0) {
    TESSERA_ASSIGN_OR_RETURN(const TensorView tensor, find(pattern, layer, {width}));
    std::vector<float> values(static_cast<size_t>(width));
    convert_to_f32(tensor.data, tensor.dtype, width, values.data());
    return values;
  }

 private:
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
                                          const LinearChoices& choices, const std::string& name) {
    auto prepared = prepare(stack, bias, choices);
    if (prepared.ok()) return prepared;
    return Status(prepared.status().code(),
                  fmt::format("{}: {}", name, prepared.status().message()));
  }

  Result<std::unique_ptr<Linear>> prepare(const MatrixStack& stack, const std::vector<float>& bias,
                                          const LinearChoices& choices) {
    MatrixStack matrices = stack;
    std::vector<PackedMatrix> kept;
    for (StoredMatrix& matrix : matrices) {
      if (!is_quantized(choices.precision) || !is_large(matrix)) continue;
      TESSERA_ASSIGN_OR_RETURN(PackedMatrix packed,
                               rounded(get<DenseView>(matrix), choices.precision));
      matrix = packed.matrix;
      kept.push_back(std::move(packed));
    }
    return prepare_linear(matrices, bias.empty() ? nullptr : bias.data(), choices, team_);
  }

  std::string full_name(const std::string& pattern, int32_t layer) const {
    return tensor_name(architecture_.names, pattern, layer);
  }

  Result<TensorView> find(const std::string& pattern, int32_t layer,
                          const std::vector<int64_t>& shape) {
    const std::string name = stored_name(checkpoint_, full_name(pattern, layer));
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

  const Checkpoint& checkpoint_;
  const Architecture& architecture_;
  TensorFormats formats_;
  Team& team_;
  ValueBias value_bias_ = ValueBias::kWithOutput;
  int64_t parameters_ = 0;
};

Status load_norms(Loader& loader, const Architecture& a, int32_t layer, LayerWeights& weights) {
  const LayerRecord& record = a.layer(layer);
  for (const LayerNormSlot& slot : kLayerNormSlots) {
    TESSERA_ASSIGN_OR_RETURN(weights.*slot.weights,
                             loader.norm(record.names.*slot.names, slot.width(a, record), layer));
  }
  return {};
}

Status load_layer(Loader& loader, const Architecture& a, const Plan& plan, int32_t layer,
                  LoadedWeights& loaded) {
  const LayerRecord& record = a.layer(layer);
  TESSERA_ASSIGN_OR_RETURN(PreparedAttention attention, loader.attention(plan, layer));
  loaded.vo.push_back(std::move(attention.vo));
  LayerWeights weights;
  weights.attention = attention_shape(record, a.mask, attention.values, plan.cache);
  weights.qkv = std::move(attention.qkv);
  weights.attention_output = std::move(attention.output);
  const LinearChoices choices = layer_choices(plan, layer);
  for (const LayerMapSlot& slot : kLayerMapSlots) {
    if (weights.*slot.weights != nullptr) continue;
    TESSERA_ASSIGN_OR_RETURN(
        weights.*slot.weights,
        loader.linear(record.names.*slot.names, slot.shape(a, record), choices, layer));
  }
  TESSERA_RETURN_IF_ERROR(load_norms(loader, a, layer, weights));
  loaded.weights.layers.push_back(std::move(weights));
  return {};
}

// The output of a head: its own weight, or the token embedding where the two are tied and the
// checkpoint has no other.
Result<std::unique_ptr<Linear>> head_output(Loader& loader, const Architecture& a,
                                            const EmbeddingTable& tokens, const MapShape& shape,
                                            const LinearChoices& choices) {
  LinearNames names = a.names.head.output;
  const std::string bias = head_output_bias(a, loader.checkpoint(), loader.formats());
  if (!bias.empty()) names.biases = {"/" + bias};
  if (shares_token_embedding(a, loader.checkpoint(), loader.formats()))
    return loader.tied(tokens, names, choices);
  return loader.linear(names, shape, choices);
}

Result<HeadWeights> load_head(Loader& loader, const Architecture& a, const EmbeddingTable& tokens,
                              const LinearChoices& choices) {
  HeadWeights head;
  if (a.head == Head::kNone) return head;
  for (const HeadMapSlot& slot : kHeadMapSlots) {
    const LinearNames& names = a.names.head.*slot.names;
    const MapShape shape = slot.shape(a);
    if (slot.weights == &HeadWeights::output) {
      TESSERA_ASSIGN_OR_RETURN(head.output, head_output(loader, a, tokens, shape, choices));
      head.outputs = shape.outputs();
    } else if (!names.weights.empty()) {
      TESSERA_ASSIGN_OR_RETURN(head.*slot.weights, loader.linear(names, shape, choices));
    }
  }
  TESSERA_ASSIGN_OR_RETURN(head.norm, loader.norm(a.names.head.norm, a.hidden_size));
  return head;
}

}  // namespace

std::string stored_name(const Checkpoint& checkpoint, const std::string& name) {
  if (checkpoint.has(name)) return name;
  for (const auto& [now, before] : {std::pair{".LayerNorm.weight", ".LayerNorm.gamma"},
                                    std::pair{".LayerNorm.bias", ".LayerNorm.beta"}}) {
    if (!name.ends_with(now)) continue;
    const std::string old = name.substr(0, name.size() - std::strlen(now)) + before;
    if (checkpoint.has(old)) return old;
  }
  return name;
}

bool shares_token_embedding(const Architecture& a, const Checkpoint& checkpoint,
                            const TensorFormats& formats) {
  const HeadNames& head = a.names.head;
  return head.tying == Tying::kTokenEmbedding &&
         !has_matrix(checkpoint, formats, tensor_name(a.names, head.output.weights.front(), 0));
}

// Untied heads have both biases, and the output's own counts.
std::string head_output_bias(const Architecture& a, const Checkpoint& checkpoint,
                             const TensorFormats& formats) {
  const HeadNames& head = a.names.head;
  const std::string own =
      head.output.biases.empty() ? "" : tensor_name(a.names, head.output.biases.front(), 0);
  const std::string shared =
      head.shared_bias.empty() ? "" : tensor_name(a.names, head.shared_bias, 0);
  const bool has_own =
      head.tying == Tying::kOwn && !own.empty() && has_matrix(checkpoint, formats, own);
  const bool has_shared = !shared.empty() && has_matrix(checkpoint, formats, shared);
  return has_shared && !has_own ? shared : own;
}

Result<LayerWeights> load_layer_norms(const Checkpoint& checkpoint,
                                      const Architecture& architecture, int32_t layer, Team& team) {
  Loader loader(checkpoint, architecture, {}, team);
  LayerWeights weights;
  TESSERA_RETURN_IF_ERROR(load_norms(loader, architecture, layer, weights));
  weights.attention = architecture.attention_shape_as_stored(layer);
  return weights;
}

Result<LoadedWeights> load_weights(const Checkpoint& checkpoint, const Architecture& a,
                                   const Plan& plan, Team& team, ValueBias value_bias) {
  TESSERA_ASSIGN_OR_RETURN(TensorFormats formats, TensorFormats::read(checkpoint.config()));
  Loader loader(checkpoint, a, std::move(formats), team);
  loader.keep_biases(value_bias);
  LoadedWeights loaded;
  Weights& weights = loaded.weights;
  for (const TableSlot& slot : kTableSlots) {
    const std::string& name = a.names.*slot.name;
    if (name.empty()) continue;
    const Precision precision =
        slot.weights == &Weights::tokens ? plan.head_weights : Precision::kStored;
    TESSERA_ASSIGN_OR_RETURN(weights.*slot.weights,
                             loader.table(name, slot.rows(a), a.embedding_width(), precision));
  }
  for (const ModelNormSlot& slot : kModelNormSlots) {
    TESSERA_ASSIGN_OR_RETURN(weights.*slot.weights,
                             loader.norm(a.names.*slot.names, slot.width(a)));
  }
  // Before the layers: while a matrix is packed its source is in memory too, and the head's is by
  // far the largest.
  TESSERA_ASSIGN_OR_RETURN(weights.head, load_head(loader, a, weights.tokens, head_choices(plan)));
  for (int32_t layer = 0; layer < a.layer_count(); ++layer)
    TESSERA_RETURN_IF_ERROR(load_layer(loader, a, plan, layer, loaded));
  loaded.parameters = loader.parameters();
  return loaded;
}

}  // namespace tessera
