#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "compress/model_files.h"
#include "compress/pass.h"
#include "io/adapter.h"
#include "io/json.h"
#include "model/slots.h"

namespace tessera {
namespace {

// "h.0.attn.c_attn" of "h.0.attn.c_attn.weight".
std::string module_of(const std::string& tensor) {
  constexpr std::string_view kWeight = ".weight";
  return tensor.ends_with(kWeight) ? tensor.substr(0, tensor.size() - kWeight.size()) : tensor;
}

// As "bert.encoder.layer.0" is of "encoder.layer.0".
bool is_with_prefix(const std::string& longer, const std::string& shorter) {
  const size_t dot = longer.find('.');
  return dot != std::string::npos && longer.compare(dot + 1, std::string::npos, shorter) == 0;
}

// Whether two names are of one tensor: a model with a head has a prefix of one word that a
// checkpoint of its base lacks, and the other way round.
bool is_same(const std::string& one, const std::string& other) {
  return one == other || is_with_prefix(one, other) || is_with_prefix(other, one);
}

bool is_float(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16;
}

std::vector<float> floats_of(const TensorView& view) {
  std::vector<float> values(view.size_bytes / size_bytes(view.dtype));
  convert_to_f32(view.data, view.dtype, static_cast<int64_t>(values.size()), values.data());
  return values;
}

// Adds what an adapter learnt to the weights of the model that it was trained on.
class MergeAdapterPass final : public Pass {
 public:
  MergeAdapterPass(Adapter adapter, std::string hash)
      : adapter_(std::move(adapter)), hash_(std::move(hash)) {}

  PassInfo info() const override {
    return {.name = "merge-adapter",
            .summary = "Adds the low-rank updates of an adapter to the matrices they are of.",
            .citation = "Hu et al. 2021, LoRA: low-rank adaptation",
            .reads = "floats",
            .writes = "as it was",
            .doing = "merging"};
  }

  std::string options() const override {
    return nlohmann::ordered_json({{"pass", "merge-adapter"}, {"adapter_sha256", hash_}})
        .dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  }

  Status check(const SourceModel& model) const override {
    for (const Item& item : model.items) {
      const AdapterUpdate* update = find(item);
      if (update == nullptr) continue;
      TESSERA_RETURN_IF_ERROR(check_shape(*update, item.tensor_outputs, item.inputs));
      if (!source_precision(model.source, item)) continue;
      return unsupported(fmt::format(
          "{}: {}: expected a matrix of floats to merge an update into, found one of integers: "
          "merge into the model that this one was made from, then compress that",
          model.source.checkpoint->directory(), quote(item.name())));
    }
    return others(model).status();
  }

  FusedQkv fused(const Source& source) const override {
    return source.formats->has_stacks() ? FusedQkv::kParts : FusedQkv::kWhole;
  }
  Leaves leaves() const override { return Leaves::kPlain; }
  bool takes(const Item& item) const override { return find(item) != nullptr; }

  Status apply(const MapWork& work) override {
    const bool is_compressed = work.model.source.checkpoint->config().has("tessera");
    for (Matrix* matrix : work.matrices) {
      const AdapterUpdate& update = *find(matrix->item);
      std::vector<float>& values = matrix->pruned.values;
      update.add_to(values, matrix->item.first, scale_of(update));
      if (matrix->mask) {
        clear_pruned(*matrix->mask, sizeof(float), values.data());
      } else if (is_compressed) {
        // What was pruned and stored dense, as the smaller form, has no mask.
        for (size_t i = 0; i < values.size(); ++i)
          values[i] = matrix->whole.values[i] == 0 ? 0 : values[i];
      }
      round_to_file(*matrix);
    }
    return {};
  }

  Result<std::vector<TensorToWrite>> other_tensors(const SourceModel& model) const override {
    return others(model);
  }

 private:
  double scale_of(const AdapterUpdate& update) const { return adapter_.scale().of(update.rank()); }

  const AdapterUpdate* find(const Item& item) const {
    const std::string module = module_of(item.tensor);
    for (const AdapterUpdate& update : adapter_.tensors().updates) {
      if (is_same(update.module, module)) return &update;
    }
    return nullptr;
  }

  Status check_shape(const AdapterUpdate& update, int64_t outputs, int64_t inputs) const {
    if (update.outputs() == outputs && update.inputs() == inputs) return {};
    return invalid_input(
        fmt::format("{}: module {}: expected an update of {} x {} weights, as the model has them, "
                    "found {} x {}",
                    adapter_.directory(), quote(update.module), outputs, inputs, update.outputs(),
                    update.inputs()));
  }

  // The model's tensor of this name, in floats.
  struct OwnTensor {
    std::string name;
    TensorView view;
  };
  Result<OwnTensor> tensor_of(const SourceModel& model, const std::string& name) const {
    const Checkpoint& checkpoint = *model.source.checkpoint;
    for (const std::string& own : checkpoint.names()) {
      if (!is_same(own, name)) continue;
      TESSERA_ASSIGN_OR_RETURN(const TensorView view, checkpoint.any_tensor(own));
      if (is_float(view.dtype)) return OwnTensor{own, view};
    }
    return invalid_input(fmt::format(
        "{}: expected a tensor of floats {} for what {} trained, found none: merge an adapter into "
        "the model that it was trained on",
        checkpoint.directory(), quote(name), adapter_.directory()));
  }

  // W + scale B A of a matrix that is none of a layer's, [outputs, inputs].
  Result<TensorToWrite> updated(const SourceModel& model, const AdapterUpdate& update) const {
    TESSERA_ASSIGN_OR_RETURN(const OwnTensor own, tensor_of(model, update.module + ".weight"));
    const TensorView view = own.view;
    const bool is_matrix = view.shape.size() == 2;
    TESSERA_RETURN_IF_ERROR(
        check_shape(update, is_matrix ? view.shape[0] : 0, is_matrix ? view.shape[1] : 0));
    const auto make = [view, &update, scale = scale_of(update)]() -> Result<std::vector<char>> {
      std::vector<float> values = floats_of(view);
      update.add_to(values, 0, scale);
      return narrowed(values, view.dtype);
    };
    return TensorToWrite{.name = own.name, .dtype = view.dtype, .shape = view.shape, .make = make};
  }

  // A tensor that was trained whole, in the type that the model has it in.
  Result<TensorToWrite> replaced(const SourceModel& model, const std::string& trained,
                                 const TensorView& view) const {
    TESSERA_ASSIGN_OR_RETURN(const OwnTensor own, tensor_of(model, trained));
    if (own.view.shape != view.shape) {
      return invalid_input(fmt::format(
          "{}: tensor {}: expected the model's shape ({}), found {}", adapter_.directory(),
          quote(trained), fmt::join(own.view.shape, " x "), fmt::join(view.shape, " x ")));
    }
    const auto make = [view, dtype = own.view.dtype]() -> Result<std::vector<char>> {
      return narrowed(floats_of(view), dtype);
    };
    return TensorToWrite{
        .name = own.name, .dtype = own.view.dtype, .shape = view.shape, .make = make};
  }

  // What is no matrix of a layer: updates of heads, and tensors that were trained whole.
  Result<std::vector<TensorToWrite>> others(const SourceModel& model) const {
    std::vector<TensorToWrite> tensors;
    for (const AdapterUpdate& update : adapter_.tensors().updates) {
      const auto is_of = [&](const Item& item) { return find(item) == &update; };
      if (std::any_of(model.items.begin(), model.items.end(), is_of)) continue;
      TESSERA_ASSIGN_OR_RETURN(TensorToWrite tensor, updated(model, update));
      tensors.push_back(std::move(tensor));
    }
    for (const auto& [trained, view] : adapter_.tensors().whole) {
      TESSERA_ASSIGN_OR_RETURN(TensorToWrite tensor, replaced(model, trained, view));
      tensors.push_back(std::move(tensor));
    }
    return tensors;
  }

  Adapter adapter_;
  std::string hash_;
};

}  // namespace

MadePass make_merge_adapter_pass(const CompressOptions& options) {
  if (options.merge_adapter.empty()) return std::unique_ptr<Pass>();
  const bool is_alone = !options.kv_heads && !options.prune && !options.quantize &&
                        options.pruning.empty() && options.matrices.empty() &&
                        options.layers.empty() && options.calibration.text_file.empty() &&
                        options.calibration.sequences.empty();
  if (!is_alone) {
    return unsupported(
        "merge adapter: expected no other options that change the model or choose what is changed, "
        "as it is another model which they would see, found some: compress the result in another "
        "run");
  }
  TESSERA_ASSIGN_OR_RETURN(Adapter adapter, Adapter::open(options.merge_adapter));
  TESSERA_ASSIGN_OR_RETURN(std::string hash, hash_file(options.merge_adapter + "/" + kAdapterFile));
  return std::unique_ptr<Pass>(
      std::make_unique<MergeAdapterPass>(std::move(adapter), std::move(hash)));
}

}  // namespace tessera
