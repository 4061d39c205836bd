#include "tune/torch/parameters.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <filesystem>

#include "compress/layer.h"
#include "compress/tables.h"
#include "io/json.h"
#include "model/loader.h"
#include "tune/torch/low_rank_update.h"
#include "tune/torch/rounded.h"

namespace tessera::training {
namespace {

constexpr const char* kTrainable[] = {"qkv", "query", "key",  "value",     "attention_output",
                                      "ffn", "bias",  "norm", "embedding", "head"};

torch::Tensor tensor_of(const std::vector<float>& values, std::vector<int64_t> shape) {
  torch::Tensor tensor = torch::empty(shape, torch::kFloat32);
  std::copy(values.begin(), values.end(), tensor.data_ptr<float>());
  return tensor;
}

class Reader {
 public:
  Reader(const OpenCheckpoint& source, FusedQkv fused, TrainedModel& model)
      : source_(source),
        fused_(fused),
        is_compressed_(source.checkpoint.config().has("tessera")),
        model_(model) {}

  Status read() {
    TESSERA_ASSIGN_OR_RETURN(model_.architecture, read_architecture(source_.checkpoint));
    const Architecture& a = model_.architecture;
    for (size_t i = 0; i < std::size(kTableSlots); ++i) {
      const std::string& name = a.names.*kTableSlots[i].name;
      if (name.empty()) continue;
      TESSERA_ASSIGN_OR_RETURN(model_.tables[i],
                               matrix(Parameter::Kind::kTable, tensor_name(a.names, name, 0),
                                      kTableSlots[i].rows(a), a.embedding_width()));
    }
    for (size_t i = 0; i < std::size(kModelNormSlots); ++i) {
      const ModelNormSlot& slot = kModelNormSlots[i];
      TESSERA_ASSIGN_OR_RETURN(model_.norms[i], norm(a.names.*slot.names, slot.width(a), 0));
    }
    TESSERA_RETURN_IF_ERROR(read_layers());
    return a.head == Head::kNone ? Status() : read_head();
  }

 private:
  const Checkpoint& checkpoint() const { return source_.checkpoint; }

  Parameter* add(Parameter::Kind kind, const std::string& name, torch::Tensor value) {
    model_.parameters.push_back({.name = name, .kind = kind, .value = std::move(value)});
    return &model_.parameters.back();
  }

  Result<Parameter*> vector(Parameter::Kind kind, const std::string& wanted, int64_t width) {
    const std::string name = stored_name(checkpoint(), wanted);
    TESSERA_ASSIGN_OR_RETURN(const TensorView view, checkpoint().tensor(name, {width}));
    std::vector<float> values(static_cast<size_t>(width));
    convert_to_f32(view.data, view.dtype, width, values.data());
    return finite(add(kind, name, tensor_of(values, {width})));
  }

  // Of a table or of a head, in any format.
  Result<Parameter*> matrix(Parameter::Kind kind, const std::string& name, int64_t rows,
                            int64_t cols) {
    Item item{.tensor = name, .outputs = rows, .inputs = cols, .tensor_outputs = rows};
    TESSERA_ASSIGN_OR_RETURN(Matrix read, read_item({source_.source()}, item));
    Parameter* parameter = add(kind, name, tensor_of(read.whole.values, {rows, cols}));
    parameter->rounding = std::move(read.rounding);
    return parameter;
  }

  Result<Parameter*> finite(Parameter* parameter) const {
    if (at::isfinite(parameter->value).all().item<bool>()) return parameter;
    return invalid_input(fmt::format("{}: tensor {}: expected finite values, found others",
                                     checkpoint().directory(), quote(parameter->name)));
  }

  Result<TrainedNorm> norm(const NormNames& names, int64_t width, int32_t layer) {
    TrainedNorm read;
    if (names.weight.empty()) return read;
    const auto part = [&](const std::string& name) {
      return vector(Parameter::Kind::kNorm, tensor_name(model_.architecture.names, name, layer),
                    width);
    };
    TESSERA_ASSIGN_OR_RETURN(read.weight, part(names.weight));
    if (names.bias.empty()) return read;
    TESSERA_ASSIGN_OR_RETURN(read.bias, part(names.bias));
    return read;
  }

  Status read_layers() {
    const Architecture& a = model_.architecture;
    // A stack's parts have masks of their own.
    const FusedQkv fused = source_.formats.has_stacks() ? FusedQkv::kParts : fused_;
    TESSERA_ASSIGN_OR_RETURN(const std::vector<Item> items, list_items(a, {}, fused));
    for (int32_t layer = 0; layer < a.layer_count(); ++layer) {
      TrainedLayer read;
      TESSERA_ASSIGN_OR_RETURN(LayerOnTheWay stored, read_layer({source_.source()}, items, layer));
      for (Matrix& matrix : stored.matrices)
        add(matrix, read.maps[static_cast<size_t>(matrix.item.map)]);
      for (size_t i = 0; i < std::size(kLayerNormSlots); ++i) {
        const LayerNormSlot& slot = kLayerNormSlots[i];
        const LayerRecord& record = a.layer(layer);
        TESSERA_ASSIGN_OR_RETURN(read.norms[i],
                                 norm(record.names.*slot.names, slot.width(a, record), layer));
      }
      model_.layers.push_back(std::move(read));
    }
    return {};
  }

  // A matrix that a compression left dense, as the smaller form, may have been pruned as well: then
  // some of its weights are zero.
  static void keep_zeros(Matrix& matrix) {
    const std::vector<float>& values = matrix.whole.values;
    if (std::find(values.begin(), values.end(), 0.0f) == values.end()) return;
    matrix.mask = TileMask::all({1, 1}, matrix.item.outputs, matrix.item.inputs);
    for (size_t i = 0; i < values.size(); ++i) matrix.mask->kept[i] = values[i] != 0;
    matrix.removed = Removed::kElements;
  }

  void add(Matrix& matrix, TrainedMap& map) {
    const Item& item = matrix.item;
    Parameter* weight = add(Parameter::Kind::kMatrix, item.name(),
                            tensor_of(matrix.whole.values, {item.outputs, item.inputs}));
    if (is_compressed_ && !matrix.mask && !matrix.rounding) keep_zeros(matrix);
    weight->mask = matrix.mask;
    weight->rounding = std::move(matrix.rounding);
    matrix.rounding.reset();
    Parameter* bias = nullptr;
    if (!matrix.bias.empty()) {
      const std::string name = item.is_whole_tensor()
                                   ? item.bias
                                   : fmt::format("{}.{}", item.bias, tessera::name(item.role));
      bias = add(Parameter::Kind::kBias, name, tensor_of(matrix.bias, {item.outputs}));
    }
    map.weights.push_back(weight);
    map.biases.push_back(bias);
    matrix.whole.values = {};
    matrix.pruned.values = {};
    model_.matrices.push_back({std::move(matrix), weight, bias});
  }

  Status read_head() {
    const Architecture& a = model_.architecture;
    const bool shares = shares_token_embedding(a, checkpoint(), source_.formats);
    for (size_t i = 0; i < std::size(kHeadMapSlots); ++i) {
      const HeadMapSlot& slot = kHeadMapSlots[i];
      const LinearNames& names = a.names.head.*slot.names;
      if (names.weights.empty()) continue;
      const bool is_output = slot.weights == &HeadWeights::output;
      const MapShape shape = slot.shape(a);
      TrainedMap& map = model_.head_maps[i];
      const std::string weight = tensor_name(a.names, names.weights.front(), 0);
      if (is_output && shares) {
        map.weights = {model_.tables[0]};
      } else {
        TESSERA_ASSIGN_OR_RETURN(Parameter * read, matrix(Parameter::Kind::kMatrix, weight,
                                                          shape.outputs(), shape.inputs));
        map.weights = {read};
      }
      const std::string own =
          names.biases.empty() ? "" : tensor_name(a.names, names.biases.front(), 0);
      const std::string bias = is_output ? head_output_bias(a, checkpoint(), source_.formats) : own;
      map.biases = {nullptr};
      if (bias.empty()) continue;
      TESSERA_ASSIGN_OR_RETURN(map.biases[0],
                               vector(Parameter::Kind::kBias, bias, shape.outputs()));
    }
    TESSERA_ASSIGN_OR_RETURN(model_.head_norm, norm(a.names.head.norm, a.hidden_size, 0));
    return {};
  }

  const OpenCheckpoint& source_;
  const FusedQkv fused_;
  const bool is_compressed_;
  TrainedModel& model_;
};

// What of kTrainable a matrix of a layer counts as.
bool is_chosen(const std::vector<std::string>& chosen, Role role) {
  const auto holds = [&](const char* name) {
    return std::find(chosen.begin(), chosen.end(), name) != chosen.end();
  };
  const bool is_part = role == Role::kQuery || role == Role::kKey || role == Role::kValue;
  return holds(name(role)) || (is_part && holds("qkv"));
}

// The last step of a training is checked by nothing else.
Status check_finite(const std::string& name, const std::vector<float>& values) {
  if (std::all_of(values.begin(), values.end(), [](float x) { return std::isfinite(x); }))
    return {};
  return invalid_input(
      fmt::format("tensor {}: expected finite values in the type that it has in the file, found "
                  "others: begin anew with a lower learning rate",
                  quote(name)));
}

// The tensors that are no matrices of layers, in the types that they have in the source.
class OtherTensors {
 public:
  explicit OtherTensors(const OpenCheckpoint& source) : source_(source) {}

  Status add(const Parameter& parameter) {
    if (parameter.rounding) return add_integers(parameter);
    TESSERA_ASSIGN_OR_RETURN(const TensorView view, source_.checkpoint.any_tensor(parameter.name));
    const std::vector<char>& bytes =
        bytes_.emplace_back(narrowed(values_of(parameter.value), view.dtype));
    std::vector<float> values(static_cast<size_t>(parameter.value.numel()));
    convert_to_f32(bytes.data(), view.dtype, parameter.value.numel(), values.data());
    TESSERA_RETURN_IF_ERROR(check_finite(parameter.name, values));
    tensors_.push_back({parameter.name, view.dtype, view.shape, bytes.data()});
    return {};
  }
  const std::vector<TensorToWrite>& tensors() const { return tensors_; }
  // Those of integers, of which one tensor is several in a file.
  std::vector<RoundedTable> take_tables() { return std::move(tables_); }

 private:
  Status add_integers(const Parameter& parameter) {
    TESSERA_RETURN_IF_ERROR(check_finite(parameter.name, values_of(parameter.value)));
    RoundedTable& table = tables_.emplace_back();
    table.packed = pack_integers(integers_of(parameter));
    table.report.name = parameter.name;
    return {};
  }

  const OpenCheckpoint& source_;
  std::deque<std::vector<char>> bytes_;
  std::vector<TensorToWrite> tensors_;
  std::vector<RoundedTable> tables_;
};

// A layer's matrices with their values, those marked that are to be written.
std::vector<Matrix> changed_matrices(TrainedModel& model, int32_t layer) {
  std::vector<Matrix> changed;
  for (TrainedModel::Stored& stored : model.matrices) {
    if (stored.matrix.item.layer != layer) continue;
    Matrix& matrix = changed.emplace_back(stored.matrix);
    matrix.mask = stored.weight->mask;
    matrix.pruned.values = values_of(updated_values(*stored.weight));
    if (stored.weight->rounding) matrix.integers = integers_of(*stored.weight);
    if (stored.bias != nullptr) matrix.bias = values_of(stored.bias->value);
    matrix.bias_changed = stored.bias != nullptr && stored.bias->is_trained();
    matrix.item.selected =
        stored.weight->is_trained() || stored.weight->update || matrix.bias_changed;
    round_to_file(matrix);
  }
  // A tensor is written whole.
  for (Matrix& matrix : changed) {
    matrix.item.selected = std::any_of(changed.begin(), changed.end(), [&](const Matrix& other) {
      return other.item.tensor == matrix.item.tensor && other.item.selected;
    });
  }
  return changed;
}

}  // namespace

std::vector<float> values_of(const torch::Tensor& tensor) {
  const torch::Tensor plain = tensor.detach().contiguous();
  const float* data = plain.data_ptr<float>();
  return {data, data + plain.numel()};
}

std::vector<Parameter*> TrainedModel::trained() {
  std::vector<Parameter*> found;
  for (std::deque<Parameter>* all : {&parameters, &updates}) {
    for (Parameter& parameter : *all) {
      if (parameter.is_trained()) found.push_back(&parameter);
    }
  }
  return found;
}

std::vector<torch::Tensor> trained_values(const TrainedModel& model) {
  std::vector<torch::Tensor> values;
  for (const std::deque<Parameter>* all : {&model.parameters, &model.updates}) {
    for (const Parameter& parameter : *all) {
      if (parameter.is_trained()) values.push_back(parameter.value);
    }
  }
  return values;
}

Parameter* TrainedModel::find(const std::string& name) {
  for (std::deque<Parameter>* all : {&parameters, &updates}) {
    for (Parameter& parameter : *all) {
      if (parameter.name == name) return &parameter;
    }
  }
  return nullptr;
}

int64_t TrainedModel::weights() const {
  int64_t total = 0;
  for (const Parameter& parameter : parameters) total += parameter.value.numel();
  return total;
}

Result<TrainedModel> read_model(const OpenCheckpoint& source, FusedQkv fused) {
  TrainedModel model;
  TESSERA_RETURN_IF_ERROR(Reader(source, fused, model).read());
  return model;
}

Status choose_trained(const TuneOptions& options, TrainedModel& model) {
  std::vector<std::string> chosen = options.train;
  for (const std::string& name : chosen) {
    if (std::find(std::begin(kTrainable), std::end(kTrainable), name) != std::end(kTrainable))
      continue;
    return invalid_input(fmt::format("train: expected some of {}, found {}",
                                     fmt::join(kTrainable, ", "), quote(name)));
  }
  if (chosen.empty() && options.lora) chosen = usual_updates(options.task);
  if (chosen.empty()) {
    chosen.assign(std::begin(kTrainable), std::end(kTrainable));
    if (options.task == TuneTask::kDistil) std::erase(chosen, "embedding");
  }
  const auto holds = [&](const char* name) {
    return std::find(chosen.begin(), chosen.end(), name) != chosen.end();
  };
  const auto train = [](Parameter* parameter) {
    if (parameter != nullptr) parameter->value.set_requires_grad(true);
  };
  for (const TrainedModel::Stored& stored : model.matrices) {
    const Role role = stored.matrix.item.role;
    const bool is_trained = is_chosen(chosen, role) || (role == Role::kQkv && holds("query") &&
                                                        holds("key") && holds("value"));
    if (is_trained) train(stored.weight);
    if (holds("bias")) train(stored.bias);
  }
  for (Parameter& parameter : model.parameters) {
    if (parameter.kind == Parameter::Kind::kNorm && holds("norm")) train(&parameter);
    if (parameter.kind == Parameter::Kind::kTable && holds("embedding")) train(&parameter);
  }
  for (const TrainedMap& map : model.head_maps) {
    if (!holds("head")) break;
    for (Parameter* weight : map.weights) {
      if (weight->kind != Parameter::Kind::kTable) train(weight);
    }
    for (Parameter* bias : map.biases) train(bias);
  }
  if (options.lora) TESSERA_RETURN_IF_ERROR(add_updates(*options.lora, options.seed, model));
  if (!model.trained().empty()) return {};
  return invalid_input(
      fmt::format("train: expected tensors that the model has, found none that are {}",
                  fmt::join(chosen, ", ")));
}

Status write_model(const OpenCheckpoint& source, TrainedModel& model, const std::string& section,
                   const PartDirectory& part, const std::string& directory) {
  std::vector<std::unique_ptr<OpenCheckpoint>> layers;
  for (int32_t layer = 0; layer < model.architecture.layer_count(); ++layer) {
    const std::vector<Matrix> changed = changed_matrices(model, layer);
    for (const Matrix& matrix : changed) {
      TESSERA_RETURN_IF_ERROR(check_finite(matrix.item.name(), matrix.pruned.values));
      TESSERA_RETURN_IF_ERROR(check_finite(matrix.item.bias, matrix.bias));
    }
    TESSERA_RETURN_IF_ERROR(part.write_layer(layer, changed, {}));
    TESSERA_ASSIGN_OR_RETURN(auto written, OpenCheckpoint::open(part.layer_path(layer)));
    layers.push_back(std::move(written));
  }
  OtherTensors others(source);
  std::vector<const Parameter*> of_layers;
  for (const TrainedModel::Stored& stored : model.matrices) {
    of_layers.push_back(stored.weight);
    of_layers.push_back(stored.bias);
  }
  for (const Parameter& update : model.updates) of_layers.push_back(&update);
  for (const Parameter* parameter : model.trained()) {
    if (std::find(of_layers.begin(), of_layers.end(), parameter) == of_layers.end())
      TESSERA_RETURN_IF_ERROR(others.add(*parameter));
  }
  if (std::vector<RoundedTable> tables = others.take_tables(); !tables.empty()) {
    const int32_t number = model.architecture.layer_count();
    TESSERA_RETURN_IF_ERROR(part.write_tables(number, std::move(tables)));
    TESSERA_ASSIGN_OR_RETURN(auto written, OpenCheckpoint::open(part.layer_path(number)));
    layers.push_back(std::move(written));
  }
  return write_checkpoint(
      source, {.layers = layers, .tensors = others.tensors(), .section = section}, directory);
}

}  // namespace tessera::training
