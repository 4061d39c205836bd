#include "pruning/schedule.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "io/json.h"
#include "io/json_at.h"

namespace tessera {
namespace {

constexpr int64_t kMostIds = 1024;
constexpr double kLeastShare = 1e-6, kLeastOfALayer = 0.05;

// A share up to 1, or a count from 2 on.
Result<Keep> keep_at(const JsonAt& at) {
  if (const auto count = at.integer(2, INT32_MAX); count.ok())
    return Keep{.count = static_cast<int32_t>(*count)};
  const Result<double> share = at.number(kLeastShare, 1);
  if (!share.ok()) return at.wrong("a share above 0 and up to 1, or a count from 2 on");
  return Keep{.share = *share};
}

bool grows(const Keep& before, const Keep& next) {
  if (next.count > 0) return before.count > 0 && next.count > before.count;
  return before.count == 0 && next.share > before.share;
}

Result<std::vector<Keep>> keeps_at(const JsonAt& at, int32_t layers) {
  if (!at.is_list()) {
    const Result<double> average = at.number(kLeastShare, 1);
    if (!average.ok()) return at.wrong("an average share above 0 and up to 1, or a list of shares");
    const Result<std::vector<Keep>> keeps = average_keep(*average, layers);
    if (!keeps.ok()) return at.failure(StatusCode::kInvalidInput, keeps.status().message());
    return *keeps;
  }
  TESSERA_ASSIGN_OR_RETURN(const std::vector<JsonAt> list, at.list(0, SIZE_MAX));
  if (list.size() != static_cast<size_t>(layers)) {
    return at.failure(
        StatusCode::kInvalidInput,
        fmt::format("expected a share for each of the {} layers, found {}", layers, list.size()));
  }
  std::vector<Keep> keeps;
  for (const JsonAt& entry : list) {
    TESSERA_ASSIGN_OR_RETURN(const Keep keep, keep_at(entry));
    if (!keeps.empty() && grows(keeps.back(), keep))
      return entry.wrong("no more than the layer before keeps, as what left does not return");
    keeps.push_back(keep);
  }
  return keeps;
}

template <Named Enum>
Status read_word(const JsonAt& object, const char* key, Enum& target) {
  const std::optional<JsonAt> at = object.find(key);
  if (!at) return {};
  TESSERA_ASSIGN_OR_RETURN(target, at->one_of<Enum>());
  return {};
}

Status read_protected(const JsonAt& at, const ScheduledModel& model, PruningSchedule& schedule) {
  TESSERA_RETURN_IF_ERROR(at.known({"first", "last", "ids"}));
  TESSERA_ASSIGN_OR_RETURN(const int64_t first, at.integer_or("first", 0, 0, model.positions));
  TESSERA_ASSIGN_OR_RETURN(const int64_t last, at.integer_or("last", 0, 0, model.positions));
  schedule.protect_first = static_cast<int32_t>(first);
  schedule.protect_last = static_cast<int32_t>(last);
  const std::optional<JsonAt> ids = at.find("ids");
  if (!ids) return {};
  TESSERA_ASSIGN_OR_RETURN(const std::vector<JsonAt> list, ids->list(0, kMostIds));
  for (const JsonAt& entry : list) {
    TESSERA_ASSIGN_OR_RETURN(const int64_t id, entry.integer(0, model.vocabulary - 1));
    schedule.protect_ids.push_back(static_cast<int32_t>(id));
  }
  return {};
}

Result<PruningSchedule> schedule_at(const JsonAt& root, const ScheduledModel& model) {
  TESSERA_RETURN_IF_ERROR(
      root.known({"tokens", "base", "minimum", "decay", "scale", "pooling", "protect"}));
  PruningSchedule schedule;
  TESSERA_ASSIGN_OR_RETURN(const JsonAt tokens, root.need("tokens"));
  TESSERA_ASSIGN_OR_RETURN(schedule.tokens, keeps_at(tokens, model.layers));
  TESSERA_RETURN_IF_ERROR(read_word(root, "base", schedule.base));
  TESSERA_RETURN_IF_ERROR(read_word(root, "scale", schedule.scale));
  TESSERA_RETURN_IF_ERROR(read_word(root, "pooling", schedule.pooling));
  TESSERA_ASSIGN_OR_RETURN(const int64_t minimum, root.integer_or("minimum", 1, 1, INT32_MAX));
  schedule.minimum = static_cast<int32_t>(minimum);
  TESSERA_ASSIGN_OR_RETURN(schedule.decay, root.number_or("decay", 1, kLeastShare, 1));
  if (const std::optional<JsonAt> at = root.find("protect"))
    TESSERA_RETURN_IF_ERROR(read_protected(*at, model, schedule));
  return schedule;
}

}  // namespace

bool PruningSchedule::keeps_all() const {
  return std::all_of(tokens.begin(), tokens.end(),
                     [](const Keep& each) { return each.keeps_all(); });
}

Result<PruningSchedule> parse_schedule(std::string_view text, const ScheduledModel& model,
                                       const std::string& source) {
  TESSERA_ASSIGN_OR_RETURN(const Json json, parse_json(text, source));
  return schedule_at(JsonAt(json, source), model);
}

std::string to_json(const PruningSchedule& schedule) {
  std::string tokens;
  for (const Keep& keep : schedule.tokens) {
    if (!tokens.empty()) tokens += ", ";
    tokens += keep.count > 0 ? fmt::format("{}", keep.count) : fmt::format("{}", keep.share);
  }
  return fmt::format(
      R"({{"tokens": [{}], "base": "{}", "minimum": {}, "decay": {}, "scale": "{}", "pooling": "{}", )"
      R"("protect": {{"first": {}, "last": {}, "ids": [{}]}}}})",
      tokens, name(schedule.base), schedule.minimum, schedule.decay, name(schedule.scale),
      name(schedule.pooling), schedule.protect_first, schedule.protect_last,
      fmt::join(schedule.protect_ids, ", "));
}

Result<std::vector<Keep>> average_keep(double average, int32_t layers) {
  const double full = std::round(0.15 * layers);
  const double others = layers - full;
  const double mean = (average * layers - full) / others;
  if (mean < kLeastOfALayer) {
    return invalid_input(fmt::format(
        "expected an average share of at least {:.2f} for {} layers, found {}",
        std::ceil(100 * (full + kLeastOfALayer * others) / layers) / 100, layers, average));
  }
  const double swing = std::min({0.35, 1 - mean, mean - kLeastOfALayer});
  std::vector<Keep> keeps(static_cast<size_t>(full));
  for (int32_t i = 0; i < static_cast<int32_t>(others); ++i) {
    const double place = others > 1 ? 1 - 2 * i / (others - 1) : 0;
    keeps.push_back({.share = std::min(mean + place * swing, 1.0)});
  }
  return keeps;
}

std::vector<int32_t> tokens_kept(const PruningSchedule& schedule, const ScheduledModel& model,
                                 int32_t tokens, int32_t protected_tokens) {
  // A share like 0.29 of 100 is not a whole number in binary.
  constexpr double kSlack = 1e-9;
  const double base = schedule.base == CountBase::kPositions ? model.positions : tokens;
  const int32_t least = std::max(schedule.minimum, protected_tokens);
  std::vector<int32_t> kept;
  for (const Keep& keep : schedule.tokens) {
    const auto share = static_cast<int32_t>(std::floor(keep.share * base + kSlack));
    const int32_t wanted = std::max(keep.count > 0 ? keep.count : share, least);
    kept.push_back(std::min(wanted, kept.empty() ? tokens : kept.back()));
  }
  return kept;
}

}  // namespace tessera
