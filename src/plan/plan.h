#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "attention/method.h"
#include "base/dtype.h"
#include "base/status.h"
#include "formats/precision.h"
#include "plan/cost_model.h"
#include "plan/precompute_vo.h"
#include "plan/product_form.h"
#include "tessera/machine.h"

namespace tessera {

// The attention method for sequences of at most up_to_keys keys; rules stand in ascending order,
// the last is unlimited.
struct AttentionRule {
  int32_t up_to_keys = 0;  // 0: no limit
  const AttentionMethod* method = nullptr;
  std::string why;
};

// How a layer's rows are dealt over a team, but in attention. kOwn: each member takes its own
// through everything, so that they stay in its caches and nobody waits, but reads all weights.
// kShared: all members share every product and meet after it.
enum class Dealing { kOwn, kShared };

struct LayerPlan {
  Precision weights = Precision::kF32;
  std::vector<AttentionRule> attention;
  VoChoice vo;                      // kAuto until the weights are loaded
  FormRule form = FormRule::kAuto;  // of products of pruned weights
  // Members take rows of their own where each has so many: fewer would not pay for the weights.
  int32_t own_rows_from = 32;
  // Own rows go through the FFN in groups whose inner activations take about so many bytes, half a
  // core's second-level cache, between the products that write and read them.
  int64_t group_bytes = kUsualL2Bytes / 2;

  Dealing dealing(int64_t rows, int32_t members) const {
    return rows >= int64_t{own_rows_from} * members ? Dealing::kOwn : Dealing::kShared;
  }
};

// What will run where, as data: chosen once, printed, saved and forced.
struct Plan {
  int32_t threads = 1;
  Precision head_weights = Precision::kF32;
  std::string weights_why;
  DType cache = DType::kF32;      // of a decoder's keys and values: kF32, kBF16 or kI8
  int32_t expected_tokens = 128;  // of a sequence, for choices that depend on it
  CostMachine machine;            // that predictions are of
  std::vector<LayerPlan> layers;

  const AttentionMethod& attention(int32_t layer, int32_t keys) const;
};

struct PlanRequest {
  int32_t threads = 1;
  int32_t layers = 0;
  Precision weights = Precision::kF32;
  std::string weights_why;
  DType cache = DType::kF32;
  int32_t head_size = 64;
  VoMethod vo = VoMethod::kAuto;
  int32_t expected_tokens = 128;
  std::optional<MachineTable> machine;  // none: the crossovers in plan.cc
};

// The fastest exact choice by measured crossovers, of this machine where it has a table.
Plan choose_plan(const PlanRequest& request);

// What the plan decides of a layer's linear maps, and of a head's.
LinearChoices layer_choices(const Plan& plan, int32_t layer);
LinearChoices head_choices(const Plan& plan);

// A plan is JSON: {"version": 1, "threads": 2, "head_weights": "f32", "cache": "f32", "layers":
// [{"first": 0, "last": 5, "weights": "f32", "attention": [{"up_to_keys": 512, "method":
// "on_the_fly", "why": ...}, {"method": "flash", ...}], "precompute_vo": {"method": "two_step",
// "why": ...}}]}; equal neighbours are one entry, and every layer stands in exactly one. Methods of
// values: "auto" (so too where the key is missing), "two_step", "precomputed". Weights: "f32",
// "bf16", "int8", "int4", "w8", "w4", "stored" (formats/precision.h). The cache: "f32" (so too
// where the key is missing), "bf16", "int8". Products of pruned weights, as "pruned_weights" of a
// layer: "auto" (so too where the key is missing), "pruned", "dense". "dealing" of a
// layer: {"own_rows_from": 32, "group_bytes": 1048576, "why": ...}, and "l2_bytes" of a core beside
// "threads"; what is missing is as this machine would choose. Other keys are ignored. linear: of
// every layer, if any, a JSON object that stands with it; layers that have all alike are one entry.
std::string plan_to_json(const Plan& plan, const std::vector<std::string>& linear = {});
Result<Plan> plan_from_json(const std::string& json, const std::string& source, int32_t layers);

}  // namespace tessera
