#include "tune/torch/adapter_files.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <nlohmann/json.hpp>
#include <set>

#include "compress/output.h"
#include "io/adapter.h"
#include "io/json.h"
#include "io/mapped_file.h"
#include "model/architecture.h"
#include "tune/options.h"

namespace tessera::training {
namespace {

using OrderedJson = nlohmann::ordered_json;

// PEFT's word for what a head is for; null: it has none.
OrderedJson task_type(Head head) {
  switch (head) {
    case Head::kNone:
      return "FEATURE_EXTRACTION";
    case Head::kCausalLm:
      return "CAUSAL_LM";
    case Head::kSequenceClassification:
      return "SEQ_CLS";
    case Head::kTokenClassification:
      return "TOKEN_CLS";
    case Head::kQuestionAnswering:
      return "QUESTION_ANS";
    case Head::kMaskedLm:
      break;
  }
  return nullptr;
}

std::string without_ending(const std::string& name) { return name.substr(0, name.rfind('.')); }

class AdapterWriter {
 public:
  AdapterWriter(TrainedModel& model, const LoraOptions& options, std::string prefix)
      : model_(model), options_(options), prefix_(std::move(prefix)) {}

  Status write(const std::string& base, const std::string& directory) {
    for (const TrainedModel::Stored& stored : model_.matrices) {
      if (stored.weight->update) TESSERA_RETURN_IF_ERROR(add_update(stored));
    }
    TESSERA_RETURN_IF_ERROR(add_heads());
    TESSERA_RETURN_IF_ERROR(write_safetensors(directory + "/" + kAdapterFile, tensors_,
                                              {{"format", "pt"}, {kWriterKey, "tessera"}}));
    return write_file_atomically(
        directory + "/" + kAdapterConfigFile,
        config(base).dump(2, ' ', false, OrderedJson::error_handler_t::replace) + "\n");
  }

 private:
  // In the class of the model, of which those with a head have the prefix and others have not.
  std::string module_of(const std::string& tensor) const {
    std::string name = without_ending(tensor);
    const bool has_prefix = name.starts_with(prefix_);
    if (model_.architecture.head == Head::kNone)
      return has_prefix ? name.substr(prefix_.size()) : name;
    return has_prefix ? name : prefix_ + name;
  }

  Status add(const std::string& name, const at::Tensor& value) {
    const at::Tensor& kept = kept_.emplace_back(value.detach().contiguous());
    if (!at::isfinite(kept).all().item<bool>()) {
      return invalid_input(
          fmt::format("tensor {}: expected finite values, found others: begin anew with a lower "
                      "learning rate",
                      quote(name)));
    }
    tensors_.push_back(
        {kAdapterPrefix + name, DType::kF32, kept.sizes().vec(), kept.data_ptr<float>()});
    return {};
  }

  // All of a tensor, of which B is 0 where a part has no update.
  Status add_update(const TrainedModel::Stored& stored) {
    const Item& item = stored.matrix.item;
    const LowRankUpdate& update = *stored.weight->update;
    const std::string module = module_of(item.tensor);
    if (!modules_.insert(module).second) return {};
    is_turned_ = is_turned_ || item.order == MatrixOrder::kInputRows;
    const at::NoGradGuard no_gradients;
    at::Tensor up = at::zeros({item.tensor_outputs, update.up->value.size(1)});
    for (const TrainedModel::Stored& part : model_.matrices) {
      const Item& of = part.matrix.item;
      if (of.tensor == item.tensor && part.weight->update)
        up.narrow(0, of.first, of.outputs).copy_(part.weight->update->up->value);
    }
    TESSERA_RETURN_IF_ERROR(add(module + kAdapterDown, update.down->value));
    return add(module + kAdapterUp, up);
  }

  // PEFT saves a head as a whole: "classifier" with all that is in it.
  static std::string head_module(const std::string& tensor, const std::string& prefix) {
    return tensor.starts_with(prefix) ? without_ending(tensor) : tensor.substr(0, tensor.find('.'));
  }

  // PEFT takes heads of labels for trained ones, and looks for them.
  bool has_labels() const {
    return model_.architecture.head == Head::kSequenceClassification ||
           model_.architecture.head == Head::kTokenClassification ||
           model_.architecture.head == Head::kQuestionAnswering;
  }

  Status add_heads() {
    for (const TrainedMap& map : model_.head_maps) {
      const bool is_own = !map.empty() && !map.weights.front()->name.starts_with(prefix_);
      if (is_own && has_labels()) heads_.insert(head_module(map.weights.front()->name, prefix_));
    }
    for (const Parameter& parameter : model_.parameters) {
      if (parameter.is_trained()) heads_.insert(head_module(parameter.name, prefix_));
    }
    for (const Parameter& parameter : model_.parameters) {
      if (heads_.contains(head_module(parameter.name, prefix_)))
        TESSERA_RETURN_IF_ERROR(add(parameter.name, parameter.value));
    }
    return {};
  }

  OrderedJson config(const std::string& base) const {
    const double alpha = lora_alpha(options_);
    const bool is_whole = alpha == std::floor(alpha) && alpha < 1e9;
    return {
        {"peft_type", "LORA"},
        {"task_type", task_type(model_.architecture.head)},
        {"base_model_name_or_path", base},
        {"r", options_.rank},
        {"lora_alpha", is_whole ? OrderedJson(static_cast<int64_t>(alpha)) : OrderedJson(alpha)},
        {"lora_dropout", options_.dropout},
        {"target_modules", modules_},
        {"modules_to_save", heads_.empty() ? OrderedJson() : OrderedJson(heads_)},
        {"fan_in_fan_out", is_turned_},
        {"bias", "none"},
        {"use_rslora", false},
        {"use_dora", false},
        {"init_lora_weights", true},
        {"inference_mode", true}};
  }

  TrainedModel& model_;
  const LoraOptions& options_;
  const std::string prefix_;
  std::deque<at::Tensor> kept_;
  std::vector<TensorToWrite> tensors_;
  std::set<std::string> modules_, heads_;
  bool is_turned_ = false;
};

}  // namespace

Status write_adapter(const OpenCheckpoint& source, TrainedModel& model, const LoraOptions& options,
                     const std::string& base, const std::string& directory) {
  // Names of modules have what classes with a head put before them, whether or not this file does.
  TESSERA_ASSIGN_OR_RETURN(Architecture named, read_architecture(source.checkpoint.config()));
  return AdapterWriter(model, options, std::move(named.names.prefix)).write(base, directory);
}

}  // namespace tessera::training
