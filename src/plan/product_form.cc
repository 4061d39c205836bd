#include "plan/product_form.h"

#include <fmt/format.h>

#include "kernels/csr_matmul/csr_matmul.h"
#include "kernels/tile_int8_matmul/tile_int8_matmul.h"
#include "kernels/tile_matmul/tile_matmul.h"

namespace tessera {
namespace {

CostForm pruned_form(const PrunedProduct& product) {
  if (product.is_single_weights()) return CostForm::kSingleWeights;
  if (product.block.inputs == 1) return CostForm::kSingleInputs;
  return product.block.outputs == 16 ? CostForm::kTiles : CostForm::kNarrowTiles;
}

CostNumbers pruned_numbers(const PrunedProduct& product) {
  if (product.numbers == DType::kI8) return CostNumbers::kInt8;
  return product.numbers == DType::kF32 ? CostNumbers::kF32 : CostNumbers::kBF16;
}

CostNumbers dense_numbers(const PrunedProduct& product, const CostMachine& machine) {
  switch (product.precision) {
    case Precision::kInt8:
      return CostNumbers::kInt8;
    case Precision::kInt4:
      return CostNumbers::kInt4;
    case Precision::kW8:
      return CostNumbers::kW8;
    case Precision::kW4:
      return CostNumbers::kW4;
    case Precision::kBF16:
      return machine.gains_by_bf16_rows ? CostNumbers::kBF16Rows : CostNumbers::kBF16;
    default:
      return pruned_numbers(product);
  }
}

const char* family(const PrunedProduct& product) {
  if (product.is_single_weights()) return csr_matmul::kernels.name();
  return product.numbers == DType::kI8 ? tile_int8_matmul::kernels.name()
                                       : tile_matmul::kernels.name();
}

// What both forms are predicted to take; nothing where either is unknown.
struct Comparison {
  double ratio = 0;
  double margin = 0;  // by which the formula may be wrong
  std::string text;
};

std::optional<Comparison> compare(const PrunedProduct& p, int64_t rows,
                                  const CostMachine& machine) {
  const CostProduct pruned{pruned_form(p), pruned_numbers(p), rows,
                           p.inputs,       p.outputs,         p.multiplied};
  const CostProduct dense{CostForm::kDense, dense_numbers(p, machine), rows, p.inputs,
                          p.outputs,        p.inputs * p.outputs};
  const std::optional<Prediction> one = predict(pruned, machine), other = predict(dense, machine);
  if (!one || !other) return std::nullopt;
  return Comparison{
      one->ns / other->ns, one->deviation,
      fmt::format("with {:.0f}% of the values kept {} rows are predicted to take {:.0f} us, {:.2f} "
                  "of the {:.0f} us that dense ones take",
                  100 * static_cast<double>(p.multiplied) / static_cast<double>(dense.multiplied),
                  rows, one->ns * 1e-3, one->ns / other->ns, other->ns * 1e-3)};
}

}  // namespace

FormChoice choose_form(FormRule rule, const PrunedProduct& product, int64_t rows,
                       const CostMachine& machine) {
  FormChoice choice;
  choice.tiles = tile_costs(pruned_form(product), pruned_numbers(product), machine);
  const std::optional<Comparison> found = compare(product, rows, machine);
  const std::string text = found ? found->text : "no prediction, as no such product was measured";
  if (!forced_kernel(family(product)).empty()) {
    choice.why = "TESSERA_KERNEL names its kernel: " + text;
  } else if (rule == FormRule::kPruned) {
    choice.why = "forced by the plan: " + text;
  } else if (rule == FormRule::kDense) {
    choice.form = ProductForm::kDense;
    choice.why = "run dense, forced by the plan: " + text;
  } else if (found && found->ratio * (1 + found->margin) >= 1) {
    choice.form = ProductForm::kDense;
    choice.why = "run dense: " + text;
  } else {
    choice.why = text;
  }
  return choice;
}

}  // namespace tessera
