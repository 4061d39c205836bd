#include "tune/options.h"

#include <fmt/format.h>

#include <cmath>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "compress/model_files.h"
#include "tessera/version.h"
#include "tune/learning_rate.h"

namespace tessera {
namespace {

using OrderedJson = nlohmann::ordered_json;

constexpr double kAny = std::numeric_limits<double>::max();

struct Bounds {
  const char* name;
  double value, least, most;
};

Status check_bounds(const Bounds& bounds) {
  if (bounds.value >= bounds.least && bounds.value <= bounds.most) return {};
  const std::string to = bounds.most < kAny ? fmt::format(" to {}", bounds.most) : "";
  return invalid_input(fmt::format("{}: expected a number from {}{}, found {}", bounds.name,
                                   bounds.least, to, bounds.value));
}

Status check_head(const TuneOptions& options) {
  if (!options.new_head) return {};
  if (options.task != TuneTask::kDistil && options.task != TuneTask::kEmbeddings) return {};
  return invalid_input(fmt::format("expected a task that needs a head to make a new one, found {}",
                                   name(options.task)));
}

Status check_teacher(const TuneOptions& options) {
  const bool is_distil = options.task == TuneTask::kDistil;
  if (is_distil == !options.distil.teacher.empty()) return {};
  if (is_distil) return invalid_input("expected a teacher to learn from, found none");
  return invalid_input(fmt::format("expected the task distil, which alone has a teacher, found {}",
                                   name(options.task)));
}

OrderedJson optimizer_of(const TuneOptions& options) {
  const OptimizerOptions& optimizer = options.optimizer;
  return {{"learning_rate", peak_learning_rate(options)},
          {"beta1", optimizer.beta1},
          {"beta2", optimizer.beta2},
          {"epsilon", optimizer.epsilon},
          {"weight_decay", optimizer.weight_decay},
          {"clip", optimizer.clip},
          {"warmup", optimizer.warmup},
          {"decay", name(optimizer.decay)}};
}

OrderedJson distil_of(const DistilOptions& distil, const TuneInputs& inputs) {
  return {{"teacher", distil.teacher},    {"teacher_sha256", inputs.teacher},
          {"hidden", distil.hidden},      {"embedding", distil.embedding},
          {"logits", distil.logits},      {"temperature", distil.temperature},
          {"attention", distil.attention}};
}

OrderedJson prune_of(const PruneTraining& prune) {
  const PruneOptions& units = prune.units;
  return {{"method", name(prune.method)},   {"unit", name(units.unit)},
          {"share", units.share},           {"tile", {units.tile_rows, units.tile_cols}},
          {"scope", name(units.scope)},     {"precompute_vo", name(units.precompute_vo)},
          {"matrices", prune.matrices},     {"layers", prune.layers},
          {"lambda", prune.lambda},         {"phase", prune.phase},
          {"milestones", prune.milestones}, {"cuts", prune.cuts}};
}

OrderedJson lora_of(const LoraOptions& lora) {
  return {{"rank", lora.rank},
          {"alpha", lora_alpha(lora)},
          {"dropout", lora.dropout},
          {"output", name(lora.output)}};
}

OrderedJson pass_of(const TuneOptions& options, const TuneInputs& inputs) {
  OrderedJson json = {{"pass", "tune"},
                      {"task", name(options.task)},
                      {"data", options.data},
                      {"data_sha256", inputs.data},
                      {"steps", options.steps},
                      {"batch", options.batch},
                      {"batch_tokens", options.batch_tokens},
                      {"max_tokens", options.max_tokens},
                      {"accumulate", options.accumulate},
                      {"optimizer", optimizer_of(options)},
                      {"dropout", options.dropout},
                      {"label_smoothing", options.label_smoothing},
                      {"train", options.train},
                      {"seed", options.seed}};
  if (options.from_scratch) json["from_scratch"] = true;
  if (options.new_head) json["new_head"] = true;
  if (options.task == TuneTask::kDistil) json["distil"] = distil_of(options.distil, inputs);
  if (options.prune) json["prune"] = prune_of(*options.prune);
  if (options.lora) json["lora"] = lora_of(*options.lora);
  if (!options.validate.empty()) {
    json["validate"] = options.validate;
    json["checkpoint_every"] = options.checkpoint_every;
    json["patience"] = options.patience;
  }
  if (options.task == TuneTask::kMaskedLm) json["masked_share"] = options.masked_share;
  return json;
}

// A model that is pruned on the way is best before.
Status check_validation(const TuneOptions& options) {
  if (options.validate.empty() && options.patience > 0)
    return invalid_input("expected data to validate with, to be patient about, found none");
  if (options.validate.empty() || !options.prune) return {};
  return invalid_input("expected a training without pruning to validate, found one that prunes");
}

Status check_lora(const TuneOptions& options) {
  if (!options.lora) return {};
  constexpr double kMostRank = 1 << 16;
  const double below_one = std::nextafter(1.0, 0.0);
  const Bounds all[] = {{"lora rank", static_cast<double>(options.lora->rank), 1, kMostRank},
                        {"lora alpha", options.lora->alpha, 0, kAny},
                        {"lora dropout", options.lora->dropout, 0, below_one}};
  for (const Bounds& bounds : all) TESSERA_RETURN_IF_ERROR(check_bounds(bounds));
  if (options.prune) {
    return unsupported(
        "lora: expected a training that prunes nothing, since low-rank updates leave the weights "
        "as "
        "they are, found one that prunes: prune first, then train updates");
  }
  for (const std::string& name : options.train) {
    if (name != "bias" && name != "norm" && name != "embedding") continue;
    return invalid_input(
        fmt::format("train: expected with lora matrices of layers or the head, found {}", name));
  }
  return {};
}

}  // namespace

double lora_alpha(const LoraOptions& lora) { return lora.alpha > 0 ? lora.alpha : 2 * lora.rank; }

Status check(const TuneOptions& options) {
  if (options.data.empty()) return invalid_input("expected a data file at least, found none");
  TESSERA_RETURN_IF_ERROR(check_head(options));
  TESSERA_RETURN_IF_ERROR(check_teacher(options));
  TESSERA_RETURN_IF_ERROR(check_validation(options));
  TESSERA_RETURN_IF_ERROR(check_lora(options));
  const OptimizerOptions& optimizer = options.optimizer;
  const DistilOptions& distil = options.distil;
  // What is below 1 may not be 1 itself.
  const double below_one = std::nextafter(1.0, 0.0), above_zero = std::nextafter(0.0, 1.0);
  const Bounds all[] = {
      {"steps", static_cast<double>(options.steps), 1, kAny},
      {"batch", static_cast<double>(options.batch), 0, kAny},
      {"batch tokens", static_cast<double>(options.batch_tokens), 1, kAny},
      {"max tokens", static_cast<double>(options.max_tokens), 0, kAny},
      {"accumulate", static_cast<double>(options.accumulate), 1, kAny},
      {"patience", static_cast<double>(options.patience), 0, kAny},
      {"checkpoint every", static_cast<double>(options.checkpoint_every), 1, kAny},
      {"threads", static_cast<double>(options.threads), 0, kAny},
      {"learning rate", optimizer.learning_rate, 0, kAny},
      {"beta1", optimizer.beta1, 0, below_one},
      {"beta2", optimizer.beta2, 0, below_one},
      {"epsilon", optimizer.epsilon, std::numeric_limits<float>::min(), kAny},
      {"weight decay", optimizer.weight_decay, 0, kAny},
      {"clip", optimizer.clip, 0, kAny},
      {"warmup", optimizer.warmup, 0, 1},
      {"dropout", options.dropout, 0, below_one},
      {"label smoothing", options.label_smoothing, 0, below_one},
      {"masked share", options.masked_share, above_zero, 1},
      {"hidden", distil.hidden, 0, kAny},
      {"embedding", distil.embedding, 0, kAny},
      {"logits", distil.logits, 0, kAny},
      {"temperature", distil.temperature, above_zero, kAny},
      {"attention", distil.attention, 0, kAny},
  };
  for (const Bounds& bounds : all) TESSERA_RETURN_IF_ERROR(check_bounds(bounds));
  return {};
}

Result<std::map<std::string, std::string>> hash_data(const TuneOptions& options) {
  std::map<std::string, std::string> hashes;
  for (const std::vector<std::string>& files : {options.data, options.validate}) {
    for (const std::string& file : files) {
      std::error_code ignored;
      if (std::filesystem::is_directory(file, ignored)) continue;
      TESSERA_ASSIGN_OR_RETURN(hashes[file], hash_file(file));
    }
  }
  return hashes;
}

std::string pass_text(const TuneOptions& options, const TuneInputs& inputs) {
  return pass_of(options, inputs).dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

std::string run_text(const TuneOptions& options, const TuneInputs& inputs) {
  const OrderedJson json = {{"version", version()},
                            {"training", pass_of(options, inputs)},
                            {"source", inputs.source},
                            {"settings", inputs.settings}};
  return json.dump(2, ' ', false, OrderedJson::error_handler_t::replace) + "\n";
}

}  // namespace tessera
