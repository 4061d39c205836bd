#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "compress/model_files.h"
#include "compress/pass.h"
#include "io/json.h"

namespace tessera {
namespace {

constexpr size_t at(int64_t index) { return static_cast<size_t>(index); }

// Means of neighbouring heads, each `head` numbers: of the first n / groups of n heads, and so on.
std::vector<float> averaged(const std::vector<float>& heads, int64_t head, int32_t groups) {
  const int64_t count = static_cast<int64_t>(heads.size()) / head, of_group = count / groups;
  std::vector<float> means(at(groups * head));
  for (int64_t i = 0; i < groups * head; ++i) {
    double sum = 0;
    for (int64_t h = 0; h < of_group; ++h)
      sum += heads[at((i / head * of_group + h) * head + i % head)];
    means[at(i)] = static_cast<float>(sum / static_cast<double>(of_group));
  }
  return means;
}

// Gives queries fewer heads of keys and values, each the mean of those whose queries it serves.
class KvHeadsPass final : public Pass {
 public:
  explicit KvHeadsPass(int32_t heads) : heads_(heads) {}

  PassInfo info() const override {
    return {.name = "kv-heads",
            .summary = "Averages heads of keys and values, so that more queries share each.",
            .citation = "Ainslie et al. 2023, GQA: mean pooling of heads, before up-training",
            .reads = "dense",
            .writes = "dense",
            .doing = "averaging heads"};
  }

  std::string options() const override {
    return nlohmann::ordered_json({{"pass", "kv-heads"}, {"heads", heads_}}).dump();
  }

  Status check(const SourceModel& model) const override {
    const std::string& source = model.source.checkpoint->directory();
    if (!model.source.checkpoint->config().has(kKvHeadsKey)) {
      return unsupported(fmt::format(
          "{}: expected a config.json that says {}, as of Llama and its kin, found none, so that "
          "it could not say that there are fewer heads of keys and values ({})",
          source, kKvHeadsKey, model.architecture.family));
    }
    for (const LayerRecord& layer : model.architecture.layers) {
      if (layer.kv_heads % heads_ != 0 || layer.kv_heads == heads_) {
        return invalid_input(fmt::format(
            "{}: kv heads: expected a smaller divisor of the {} heads of keys and values, found {}",
            source, layer.kv_heads, heads_));
      }
      if (layer.qk_norm != QkNorm::kWholeWidth) continue;
      return unsupported(fmt::format(
          "{}: kv heads: expected keys without a norm or with one for each head, found one over "
          "all heads",
          source));
    }
    for (const Item& item : model.items) {
      if (!takes(item)) continue;
      for (const std::string& name : {item.name(), item.tensor}) {
        if (model.source.formats->find(name) == nullptr) continue;
        return unsupported(fmt::format(
            "{}: {}: expected a dense matrix whose heads can be averaged, found a compressed one; "
            "take the model that it was made from",
            source, quote(name)));
      }
    }
    return {};
  }

  FusedQkv fused(const Source&) const override { return FusedQkv::kParts; }
  bool takes(const Item& item) const override {
    return item.role == Role::kKey || item.role == Role::kValue;
  }
  Estimate estimate(const Item&, const Estimate& before) const override {
    return {before.bytes / 2, before.kept, before.weight_error};  // or less
  }
  std::optional<int32_t> kv_heads() const override { return heads_; }

  Status apply(const MapWork& work) override {
    for (Matrix* matrix : work.matrices) {
      const int32_t head = work.model.architecture.layer(matrix->item.layer).head_size;
      Weight& left = matrix->pruned;
      left.values = averaged(left.values, head * left.inputs, heads_);
      left.outputs = int64_t{heads_} * head;
      if (!matrix->bias.empty()) {
        matrix->bias = averaged(matrix->bias, head, heads_);
        matrix->bias_changed = true;
      }
      matrix->item.outputs = left.outputs;
      round_to_file(*matrix);
      // What is left is another map, to which the old one cannot be compared weight by weight.
      matrix->whole = left;
    }
    fit_tensors(work.layer.of(LayerMap::kQkv));
    return {};
  }

 private:
  // Where the parts of each tensor begin now.
  static void fit_tensors(const std::vector<Matrix*>& parts) {
    for (Matrix* part : parts) {
      Item& item = part->item;
      item.first = item.tensor_outputs = 0;
      for (const Matrix* other : parts) {
        if (other->item.tensor != item.tensor) continue;
        if (other < part) item.first += other->item.outputs;
        item.tensor_outputs += other->item.outputs;
      }
    }
  }

  int32_t heads_;
};

}  // namespace

MadePass make_kv_heads_pass(const CompressOptions& options) {
  if (!options.kv_heads) return std::unique_ptr<Pass>();
  if (*options.kv_heads < 1) {
    return invalid_input(fmt::format("kv heads: expected at least 1, found {}", *options.kv_heads));
  }
  const bool is_alone = !options.prune && !options.quantize && options.pruning.empty() &&
                        options.matrices.empty() && options.layers.empty() &&
                        options.calibration.text_file.empty() &&
                        options.calibration.sequences.empty();
  if (!is_alone) {
    return unsupported(
        "kv heads: expected no other options that change the model or choose what is changed, as "
        "it is another model which they would see, found some: compress the result in another run");
  }
  return std::unique_ptr<Pass>(std::make_unique<KvHeadsPass>(*options.kv_heads));
}

}  // namespace tessera
