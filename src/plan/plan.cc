#include "plan/plan.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "io/json.h"

namespace tessera {
namespace {

using nlohmann::json;

constexpr int kVersion = 1;

// Up to here a block's score rows stay in L2 and one softmax pass beats the rescaling of an online
// one by up to 5%; from 2048 keys on flash is ahead, by 8% at 4096 and 37% at 8192
// (attention_bench, head size 64, one core).
constexpr int32_t kOnTheFlyKeys = 1024;

const AttentionMethod* method(std::string_view name) { return find_attention_method(name); }

constexpr std::pair<std::string_view, VoMethod> kVoMethods[] = {
    {"auto", VoMethod::kAuto},
    {"two_step", VoMethod::kTwoStep},
    {"precomputed", VoMethod::kPrecomputed}};

constexpr std::pair<std::string_view, FormRule> kForms[] = {
    {"auto", FormRule::kAuto}, {"pruned", FormRule::kPruned}, {"dense", FormRule::kDense}};

std::string_view name(FormRule rule) {
  for (const auto& [text, each] : kForms) {
    if (each == rule) return text;
  }
  return "";
}

std::string_view name(VoMethod method) {
  for (const auto& [text, each] : kVoMethods) {
    if (each == method) return text;
  }
  return "";
}

constexpr std::pair<std::string_view, DType> kCaches[] = {
    {"f32", DType::kF32}, {"bf16", DType::kBF16}, {"int8", DType::kI8}};

std::string_view cache_name(DType dtype) {
  for (const auto& [text, each] : kCaches) {
    if (each == dtype) return text;
  }
  return "";
}

json to_json(const std::vector<AttentionRule>& rules) {
  json list = json::array();
  for (const AttentionRule& rule : rules) {
    json entry = {{"method", rule.method->name()}, {"why", rule.why}};
    if (rule.up_to_keys > 0) entry["up_to_keys"] = rule.up_to_keys;
    list.push_back(std::move(entry));
  }
  return list;
}

json dealing_json(const LayerPlan& layer, int64_t l2_bytes) {
  return {{"own_rows_from", layer.own_rows_from},
          {"group_bytes", layer.group_bytes},
          {"why", layer.group_bytes == l2_bytes / 2
                      ? fmt::format("groups take half of {} KiB of second-level cache, the weights "
                                    "that stream by the other",
                                    l2_bytes >> 10)
                      : "forced by the plan"}};
}

Result<int32_t> integer_from(const Json& object, const char* key, int32_t least, int32_t most) {
  const Json* value = object.find(key);
  const int64_t* integer = value == nullptr ? nullptr : value->as<int64_t>();
  if (integer != nullptr && *integer >= least && *integer <= most)
    return static_cast<int32_t>(*integer);
  return invalid_input(fmt::format("{}: expected an integer from {} to {}, found {}", key, least,
                                   most, value == nullptr ? "nothing" : shortened(*value)));
}

Result<Precision> weights_from(const Json& object, const char* key) {
  const Json* value = object.find(key);
  if (value == nullptr) return Precision::kF32;
  const std::string* text = value->as<std::string>();
  const std::optional<Precision> found = text == nullptr ? std::nullopt : parse_precision(*text);
  if (found.has_value()) return *found;
  return invalid_input(fmt::format("{}: expected stored, f32, bf16, int8, int4, w8 or w4, found {}",
                                   key, shortened(*value)));
}

Result<DType> cache_from(const Json& root) {
  const Json* value = root.find("cache");
  if (value == nullptr) return DType::kF32;
  const std::string* found = value->as<std::string>();
  for (const auto& [text, dtype] : kCaches) {
    if (found != nullptr && *found == text) return dtype;
  }
  return invalid_input(
      fmt::format("cache: expected f32, bf16 or int8, found {}", shortened(*value)));
}

Result<const Json::Array*> list_from(const Json& object, const char* key) {
  const Json* value = object.find(key);
  const Json::Array* list = value == nullptr ? nullptr : value->as<Json::Array>();
  if (list != nullptr && !list->empty()) return list;
  return invalid_input(fmt::format("{}: expected a list, found {}", key,
                                   value == nullptr ? "nothing" : shortened(*value)));
}

Result<const AttentionMethod*> method_from(const Json& entry) {
  const Json* value = entry.find("method");
  const std::string* name = value == nullptr ? nullptr : value->as<std::string>();
  if (name != nullptr && method(*name) != nullptr) return method(*name);
  std::string known;
  for (const AttentionMethod* each : attention_methods()) {
    known += fmt::format("{}{}", known.empty() ? "" : ", ", each->name());
  }
  return invalid_input(fmt::format("attention: expected a method of {}, found {}", known,
                                   value == nullptr ? "nothing" : shortened(*value)));
}

Result<std::vector<AttentionRule>> rules_from(const Json& layer) {
  TESSERA_ASSIGN_OR_RETURN(const Json::Array* list, list_from(layer, "attention"));
  std::vector<AttentionRule> rules;
  int32_t least = 1;
  for (const Json& entry : *list) {
    AttentionRule rule{.why = "forced by the plan"};
    TESSERA_ASSIGN_OR_RETURN(rule.method, method_from(entry));
    const bool last = rules.size() + 1 == list->size();
    if (last && entry.find("up_to_keys") != nullptr) {
      return invalid_input("attention: expected the last rule without up_to_keys");
    }
    if (!last) {
      TESSERA_ASSIGN_OR_RETURN(rule.up_to_keys,
                               integer_from(entry, "up_to_keys", least, INT32_MAX - 1));
      least = rule.up_to_keys + 1;
    }
    rules.push_back(std::move(rule));
  }
  return rules;
}

Result<VoChoice> vo_from(const Json& layer) {
  const Json* entry = layer.find("precompute_vo");
  if (entry == nullptr) return VoChoice{};
  const Json* value = entry->find("method");
  const std::string* found = value == nullptr ? nullptr : value->as<std::string>();
  for (const auto& [text, method] : kVoMethods) {
    if (found == nullptr || *found != text) continue;
    return method == VoMethod::kAuto ? VoChoice{} : VoChoice{method, "forced by the plan"};
  }
  return invalid_input(
      fmt::format("precompute_vo: expected a method of auto, two_step, precomputed, found {}",
                  shortened(value == nullptr ? *entry : *value)));
}

Result<FormRule> form_from(const Json& layer) {
  const Json* value = layer.find("pruned_weights");
  if (value == nullptr) return FormRule::kAuto;
  const std::string* found = value->as<std::string>();
  for (const auto& [text, rule] : kForms) {
    if (found != nullptr && *found == text) return rule;
  }
  return invalid_input(
      fmt::format("pruned_weights: expected auto, pruned or dense, found {}", shortened(*value)));
}

Status dealing_from(const Json& entry, LayerPlan& layer) {
  const Json* dealing = entry.find("dealing");
  if (dealing == nullptr) return {};
  if (dealing->find("own_rows_from") != nullptr) {
    TESSERA_ASSIGN_OR_RETURN(layer.own_rows_from,
                             integer_from(*dealing, "own_rows_from", 1, INT32_MAX));
  }
  if (dealing->find("group_bytes") != nullptr) {
    TESSERA_ASSIGN_OR_RETURN(layer.group_bytes,
                             integer_from(*dealing, "group_bytes", 1, INT32_MAX));
  }
  return {};
}

Status add_layers(const Json& entry, int32_t layers, Plan& plan) {
  TESSERA_ASSIGN_OR_RETURN(const int32_t first, integer_from(entry, "first", 0, layers - 1));
  TESSERA_ASSIGN_OR_RETURN(const int32_t last, integer_from(entry, "last", first, layers - 1));
  if (first != static_cast<int32_t>(plan.layers.size())) {
    return invalid_input(fmt::format("layers: expected an entry that starts at layer {}, found {}",
                                     plan.layers.size(), first));
  }
  LayerPlan layer;
  layer.group_bytes = plan.machine.l2_bytes / 2;
  TESSERA_ASSIGN_OR_RETURN(layer.weights, weights_from(entry, "weights"));
  TESSERA_ASSIGN_OR_RETURN(layer.attention, rules_from(entry));
  TESSERA_ASSIGN_OR_RETURN(layer.vo, vo_from(entry));
  TESSERA_ASSIGN_OR_RETURN(layer.form, form_from(entry));
  TESSERA_RETURN_IF_ERROR(dealing_from(entry, layer));
  plan.layers.insert(plan.layers.end(), static_cast<size_t>(last - first + 1), layer);
  return {};
}

Result<Plan> read_plan(const Json& root, int32_t layers) {
  Plan plan;
  TESSERA_ASSIGN_OR_RETURN(const int32_t version, integer_from(root, "version", 1, INT32_MAX));
  if (version != kVersion)
    return invalid_input(fmt::format("version: expected {}, found {}", kVersion, version));
  TESSERA_ASSIGN_OR_RETURN(plan.threads, integer_from(root, "threads", 1, 4096));
  TESSERA_ASSIGN_OR_RETURN(plan.head_weights, weights_from(root, "head_weights"));
  plan.weights_why = "forced by the plan";
  TESSERA_ASSIGN_OR_RETURN(plan.cache, cache_from(root));
  if (root.find("expected_tokens") != nullptr) {
    TESSERA_ASSIGN_OR_RETURN(plan.expected_tokens,
                             integer_from(root, "expected_tokens", 1, INT32_MAX));
  }
  int32_t cache = static_cast<int32_t>(l2_bytes());
  if (root.find("l2_bytes") != nullptr) {
    TESSERA_ASSIGN_OR_RETURN(cache, integer_from(root, "l2_bytes", 1 << 16, 1 << 30));
  }
  plan.machine = cost_machine(plan.threads, cache, std::nullopt);
  TESSERA_ASSIGN_OR_RETURN(const Json::Array* entries, list_from(root, "layers"));
  for (const Json& entry : *entries) TESSERA_RETURN_IF_ERROR(add_layers(entry, layers, plan));
  if (static_cast<int32_t>(plan.layers.size()) != layers) {
    return invalid_input(
        fmt::format("layers: expected {} layers, found {}", layers, plan.layers.size()));
  }
  return plan;
}

// The crossover of the next larger head size that was measured, else of the largest.
const AttentionCrossover* measured_crossover(const PlanRequest& request) {
  if (!request.machine || request.machine->crossovers.empty()) return nullptr;
  for (const AttentionCrossover& each : request.machine->crossovers) {
    if (each.head_size >= request.head_size) return &each;
  }
  return &request.machine->crossovers.back();
}

std::vector<AttentionRule> attention_rules(const PlanRequest& request) {
  const AttentionCrossover* measured = measured_crossover(request);
  const int32_t keys = measured != nullptr ? measured->on_the_fly_up_to_keys : kOnTheFlyKeys;
  const char* source = measured != nullptr ? "measured by tessera machine" : "the usual crossover";
  std::vector<AttentionRule> rules;
  if (keys > 0) {
    rules.push_back({keys, method("on_the_fly"),
                     fmt::format("the score rows of a block stay in L2 ({})", source)});
  }
  rules.push_back({0, method("flash"),
                   fmt::format("longer rows leave L2, so the softmax is online ({})", source)});
  return rules;
}

}  // namespace

const AttentionMethod& Plan::attention(int32_t layer, int32_t keys) const {
  const std::vector<AttentionRule>& rules = layers[static_cast<size_t>(layer)].attention;
  for (const AttentionRule& rule : rules) {
    if (rule.up_to_keys == 0 || keys <= rule.up_to_keys) return *rule.method;
  }
  return *rules.back().method;
}

namespace {

// A head's rows are few and its logits are compared with each other, so that it keeps 8 bits and
// its rows their floats.
Precision head_weights(Precision layers) { return is_quantized(layers) ? Precision::kW8 : layers; }

}  // namespace

Plan choose_plan(const PlanRequest& request) {
  const int64_t measured = request.machine ? request.machine->l2_bytes : 0;
  const int64_t cache = measured > 0 ? measured : l2_bytes();
  LayerPlan layer;
  layer.weights = request.weights;
  layer.group_bytes = cache / 2;
  layer.attention = attention_rules(request);
  layer.vo.method = request.vo;
  return {.threads = request.threads,
          .head_weights = head_weights(request.weights),
          .weights_why = request.weights_why,
          .cache = request.cache,
          .expected_tokens = request.expected_tokens,
          .machine = cost_machine(request.threads, cache, request.machine),
          .layers = std::vector<LayerPlan>(static_cast<size_t>(request.layers), layer)};
}

namespace {

LinearChoices choices(const Plan& plan, Precision precision, FormRule rule) {
  LinearChoices choices = precision;
  choices.form = [rule, rows = plan.expected_tokens,
                  machine = plan.machine](const PrunedProduct& product) {
    return choose_form(rule, product, rows, machine);
  };
  choices.l2_bytes = plan.machine.l2_bytes;
  return choices;
}

}  // namespace

LinearChoices layer_choices(const Plan& plan, int32_t layer) {
  const LayerPlan& choice = plan.layers[static_cast<size_t>(layer)];
  return choices(plan, choice.weights, choice.form);
}

LinearChoices head_choices(const Plan& plan) {
  return choices(plan, plan.head_weights, FormRule::kAuto);
}

std::string plan_to_json(const Plan& plan, const std::vector<std::string>& linear) {
  json layers = json::array(), before;
  for (size_t i = 0; i < plan.layers.size(); ++i) {
    const LayerPlan& layer = plan.layers[i];
    json entry = {{"weights", name(layer.weights)},
                  {"attention", to_json(layer.attention)},
                  {"pruned_weights", name(layer.form)},
                  {"dealing", dealing_json(layer, plan.machine.l2_bytes)},
                  {"precompute_vo", {{"method", name(layer.vo.method)}, {"why", layer.vo.why}}}};
    if (!linear.empty()) entry["linear"] = json::parse(linear[i]);
    if (entry != before) {
      before = entry;
      entry["first"] = i;
      layers.push_back(std::move(entry));
    }
    layers.back()["last"] = i;
  }
  return json{{"version", kVersion},
              {"threads", plan.threads},
              {"head_weights", name(plan.head_weights)},
              {"weights_why", plan.weights_why},
              {"cache", cache_name(plan.cache)},
              {"expected_tokens", plan.expected_tokens},
              {"l2_bytes", plan.machine.l2_bytes},
              {"layers", std::move(layers)}}
      .dump();
}

Result<Plan> plan_from_json(const std::string& text, const std::string& source, int32_t layers) {
  TESSERA_ASSIGN_OR_RETURN(const Json root, parse_json(text, source));
  // `tessera inspect --json` prints the plan inside a larger object.
  const Json* inner = root.find("plan");
  auto plan = read_plan(inner != nullptr ? *inner : root, layers);
  if (plan.ok()) return plan;
  return Status(plan.status().code(), fmt::format("{}: {}", source, plan.status().message()));
}

}  // namespace tessera
