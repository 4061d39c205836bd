#include "plan/plan.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

namespace tessera {
namespace {

using nlohmann::json;

constexpr int kVersion = 1;

// Up to here a block's score rows stay in L2 and one softmax pass beats the rescaling of an online
// one by up to 5%; from 2048 keys on flash is ahead, by 8% at 4096 and 37% at 8192
// (attention_bench, head size 64, one core).
constexpr int32_t kOnTheFlyKeys = 1024;

const AttentionMethod* method(std::string_view name) { return find_attention_method(name); }

std::string dtype_name(DType dtype) { return dtype == DType::kBF16 ? "bf16" : "f32"; }

json to_json(const std::vector<AttentionRule>& rules) {
  json list = json::array();
  for (const AttentionRule& rule : rules) {
    json entry = {{"method", rule.method->name()}, {"why", rule.why}};
    if (rule.up_to_keys > 0) entry["up_to_keys"] = rule.up_to_keys;
    list.push_back(std::move(entry));
  }
  return list;
}

// Thrown inside this file only.
struct BadPlan {
  std::string message;
};

DType weights_from(const json& value) {
  if (value == "f32") return DType::kF32;
  if (value == "bf16") return DType::kBF16;
  throw BadPlan{fmt::format("weights: expected \"f32\" or \"bf16\", found {}", value.dump())};
}

int32_t integer_from(const json& object, const char* key, int32_t least, int32_t most) {
  const json value = object.value(key, json());
  if (!value.is_number_integer() || value < least || value > most) {
    throw BadPlan{fmt::format("{}: expected an integer from {} to {}, found {}", key, least, most,
                              value.dump())};
  }
  return value;
}

std::vector<AttentionRule> rules_from(const json& list) {
  if (!list.is_array() || list.empty())
    throw BadPlan{"attention: expected a list of rules, found " + list.dump()};
  std::vector<AttentionRule> rules;
  for (const json& entry : list) {
    AttentionRule rule;
    const std::string name = entry.value("method", "");
    rule.method = method(name);
    if (rule.method == nullptr) {
      std::string known;
      for (const AttentionMethod* each : attention_methods()) {
        known += fmt::format("{}{}", known.empty() ? "" : ", ", each->name());
      }
      throw BadPlan{fmt::format("attention: expected a method of {}, found \"{}\"", known, name)};
    }
    const bool last = rules.size() + 1 == list.size();
    if (!last) rule.up_to_keys = integer_from(entry, "up_to_keys", 1, INT32_MAX);
    if (last && entry.contains("up_to_keys"))
      throw BadPlan{"attention: expected the last rule without up_to_keys"};
    rule.why = "forced by the plan";
    rules.push_back(std::move(rule));
  }
  return rules;
}

Plan parse(const json& root, int32_t layers) {
  Plan plan;
  if (const int32_t version = integer_from(root, "version", 1, INT32_MAX); version != kVersion) {
    throw BadPlan{fmt::format("version: expected {}, found {}", kVersion, version)};
  }
  plan.threads = integer_from(root, "threads", 1, 4096);
  plan.head_weights = weights_from(root.value("head_weights", json("f32")));
  plan.weights_why = "forced by the plan";
  for (const json& entry : root.at("layers")) {
    const int32_t first = integer_from(entry, "first", 0, layers - 1);
    const int32_t last = integer_from(entry, "last", first, layers - 1);
    if (first != static_cast<int32_t>(plan.layers.size())) {
      throw BadPlan{fmt::format("layers: expected an entry that starts at layer {}, found {}",
                                plan.layers.size(), first)};
    }
    const LayerPlan layer{weights_from(entry.value("weights", json("f32"))),
                          rules_from(entry.at("attention"))};
    plan.layers.insert(plan.layers.end(), static_cast<size_t>(last - first + 1), layer);
  }
  if (static_cast<int32_t>(plan.layers.size()) != layers) {
    throw BadPlan{fmt::format("layers: expected {} layers, found {}", layers, plan.layers.size())};
  }
  return plan;
}

}  // namespace

const AttentionMethod& Plan::attention(int32_t layer, int32_t keys) const {
  const std::vector<AttentionRule>& rules = layers[static_cast<size_t>(layer)].attention;
  for (const AttentionRule& rule : rules) {
    if (rule.up_to_keys == 0 || keys <= rule.up_to_keys) return *rule.method;
  }
  return *rules.back().method;
}

Plan choose_plan(const PlanRequest& request) {
  LayerPlan layer;
  layer.weights = request.weights;
  layer.attention = {
      {kOnTheFlyKeys, method("on_the_fly"), "the score rows of a block stay in L2"},
      {0, method("flash"), "longer rows leave L2, so the softmax is online"},
  };
  return {.threads = request.threads,
          .head_weights = request.weights,
          .weights_why = request.weights_why,
          .layers = std::vector<LayerPlan>(static_cast<size_t>(request.layers), layer)};
}

std::string plan_to_json(const Plan& plan) {
  json layers = json::array();
  for (size_t i = 0; i < plan.layers.size(); ++i) {
    json entry = {{"weights", dtype_name(plan.layers[i].weights)},
                  {"attention", to_json(plan.layers[i].attention)}};
    if (!layers.empty() && layers.back()["weights"] == entry["weights"] &&
        layers.back()["attention"] == entry["attention"]) {
      layers.back()["last"] = i;
      continue;
    }
    entry["first"] = i;
    entry["last"] = i;
    layers.push_back(std::move(entry));
  }
  return json{{"version", kVersion},
              {"threads", plan.threads},
              {"head_weights", dtype_name(plan.head_weights)},
              {"weights_why", plan.weights_why},
              {"layers", std::move(layers)}}
      .dump();
}

Result<Plan> plan_from_json(const std::string& text, const std::string& source, int32_t layers) {
  try {
    const json root = json::parse(text);
    // `tessera inspect --json` prints the plan inside a larger object.
    return parse(root.contains("plan") ? root["plan"] : root, layers);
  } catch (const BadPlan& bad) {
    return invalid_input(fmt::format("{}: {}", source, bad.message));
  } catch (const json::exception& error) {
    return invalid_input(
        fmt::format("{}: expected a plan in JSON, found: {}", source, error.what()));
  }
}

}  // namespace tessera
