#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "io/json.h"
#include "io/json_at.h"
#include "pruning/schedule.h"

namespace tessera {
namespace {

constexpr size_t kMostIds = 1024;
constexpr double kLeastShare = 1e-6;
// The threshold of the published runs of GPT-2 small.
constexpr double kUsualRefetch = 0.05;
// A threshold that grows with the keys is a multiple of their reciprocal.
constexpr double kMostRefetch = 1e6;

struct KeyBits {
  const char* name;
  int32_t upper, lower;
};
constexpr KeyBits kKeyBits[] = {{"8+4", 8, 4}, {"6+4", 6, 4}, {"8", 8, 0}, {"4", 4, 0}};

// Whether a layer may keep more than the one before.
enum class Growth { kNever, kFree };

// What the entry of a member may say.
struct KeepRule {
  Growth growth = Growth::kNever;
  int32_t heads = 0;  // above 0: heads are kept, of so many
};

// A share up to 1, or a count from 2 on.
Result<Keep> keep_at(const JsonAt& at, const KeepRule& rule) {
  Keep keep;
  if (const auto count = at.integer(2, INT32_MAX); count.ok()) {
    keep.count = static_cast<int32_t>(*count);
  } else {
    const Result<double> share = at.number(kLeastShare, 1);
    if (!share.ok()) return at.wrong("a share above 0 and up to 1, or a count from 2 on");
    keep.share = *share;
  }
  if (rule.heads == 0) return keep;
  if (keep.count > rule.heads)
    return at.wrong(fmt::format("at most the {} heads that the model has", rule.heads));
  // 1e-9: one over the number of heads, rounded, is one head.
  if (keep.count == 0 && keep.share * rule.heads + 1e-9 < 1)
    return at.wrong(fmt::format("a share that leaves one of the {} heads", rule.heads));
  return keep;
}

bool grows(const Keep& before, const Keep& next) {
  if (next.count > 0) return before.count > 0 && next.count > before.count;
  return before.count == 0 && next.share > before.share;
}

Result<std::vector<Keep>> keep_list(const JsonAt& at, const ScheduledModel& model,
                                    const KeepRule& rule) {
  TESSERA_ASSIGN_OR_RETURN(const std::vector<JsonAt> list, at.list(0, SIZE_MAX));
  if (list.size() != static_cast<size_t>(model.layers)) {
    return at.failure(StatusCode::kInvalidInput,
                      fmt::format("expected a share for each of the {} layers, found {}",
                                  model.layers, list.size()));
  }
  std::vector<Keep> keeps;
  for (const JsonAt& entry : list) {
    TESSERA_ASSIGN_OR_RETURN(const Keep keep, keep_at(entry, rule));
    if (rule.growth == Growth::kNever && !keeps.empty() && grows(keeps.back(), keep))
      return entry.wrong("no more than the layer before keeps, as what left does not return");
    keeps.push_back(keep);
  }
  return keeps;
}

Result<std::vector<Keep>> averaged(const JsonAt& at, int32_t layers, double whole_layers) {
  TESSERA_ASSIGN_OR_RETURN(const double average, at.number(kLeastShare, 1));
  Result<std::vector<Keep>> keeps = average_keep(average, layers, whole_layers);
  if (!keeps.ok()) return at.failure(StatusCode::kInvalidInput, keeps.status().message());
  return keeps;
}

Result<std::vector<Keep>> shares_at(const JsonAt& at, const ScheduledModel& model) {
  if (at.is_list()) return keep_list(at, model, {});
  if (!at.number(kLeastShare, 1).ok()) {
    return at.wrong(
        "an average share above 0 and up to 1, a number of tokens from 2 on, or a list of shares");
  }
  return averaged(at, model.layers, kWholeLayersOfTokens);
}

// Sums alone keep the oldest tokens, which were seen most often, and every new one would leave at
// once: half of a budget is the newest tokens, unless the schedule says how many.
void bound(int32_t budget, const ScheduledModel& model, PruningSchedule& schedule) {
  schedule.tokens.assign(static_cast<size_t>(model.layers), {.count = budget});
  schedule.protect_newest = std::min(budget / 2, model.positions);
}

Status read_tokens(const JsonAt& at, const ScheduledModel& model, PruningSchedule& schedule) {
  if (const auto budget = at.integer(2, INT32_MAX); budget.ok()) {
    bound(static_cast<int32_t>(*budget), model, schedule);
    return {};
  }
  TESSERA_ASSIGN_OR_RETURN(schedule.tokens, shares_at(at, model));
  return {};
}

Result<std::vector<Keep>> heads_at(const JsonAt& at, const ScheduledModel& model) {
  if (model.query_heads == 0) {
    return at.failure(StatusCode::kUnsupported,
                      "expected a model whose layers have equally many heads, found one whose "
                      "layers differ");
  }
  const KeepRule rule = {.heads = model.query_heads};
  if (at.is_list()) return keep_list(at, model, rule);
  if (!at.number(kLeastShare, 1).ok())
    return at.wrong("an average share above 0 and up to 1, or a list of shares");
  TESSERA_ASSIGN_OR_RETURN(std::vector<Keep> keeps,
                           averaged(at, model.layers, kWholeLayersOfHeads));
  for (Keep& keep : keeps) keep.share = std::max(keep.share, 1.0 / model.query_heads);
  return keeps;
}

Status read_values(const JsonAt& at, const ScheduledModel& model, PruningSchedule& schedule) {
  const KeepRule rule = {.growth = Growth::kFree};
  if (at.is_list()) {
    TESSERA_ASSIGN_OR_RETURN(schedule.values, keep_list(at, model, rule));
    return {};
  }
  if (at.value().as<Json::Object>() != nullptr) {
    TESSERA_RETURN_IF_ERROR(at.known({"threshold"}));
    TESSERA_ASSIGN_OR_RETURN(const JsonAt threshold, at.need("threshold"));
    TESSERA_ASSIGN_OR_RETURN(schedule.value_threshold, threshold.number(kLeastShare, 1));
    return {};
  }
  const Result<Keep> keep = keep_at(at, rule);
  if (!keep.ok()) {
    return at.wrong(
        "a share above 0 and up to 1, a count from 2 on, a list of them, or {\"threshold\": T}");
  }
  schedule.values.assign(static_cast<size_t>(model.layers), *keep);
  return {};
}

Status read_key_bits(const JsonAt& at, KeyPlanes& planes) {
  const int64_t* number = at.value().as<int64_t>();
  const std::string* text = at.value().as<std::string>();
  const std::string name = number != nullptr ? fmt::format("{}", *number)
                           : text != nullptr ? *text
                                             : "";
  for (const KeyBits& bits : kKeyBits) {
    if (name != bits.name) continue;
    planes.upper_bits = bits.upper;
    planes.lower_bits = bits.lower;
    return {};
  }
  return at.wrong("\"8+4\", \"6+4\", \"8\" or \"4\"");
}

Status read_refetch(const JsonAt& at, KeyPlanes& planes) {
  if (planes.lower_bits == 0) {
    return at.failure(StatusCode::kInvalidInput,
                      "expected key_bits of two planes, as \"8+4\", beside it, found none");
  }
  TESSERA_RETURN_IF_ERROR(at.known({"below", "scale"}));
  TESSERA_ASSIGN_OR_RETURN(planes.refetch_below,
                           at.number_or("below", kUsualRefetch, 0, kMostRefetch));
  if (const auto scale = at.find("scale")) {
    TESSERA_ASSIGN_OR_RETURN(planes.refetch_scale, scale->one_of<RefetchScale>());
  }
  return {};
}

Status read_planes(const JsonAt& root, KeyPlanes& planes) {
  if (const auto at = root.find("key_bits")) {
    TESSERA_RETURN_IF_ERROR(read_key_bits(*at, planes));
    if (planes.lower_bits > 0) planes.refetch_below = kUsualRefetch;
  }
  if (const auto at = root.find("value_bits")) {
    if (planes.empty()) {
      return at->failure(StatusCode::kInvalidInput, "expected key_bits beside it, found none");
    }
    const int64_t* bits = at->value().as<int64_t>();
    if (bits == nullptr || (*bits != 4 && *bits != 6 && *bits != 8)) return at->wrong("4, 6 or 8");
    planes.value_bits = static_cast<int32_t>(*bits);
  }
  if (const auto at = root.find("refetch")) return read_refetch(*at, planes);
  return {};
}

template <Named Enum>
Status read_word(const JsonAt& object, const char* key, Enum& target) {
  const std::optional<JsonAt> at = object.find(key);
  if (!at) return {};
  TESSERA_ASSIGN_OR_RETURN(target, at->one_of<Enum>());
  return {};
}

Status read_count(const JsonAt& object, const char* key, int32_t most, int32_t& target) {
  TESSERA_ASSIGN_OR_RETURN(const int64_t count, object.integer_or(key, target, 0, most));
  target = static_cast<int32_t>(count);
  return {};
}

Result<int32_t> id_at(const JsonAt& at, const ScheduledModel& model) {
  const std::string* text = at.value().as<std::string>();
  if (text == nullptr) {
    TESSERA_ASSIGN_OR_RETURN(const int64_t id, at.integer(0, model.vocabulary - 1));
    return static_cast<int32_t>(id);
  }
  std::string names;
  for (const NamedId& named : model.named_ids) {
    if (*text == "@" + named.name) return named.id;
    names += fmt::format("{}\"@{}\"", names.empty() ? "" : ", ", named.name);
  }
  return at.wrong(names.empty() ? "a token's id, as the model's files name no special tokens"
                                : fmt::format("a token's id or one of {}", names));
}

Status read_protected(const JsonAt& at, const ScheduledModel& model, PruningSchedule& schedule) {
  TESSERA_RETURN_IF_ERROR(at.known({"first", "last", "newest", "ids"}));
  TESSERA_RETURN_IF_ERROR(read_count(at, "first", model.positions, schedule.protect_first));
  TESSERA_RETURN_IF_ERROR(read_count(at, "last", model.positions, schedule.protect_last));
  TESSERA_RETURN_IF_ERROR(read_count(at, "newest", model.positions, schedule.protect_newest));
  const std::optional<JsonAt> ids = at.find("ids");
  if (!ids) return {};
  TESSERA_ASSIGN_OR_RETURN(const std::vector<JsonAt> list, ids->list(0, kMostIds));
  for (const JsonAt& entry : list) {
    TESSERA_ASSIGN_OR_RETURN(const int32_t id, id_at(entry, model));
    schedule.protect_ids.push_back(id);
  }
  return {};
}

// Nothing would read less than all of an encoder's keys and values.
Status check_generates(const JsonAt& at, const ScheduledModel& model) {
  if (model.generates) return {};
  return at.failure(StatusCode::kUnsupported,
                    "expected a decoder, as it is what generated tokens read, found an encoder");
}

Result<PruningSchedule> schedule_at(const JsonAt& root, const ScheduledModel& model) {
  TESSERA_RETURN_IF_ERROR(
      root.known({"tokens", "heads", "values", "key_bits", "value_bits", "refetch", "prefill",
                  "base", "minimum", "decay", "scale", "pooling", "protect"}));
  PruningSchedule schedule;
  if (const auto at = root.find("tokens"))
    TESSERA_RETURN_IF_ERROR(read_tokens(*at, model, schedule));
  if (const auto at = root.find("heads")) {
    TESSERA_ASSIGN_OR_RETURN(schedule.heads, heads_at(*at, model));
  }
  if (const auto at = root.find("values")) {
    TESSERA_RETURN_IF_ERROR(read_values(*at, model, schedule));
    if (!schedule.keeps_all_values()) TESSERA_RETURN_IF_ERROR(check_generates(*at, model));
  }
  TESSERA_RETURN_IF_ERROR(read_planes(root, schedule.planes));
  if (const auto at = root.find("key_bits")) TESSERA_RETURN_IF_ERROR(check_generates(*at, model));
  TESSERA_RETURN_IF_ERROR(read_word(root, "prefill", schedule.prefill));
  TESSERA_RETURN_IF_ERROR(read_word(root, "base", schedule.base));
  TESSERA_RETURN_IF_ERROR(read_word(root, "scale", schedule.scale));
  TESSERA_RETURN_IF_ERROR(read_word(root, "pooling", schedule.pooling));
  TESSERA_ASSIGN_OR_RETURN(const int64_t minimum, root.integer_or("minimum", 1, 1, INT32_MAX));
  schedule.minimum = static_cast<int32_t>(minimum);
  TESSERA_ASSIGN_OR_RETURN(schedule.decay, root.number_or("decay", 1, kLeastShare, 1));
  if (const auto at = root.find("protect"))
    TESSERA_RETURN_IF_ERROR(read_protected(*at, model, schedule));
  return schedule;
}

// The members of an object, those that say something.
class Members {
 public:
  void add(const char* key, const std::string& json) {
    text_ += fmt::format("{}\"{}\": {}", text_.empty() ? "" : ", ", key, json);
  }
  template <typename T>
  void add_unless(const T& usual, const char* key, const T& value) {
    if (value == usual) return;
    if constexpr (Named<T>) {
      add(key, fmt::format("\"{}\"", name(value)));
    } else {
      add(key, fmt::format("{}", value));
    }
  }
  void add_keeps(const char* key, const std::vector<Keep>& keeps) {
    if (keeps.empty()) return;
    std::string list;
    for (const Keep& keep : keeps) {
      if (!list.empty()) list += ", ";
      list += keep.count > 0 ? fmt::format("{}", keep.count) : fmt::format("{}", keep.share);
    }
    add(key, "[" + list + "]");
  }
  bool empty() const { return text_.empty(); }
  std::string object() const { return "{" + text_ + "}"; }

 private:
  std::string text_;
};

void add_planes(const KeyPlanes& planes, Members& members) {
  if (planes.empty()) return;
  const std::string lower = planes.lower_bits > 0 ? fmt::format("+{}", planes.lower_bits) : "";
  members.add("key_bits", fmt::format("\"{}{}\"", planes.upper_bits, lower));
  members.add_unless(KeyPlanes().value_bits, "value_bits", planes.value_bits);
  if (planes.lower_bits == 0) return;
  Members refetch;
  refetch.add("below", fmt::format("{}", planes.refetch_below));
  refetch.add_unless(RefetchScale::kNone, "scale", planes.refetch_scale);
  members.add("refetch", refetch.object());
}

}  // namespace

Result<PruningSchedule> parse_schedule(std::string_view text, const ScheduledModel& model,
                                       const std::string& source) {
  TESSERA_ASSIGN_OR_RETURN(const Json json, parse_json(text, source));
  return schedule_at(JsonAt(json, source), model);
}

std::string to_json(const PruningSchedule& schedule) {
  const PruningSchedule usual;
  Members members;
  members.add_keeps("tokens", schedule.tokens);
  members.add_keeps("heads", schedule.heads);
  members.add_keeps("values", schedule.values);
  if (schedule.value_threshold > 0)
    members.add("values", fmt::format("{{\"threshold\": {}}}", schedule.value_threshold));
  add_planes(schedule.planes, members);
  members.add_unless(usual.prefill, "prefill", schedule.prefill);
  members.add_unless(usual.base, "base", schedule.base);
  members.add_unless(usual.minimum, "minimum", schedule.minimum);
  members.add_unless(usual.decay, "decay", schedule.decay);
  members.add_unless(usual.scale, "scale", schedule.scale);
  members.add_unless(usual.pooling, "pooling", schedule.pooling);
  Members kept;
  kept.add_unless(usual.protect_first, "first", schedule.protect_first);
  kept.add_unless(usual.protect_last, "last", schedule.protect_last);
  kept.add_unless(usual.protect_newest, "newest", schedule.protect_newest);
  if (!schedule.protect_ids.empty())
    kept.add("ids", fmt::format("[{}]", fmt::join(schedule.protect_ids, ", ")));
  if (!kept.empty()) members.add("protect", kept.object());
  return members.object();
}

}  // namespace tessera
