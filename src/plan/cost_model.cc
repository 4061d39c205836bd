#include "plan/cost_model.h"

#include <algorithm>
#include <cmath>

#include "kernels/bf16_matmul/bf16_matmul.h"

namespace tessera {
namespace {

// Nanoseconds on one core of the machine that coefficients.inc names.
struct Coefficients {
  CostForm form;
  CostNumbers numbers;
  Isa isa;
  double multiply;   // a weight by a row
  double input;      // of a row
  double output;     // of a row
  double deviation;  // the largest of the fit from a measured product, relative
};

#define TESSERA_COST_MACHINE(cpu, f32_gflops, read_gb_per_s) \
  constexpr double kFitF32Gflops = f32_gflops, kFitReadGbPerS = read_gb_per_s;
#define TESSERA_COST(form, numbers, isa, multiply, input, output, deviation)
#include "plan/coefficients.inc"
#undef TESSERA_COST_MACHINE
#undef TESSERA_COST

constexpr Coefficients kCoefficients[] = {
#define TESSERA_COST_MACHINE(cpu, f32_gflops, read_gb_per_s)
#define TESSERA_COST(form, numbers, isa, multiply, input, output, deviation) \
  {CostForm::form, CostNumbers::numbers, Isa::isa, multiply, input, output, deviation},
#include "plan/coefficients.inc"
#undef TESSERA_COST_MACHINE
#undef TESSERA_COST
};

// A weight's read from beyond L2: 5 bytes a cycle at 3 GHz.
constexpr double kBeyondL2GbPerS = 15;

// References take the same decisions as the weakest kernels that were measured.
const Coefficients* find(CostForm form, CostNumbers numbers, Isa isa) {
  const Coefficients* best = nullptr;
  for (const Coefficients& each : kCoefficients) {
    if (each.form != form || each.numbers != numbers || each.isa > std::max(isa, Isa::kAvx2))
      continue;
    if (best == nullptr || each.isa > best->isa) best = &each;
  }
  return best;
}

// The bytes of a weight, with what says where it stands.
double weight_bytes(CostForm form, CostNumbers numbers) {
  const double index = form == CostForm::kSingleWeights ? 2 : 0;
  switch (numbers) {
    case CostNumbers::kF32:
      return index + 4;
    case CostNumbers::kBF16:
    case CostNumbers::kBF16Rows:
      return index + 2;
    case CostNumbers::kInt8:
    case CostNumbers::kW8:
      return index + 1;
    default:
      return index + 0.5;
  }
}

double passes(const CostProduct& product, const CostMachine& machine) {
  constexpr int64_t kLeastGroup = 48, kMostGroup = 192;
  const int64_t group = std::clamp(
      machine.l2_bytes / 2 / (4 * std::max<int64_t>(product.inputs, 1)), kLeastGroup, kMostGroup);
  return std::ceil(static_cast<double>(product.rows) / static_cast<double>(group));
}

}  // namespace

CostMachine cost_machine(int32_t threads, int64_t l2_bytes,
                         const std::optional<MachineTable>& table) {
  CostMachine machine{.isa = available_isas().back(),
                      .threads = std::max(threads, 1),
                      .l2_bytes = l2_bytes,
                      .gains_by_bf16_rows = bf16_matmul::refuse_cpu() == nullptr};
  const MachineSpeeds* speeds = table ? table->at(machine.threads) : nullptr;
  if (speeds == nullptr) return machine;
  if (speeds->f32_gflops > 0) machine.speed = speeds->f32_gflops / machine.threads / kFitF32Gflops;
  machine.read_gb_per_s = speeds->read_gb_per_s;
  return machine;
}

std::optional<Prediction> predict(const CostProduct& product, const CostMachine& machine) {
  const Coefficients* cost = find(product.form, product.numbers, machine.isa);
  if (cost == nullptr) return std::nullopt;
  const double work = static_cast<double>(product.rows) *
                      (static_cast<double>(product.multiplied) * cost->multiply +
                       static_cast<double>(product.inputs) * cost->input +
                       static_cast<double>(product.outputs) * cost->output);
  const double read =
      machine.read_gb_per_s > 0 ? machine.read_gb_per_s : kFitReadGbPerS * machine.threads;
  const double bytes = static_cast<double>(product.multiplied) *
                       weight_bytes(product.form, product.numbers) * passes(product, machine);
  return Prediction{std::max(work / (machine.threads * machine.speed), bytes / read),
                    cost->deviation};
}

TileCosts tile_costs(CostForm form, CostNumbers numbers, const CostMachine& machine) {
  const Coefficients* cost = find(form, numbers, machine.isa);
  if (cost == nullptr) return {};
  const double block = 256 * cost->multiply;
  return {.read = 256 * weight_bytes(form, numbers) / kBeyondL2GbPerS / block,
          .panel = 16 * cost->output / block,
          .packed_line = 16 * cost->input / block};
}

}  // namespace tessera
