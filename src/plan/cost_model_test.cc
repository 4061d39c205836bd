#include "plan/cost_model.h"

#include <gtest/gtest.h>

#include "kernels/testing.h"
#include "plan/product_form.h"

namespace tessera {
namespace {

constexpr int64_t kInputs = 768, kOutputs = 3072;

CostMachine machine(Isa isa) {
  return {.isa = isa, .threads = 2, .gains_by_bf16_rows = isa >= Isa::kAvx512Bf16};
}

struct Case {
  const char* what;
  Isa isa;
  PrunedProduct product;
  ProductForm form;
};

PrunedProduct tiles(double kept, DType numbers, Precision precision, int32_t block_outputs = 16) {
  return {.inputs = kInputs,
          .outputs = kOutputs,
          .multiplied = static_cast<int64_t>(kept * kInputs * kOutputs),
          .block = {block_outputs, 16},
          .numbers = numbers,
          .precision = precision};
}

PrunedProduct single_weights(double kept, DType numbers, Precision precision) {
  PrunedProduct product = tiles(kept, numbers, precision);
  product.block = {1, 1};
  return product;
}

FormChoice choose(const PrunedProduct& product, Isa isa, FormRule rule = FormRule::kAuto) {
  return choose_form(rule, product, 128, machine(isa));
}

double time_of(const CostProduct& product, const CostMachine& on) {
  return predict(product, on).value_or(Prediction{}).ns;
}

// What was measured of products of 128 rows, well away from where both forms take alike.
TEST(CostModel, ChoosesWhatWasMeasuredToBeFaster) {
  const auto pruned = ProductForm::kPruned, dense = ProductForm::kDense;
  const DType f32 = DType::kF32, bf16 = DType::kBF16, i8 = DType::kI8;
  const Case cases[] = {
      {"f32 tiles", Isa::kAvx512, tiles(0.5, f32, Precision::kF32), pruned},
      {"f32 tiles", Isa::kAvx512, tiles(0.8, f32, Precision::kF32), pruned},
      {"f32 tiles", Isa::kAvx512, tiles(1.0, f32, Precision::kF32), dense},
      {"narrow f32 tiles", Isa::kAvx512, tiles(0.5, f32, Precision::kF32, 8), pruned},
      {"narrow f32 tiles", Isa::kAvx512, tiles(0.95, f32, Precision::kF32, 8), dense},
      {"f32 tiles", Isa::kAmx, tiles(0.5, f32, Precision::kF32), pruned},
      {"bf16 tiles", Isa::kAvx512, tiles(0.5, bf16, Precision::kBF16), pruned},
      {"bf16 tiles", Isa::kAmx, tiles(0.5, bf16, Precision::kStored), pruned},
      {"bf16 tiles beside bf16 rows", Isa::kAvx512Bf16, tiles(0.7, bf16, Precision::kBF16), dense},
      {"bf16 tiles beside bf16 rows", Isa::kAvx512Bf16, tiles(0.2, bf16, Precision::kBF16), pruned},
      {"bf16 tiles beside AMX", Isa::kAmx, tiles(0.5, bf16, Precision::kBF16), dense},
      {"bf16 tiles beside AMX", Isa::kAmx, tiles(0.1, bf16, Precision::kBF16), pruned},
      {"int8 tiles", Isa::kAvx512Vnni, tiles(0.5, i8, Precision::kInt8), pruned},
      {"int8 tiles", Isa::kAvx512Vnni, tiles(1.0, i8, Precision::kInt8), dense},
      {"int8 tiles beside AMX", Isa::kAmx, tiles(0.6, i8, Precision::kStored), dense},
      {"int8 tiles beside AMX", Isa::kAmx, tiles(0.2, i8, Precision::kStored), pruned},
      {"single weights", Isa::kAvx512, single_weights(0.1, f32, Precision::kF32), pruned},
      {"single weights", Isa::kAvx512, single_weights(0.5, f32, Precision::kF32), dense},
      {"single weights beside AMX", Isa::kAmx, single_weights(0.1, bf16, Precision::kBF16), dense},
      {"single weights beside int8", Isa::kAvx512Vnni, single_weights(0.1, f32, Precision::kInt8),
       dense},
  };
  for (const Case& each : cases) {
    const FormChoice choice = choose(each.product, each.isa);
    EXPECT_EQ(choice.form, each.form)
        << each.what << " on " << name(each.isa) << ": " << choice.why;
  }
}

TEST(CostModel, TimesGrowWithTheWorkAndFallWithTheThreads) {
  const CostProduct product{CostForm::kTiles, CostNumbers::kF32, 128,
                            kInputs,          kOutputs,          kInputs * kOutputs / 2};
  const double alone = time_of(product, {.isa = Isa::kAvx512});
  CostProduct more = product;
  more.rows *= 2;
  EXPECT_GT(time_of(more, {.isa = Isa::kAvx512}), 1.9 * alone);
  more = product;
  more.multiplied *= 2;
  EXPECT_GT(time_of(more, {.isa = Isa::kAvx512}), 1.5 * alone);
  EXPECT_LT(time_of(product, {.isa = Isa::kAvx512, .threads = 2}), 0.6 * alone);
  EXPECT_LT(time_of(product, {.isa = Isa::kAvx512, .speed = 2}), 0.6 * alone);
  EXPECT_LT(alone, time_of(product, {.isa = Isa::kAvx2}));
}

// One row waits for memory, which gives what a table says; more rows than a small L2 holds read the
// weights again.
TEST(CostModel, FewRowsTakeWhatTheyRead) {
  CostProduct row{CostForm::kDense, CostNumbers::kF32, 1, 3072, 3072, 3072 * 3072};
  const CostMachine slow{.isa = Isa::kAvx512, .read_gb_per_s = 2};
  EXPECT_DOUBLE_EQ(time_of(row, slow), 3072 * 3072 * 4 / 2.0);
  row.rows = 96;
  CostMachine small = slow;
  small.l2_bytes = int64_t{256} << 10;
  small.read_gb_per_s = 0.01;
  CostMachine large = small;
  large.l2_bytes = int64_t{4} << 20;
  EXPECT_DOUBLE_EQ(time_of(row, small), 2 * time_of(row, large));
}

TEST(CostModel, AMachineTableCorrectsIt) {
  MachineTable table;
  table.speeds = {{.threads = 2, .f32_gflops = 1e4, .read_gb_per_s = 77}};
  const CostMachine fast = cost_machine(2, 1 << 20, table);
  EXPECT_GT(fast.speed, 1);
  EXPECT_EQ(fast.read_gb_per_s, 77);
  EXPECT_EQ(fast.l2_bytes, 1 << 20);
  EXPECT_EQ(cost_machine(3, 1 << 20, table).speed, 1) << "measured with other threads";
  EXPECT_EQ(cost_machine(2, 1 << 20, std::nullopt).speed, 1);
}

TEST(CostModel, TilesAreSharedByTheSameCoefficients) {
  const CostMachine avx512 = machine(Isa::kAvx512);
  const TileCosts f32 = tile_costs(CostForm::kTiles, CostNumbers::kF32, avx512);
  const TileCosts bf16 = tile_costs(CostForm::kTiles, CostNumbers::kBF16, avx512);
  EXPECT_GT(f32.read, 1);
  EXPECT_LT(bf16.read, f32.read) << "half as many bytes";
  EXPECT_GE(f32.panel + f32.packed_line, 0);
  const TileCosts none = tile_costs(CostForm::kTiles, CostNumbers::kW4, avx512);
  EXPECT_EQ(none.read + none.panel + none.packed_line, 0);
}

// Every choice says the prediction, also one that is forced against it.
TEST(ProductForm, IsForcedEitherWayAndSaysWhy) {
  const PrunedProduct full = tiles(1.0, DType::kF32, Precision::kF32);
  const PrunedProduct few = tiles(0.1, DType::kF32, Precision::kF32);
  const auto expect = [](const FormChoice& choice, ProductForm form, const std::string& begin) {
    EXPECT_EQ(choice.form, form) << choice.why;
    EXPECT_EQ(choice.why.find(begin), 0u) << choice.why;
    EXPECT_NE(choice.why.find("128 rows are predicted to take "), std::string::npos) << choice.why;
  };
  expect(choose(full, Isa::kAvx512), ProductForm::kDense,
         "run dense: with 100% of the values kept");
  expect(choose(few, Isa::kAvx512), ProductForm::kPruned, "with 10% of the values kept");
  expect(choose(full, Isa::kAvx512, FormRule::kPruned), ProductForm::kPruned, "forced by the plan");
  expect(choose(few, Isa::kAvx512, FormRule::kDense), ProductForm::kDense,
         "run dense, forced by the plan");
  const testing::Forced forced("tile_matmul:ref");
  expect(choose(full, Isa::kAvx512), ProductForm::kPruned, "TESSERA_KERNEL names its kernel");
  expect(choose(single_weights(0.9, DType::kF32, Precision::kF32), Isa::kAvx512),
         ProductForm::kDense, "run dense: ");
}

}  // namespace
}  // namespace tessera
