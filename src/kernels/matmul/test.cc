#include <cmath>
#include <cstring>
#include <tuple>

#include "base/device.h"
#include "formats/panels.h"
#include "kernels/matmul/matmul.h"
#include "kernels/product_testing.h"

namespace tessera::matmul {
namespace {

using testing::kEpsilon;

constexpr int64_t kRowCounts[] = {0, 1, 2, 5, 6, 7, 12, 13, 31, 64, 65};
constexpr int64_t kInputCounts[] = {1, 15, 16, 17, 31, 33, 64, 100, 257};
constexpr int64_t kOutputCounts[] = {1, 16, 63, 64, 65, 128, 200};

// A product with everything its arguments point at. x ends exactly after the last input of the last
// row, so that a sanitizer sees a read beyond it.
struct Problem {
  Problem(int64_t rows, int64_t inputs, int64_t outputs, DType weight_type, uint32_t seed)
      : weights(testing::random_values(outputs * inputs, seed)),
        bias(testing::random_values(outputs, seed + 1)),
        y_stride(outputs + 3),
        residual(testing::random_values(rows * y_stride, seed + 2)) {
    const int64_t x_stride = inputs + 5;
    const int64_t used = rows == 0 ? 0 : (rows - 1) * x_stride + inputs;
    x = testing::random_values(used, seed + 3);
    const int64_t panels = panel_count(outputs);
    packed =
        host_device().allocate(static_cast<size_t>(panels * panel_elements(weight_type, inputs)) *
                               size_bytes(weight_type));
    const DenseStack stack = {{weights.data(), DType::kF32, outputs, inputs}};
    pack(stack, weight_type, packed.data(), {0, panels});
    args = {.x = x.data(),
            .x_stride = x_stride,
            .rows = rows,
            .inputs = inputs,
            .panels = packed.data(),
            .weight_type = weight_type,
            .outputs = outputs,
            .bias = bias.data(),
            .residual = residual.data(),
            .residual_stride = y_stride,
            .y_stride = y_stride};
  }

  int64_t outputs() const { return args.outputs; }
  int64_t units() const { return panel_count(args.outputs); }

  // The header's bound, and the activation's own bound with its slope of at most 1.13.
  float bound(int64_t m, int64_t n) const {
    double sum = std::abs(bias[n]);
    for (int64_t k = 0; k < args.inputs; ++k) {
      sum += std::abs(double{x[m * args.x_stride + k]} * weights[n * args.inputs + k]);
    }
    const double product = 1.13 * (static_cast<double>(args.inputs) / 2 + 8);
    return static_cast<float>((product + 8 + 2) * kEpsilon * (sum + 8));
  }

  std::vector<float> weights, bias;
  int64_t y_stride;
  std::vector<float> residual, x;
  Buffer packed;
  Args args;
};

TEST(Matmul, EveryRowAgreesWithRefAtEverySize) {
  uint32_t seed = 1;
  for (const DType type : {DType::kF32, DType::kBF16}) {
    for (const int64_t rows : kRowCounts) {
      for (const int64_t inputs : kInputCounts) {
        for (const int64_t outputs : kOutputCounts) {
          Problem problem(rows, inputs, outputs, type, ++seed);
          testing::vary_epilogue(problem.args, seed);
          SCOPED_TRACE(testing::product_trace(problem.args, seed));
          ASSERT_NO_FATAL_FAILURE(testing::check_rows(kernels, problem));
        }
      }
    }
  }
}

// What the second-level cache decides is how many rows are taken at a time, and no order of sums.
TEST(Matmul, ResultsDoNotDependOnTheCache) {
  constexpr uint32_t kSeed = 78;
  SCOPED_TRACE(testing::seed_trace(kSeed));
  for (const DType type : {DType::kF32, DType::kBF16}) {
    Problem problem(130, 1100, 65, type, kSeed);
    testing::for_each_fast_row(kernels, problem.args, [&](const KernelRow<Args>& row) {
      problem.args.l2_bytes = kUsualL2Bytes;
      const std::vector<float> usual = testing::run_whole(problem, row);
      for (const int64_t kilobytes : {256, 512, 1024, 4096}) {
        problem.args.l2_bytes = kilobytes << 10;
        EXPECT_TRUE(testing::same_bits(usual, testing::run_whole(problem, row)))
            << kilobytes << " KB";
      }
    });
  }
}

TEST(Matmul, PartsAtTheSameTime) {
  constexpr uint32_t kSeed = 77;
  SCOPED_TRACE(testing::seed_trace(kSeed));
  const Problem problem(48, 768, 512, DType::kF32, kSeed);
  const std::vector<float> expected = testing::run_whole(problem, kernels.rows().back());
  testing::for_each_fast_row(kernels, problem.args, [&](const KernelRow<Args>& row) {
    for (int repeat = 0; repeat < 10; ++repeat) {
      const std::vector<float> found = testing::run_halves_at_once(problem, row);
      ASSERT_NO_FATAL_FAILURE(testing::check_values(problem, expected, found));
    }
  });
}

TEST(Matmul, EveryEpilogue) {
  uint32_t seed = 1000;
  for (const DType type : {DType::kF32, DType::kBF16}) {
    for (int choice = 0; choice < testing::kEpilogues; ++choice) {
      Problem problem(13, 100, 200, type, ++seed);
      testing::choose_epilogue(problem.args, choice);
      SCOPED_TRACE(testing::product_trace(problem.args, seed));
      ASSERT_NO_FATAL_FAILURE(testing::check_rows(kernels, problem));
    }
  }
}

TEST(Matmul, ManyRowsAndInputs) {
  uint32_t seed = 2000;
  for (const DType type : {DType::kF32, DType::kBF16}) {
    for (const auto& [rows, inputs, outputs] :
         {std::tuple{97, 1030, 70}, {200, 300, 65}, {3, 3072, 130}, {1, 2049, 130}}) {
      const Problem problem(rows, inputs, outputs, type, ++seed);
      SCOPED_TRACE(testing::product_trace(problem.args, seed));
      ASSERT_NO_FATAL_FAILURE(testing::check_rows(kernels, problem));
    }
  }
}

TEST(Matmul, ResidualMayBeTheOutput) {
  for (const DType type : {DType::kF32, DType::kBF16}) {
    for (const int64_t rows : {1, 7, 65}) {
      const Problem problem(rows, 257, 200, type, 7);
      // oneDNN adds a residual in place by other means.
      testing::check_residual_as_output(kernels, problem, testing::Agreement::kRounded);
    }
  }
}

TEST(Matmul, PartsGiveTheSameBitsAsTheWhole) {
  for (const DType type : {DType::kF32, DType::kBF16}) {
    for (const int64_t rows : {1, 2, 7, 65, 130}) {
      const Problem problem(rows, 257, 200, type, 11);
      testing::for_each_row(kernels, problem.args, [&](const KernelRow<Args>& row) {
        // oneDNN blocks the inputs by the size of the part, and so rounds differently.
        if (std::string(row.name) == "onednn") return;
        testing::check_parts(problem, row, {rows}, {{3, 4}, {0, 1}, {1, 3}, {2, 2}});
      });
    }
  }
}

// The panel as formats/panels.h states it, element by element.
float packed_value(const Buffer& packed, DType type, int64_t inputs, int64_t k, int64_t n) {
  const int64_t start = n / kPanelOutputs * panel_elements(type, inputs);
  if (type == DType::kF32) {
    return packed.as<float>()[start + k * kPanelOutputs + n % kPanelOutputs];
  }
  return bf16_to_f32(
      packed.as<uint16_t>()[start + k / 2 * kPanelOutputs * 2 + n % kPanelOutputs * 2 + k % 2]);
}

// The bytes of a matrix in `type`, one byte after an aligned address.
std::vector<char> unaligned_source(const std::vector<float>& values, DType type) {
  std::vector<char> bytes(1);
  for (const float value : values) {
    char one[4];
    if (type == DType::kF32) {
      std::memcpy(one, &value, 4);
    } else {
      const uint16_t bits = type == DType::kF16 ? f32_to_f16(value) : f32_to_bf16(value);
      std::memcpy(one, &bits, 2);
    }
    bytes.insert(bytes.end(), one, one + size_bytes(type));
  }
  return bytes;
}

void check_pack(DType source_type, DType type, int64_t inputs) {
  SCOPED_TRACE(std::string(name(source_type)) + " to " + std::string(name(type)) + ", inputs " +
               std::to_string(inputs));
  const int64_t outputs[] = {70, 3, 64, 1, 40};
  DenseStack stack;
  std::vector<std::vector<char>> sources;
  std::vector<std::vector<float>> values;
  for (int i = 0; i < 5; ++i) {
    values.push_back(testing::random_values(outputs[i] * inputs, 100 + i));
    sources.push_back(unaligned_source(values.back(), source_type));
    const bool by_input = i % 2 != 0;
    stack.push_back({sources.back().data() + 1, source_type, by_input ? inputs : outputs[i],
                     by_input ? outputs[i] : inputs,
                     by_input ? MatrixOrder::kInputRows : MatrixOrder::kOutputRows});
  }
  const int64_t total = 178, panels = panel_count(total);
  const size_t bytes =
      static_cast<size_t>(panels * panel_elements(type, inputs)) * size_bytes(type);
  const Buffer packed = host_device().allocate(bytes);
  std::memset(packed.data(), 0xff, bytes);
  pack(stack, type, packed.data(), {1, panels});
  pack(stack, type, packed.data(), {0, 1});
  int64_t part = 0, first = 0;
  for (int64_t n = 0; n < panels * kPanelOutputs; ++n) {
    while (part < 5 && n - first >= outputs[part]) first += outputs[part++];
    for (int64_t k = 0; k < panel_inputs(type, inputs); ++k) {
      float expected = 0;
      if (part < 5 && k < inputs) {
        const bool by_input = part % 2 != 0;
        expected =
            values[part][by_input ? k * outputs[part] + n - first : (n - first) * inputs + k];
        if (source_type == DType::kF16) expected = f16_to_f32(f32_to_f16(expected));
        if (source_type == DType::kBF16) expected = bf16_to_f32(f32_to_bf16(expected));
        if (type == DType::kBF16) expected = bf16_to_f32(f32_to_bf16(expected));
      }
      ASSERT_EQ(expected, packed_value(packed, type, inputs, k, n)) << "k " << k << " n " << n;
    }
  }
}

TEST(MatmulPack, StacksOfBothOrders) {
  for (const DType source : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (const DType type : {DType::kF32, DType::kBF16}) {
      for (const int64_t inputs : {1, 2, 15, 16, 33, 64, 65, 130}) check_pack(source, type, inputs);
    }
  }
}

TEST(MatmulPack, ConvertsEveryHalfExactly) {
  std::vector<uint16_t> every(65536);
  for (size_t i = 0; i < every.size(); ++i) every[i] = static_cast<uint16_t>(i);
  for (const DType source : {DType::kF16, DType::kBF16}) {
    const DenseStack stack = {{every.data(), source, 1024, 64}};
    const Buffer wide = host_device().allocate(65536 * 4),
                 narrow = host_device().allocate(65536 * 2);
    pack(stack, DType::kF32, wide.data(), {0, 16});
    pack(stack, DType::kBF16, narrow.data(), {0, 16});
    for (int64_t i = 0; i < 65536; ++i) {
      const float expected = source == DType::kF16 ? f16_to_f32(every[i]) : bf16_to_f32(every[i]);
      const float found = packed_value(wide, DType::kF32, 64, i % 64, i / 64);
      const float rounded = packed_value(narrow, DType::kBF16, 64, i % 64, i / 64);
      if (std::isnan(expected)) {
        ASSERT_TRUE(std::isnan(found) && std::isnan(rounded)) << i;
      } else {
        ASSERT_EQ(expected, found) << i;
        ASSERT_EQ(std::signbit(expected), std::signbit(found)) << i;
        ASSERT_EQ(bf16_to_f32(f32_to_bf16(expected)), rounded) << i;
      }
    }
  }
}

}  // namespace
}  // namespace tessera::matmul
