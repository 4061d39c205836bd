#include "runtime/plan_choice.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "base/team.h"
#include "io/compressed.h"
#include "io/mapped_file.h"
#include "tessera/machine.h"

namespace tessera {
namespace {

DType largest_dtype(const Checkpoint& checkpoint) {
  DType dtype = DType::kF32;
  size_t largest = 0;
  for (const std::string& name : checkpoint.names()) {
    const auto tensor = checkpoint.tensor(name, {-1, -1});
    if (tensor.ok() && tensor->size_bytes > largest) {
      largest = tensor->size_bytes;
      dtype = tensor->dtype;
    }
  }
  return dtype;
}

// A table that is missing or of another CPU leaves the choice to the defaults.
std::optional<MachineTable> kept_machine_table() {
  const std::string path = machine_table_path();
  if (path.empty()) return std::nullopt;
  Result<MachineTable> table = read_machine_table(path);
  return table.ok() ? std::optional(std::move(table).value()) : std::nullopt;
}

VoMethod vo_method(PrecomputeVo option) {
  switch (option) {
    case PrecomputeVo::kOn:
      return VoMethod::kPrecomputed;
    case PrecomputeVo::kOff:
      return VoMethod::kTwoStep;
    default:
      return VoMethod::kAuto;
  }
}

constexpr std::pair<WeightType, Precision> kPrecisions[] = {
    {WeightType::kAuto, Precision::kStored}, {WeightType::kF32, Precision::kF32},
    {WeightType::kBF16, Precision::kBF16},   {WeightType::kInt8, Precision::kInt8},
    {WeightType::kInt4, Precision::kInt4},   {WeightType::kW8, Precision::kW8},
    {WeightType::kW4, Precision::kW4}};

Precision precision_of(WeightType type) {
  for (const auto& [each, precision] : kPrecisions) {
    if (each == type) return precision;
  }
  return Precision::kStored;
}

struct Cache {
  CacheType type;
  DType dtype;
};
constexpr Cache kCaches[] = {{CacheType::kF32, DType::kF32},
                             {CacheType::kBF16, DType::kBF16},
                             {CacheType::kInt8, DType::kI8}};

const Cache& cache_of(CacheType type) {
  return *std::find_if(std::begin(kCaches), std::end(kCaches),
                       [&](const Cache& each) { return each.type == type; });
}

const Cache& cache_of(DType dtype) {
  return *std::find_if(std::begin(kCaches), std::end(kCaches),
                       [&](const Cache& each) { return each.dtype == dtype; });
}

}  // namespace

CacheType cache_type_of(DType dtype) { return cache_of(dtype).type; }

Result<Plan> plan_for(const Checkpoint& checkpoint, const Architecture& architecture,
                      const LoadOptions& options) {
  const int threads =
      options.threads < 1 ? usable_cpus() : std::min(options.threads, usable_cpus());
  if (!options.plan_file.empty()) {
    if (options.weights != WeightType::kAuto) {
      return invalid_input(
          "expected a plan or a weight type, which the plan names too, found both");
    }
    if (options.precompute_vo != PrecomputeVo::kAuto) {
      return invalid_input(
          "expected a plan or whether to pre-compute V·O, which the plan names too, found both");
    }
    if (options.cache) {
      return invalid_input(
          "expected a plan or a type of cache, which the plan names too, found both");
    }
    TESSERA_ASSIGN_OR_RETURN(const std::string text, read_text_file(options.plan_file, 16 << 20));
    TESSERA_ASSIGN_OR_RETURN(Plan plan,
                             plan_from_json(text, options.plan_file, architecture.layer_count()));
    plan.threads = options.threads < 1 ? std::min(plan.threads, usable_cpus()) : threads;
    plan.machine = cost_machine(plan.threads, plan.machine.l2_bytes, kept_machine_table());
    return plan;
  }
  PlanRequest request{.threads = threads,
                      .layers = architecture.layer_count(),
                      .cache = cache_of(options.cache.value_or(CacheType::kF32)).dtype,
                      .head_size = architecture.layer(0).head_size,
                      .vo = vo_method(options.precompute_vo),
                      .expected_tokens = std::max(options.expected_tokens, 1),
                      .machine = kept_machine_table()};
  TESSERA_ASSIGN_OR_RETURN(const TensorFormats formats, TensorFormats::read(checkpoint.config()));
  const DType found = largest_dtype(checkpoint);
  request.weights = precision_of(options.weights);
  switch (options.weights) {
    case WeightType::kAuto:
      if (has_integers(checkpoint, formats)) {
        request.weights_why = "the checkpoint holds integers, which are kept as they are";
        break;
      }
      request.weights = found == DType::kBF16 ? Precision::kStored : Precision::kF32;
      request.weights_why =
          found == DType::kBF16  ? "the checkpoint holds bf16, which is kept and widened exactly"
          : found == DType::kF16 ? "the checkpoint holds f16, which f32 keeps exactly"
                                 : "the checkpoint holds f32";
      break;
    case WeightType::kF32:
      request.weights_why = "asked for";
      break;
    case WeightType::kBF16:
      request.weights_why = found == DType::kBF16
                                ? "asked for; rows are bf16 where that is faster"
                                : "asked for; rounded to nearest, rows where that is faster";
      break;
    default:
      request.weights_why = "asked for; what is not stored so is rounded to nearest";
      break;
  }
  return choose_plan(request);
}

}  // namespace tessera
