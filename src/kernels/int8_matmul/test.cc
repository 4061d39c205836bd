#include <cmath>
#include <random>
#include <tuple>

#include "base/device.h"
#include "formats/panels.h"
#include "kernels/int8_matmul/int8_matmul.h"
#include "kernels/product_testing.h"

namespace tessera::int8_matmul {
namespace {

using testing::kEpsilon;
using testing::kNaN;

constexpr int64_t kRowCounts[] = {0, 1, 2, 5, 6, 7, 13, 16, 17, 31, 32, 33, 65};
constexpr int64_t kInputCounts[] = {1, 3, 4, 15, 17, 63, 64, 65, 100, 257};
constexpr int64_t kOutputCounts[] = {1, 16, 63, 64, 65, 200};

struct Extents {
  int64_t rows, inputs, outputs;
};

// Whether integers are drawn at random, or all have their largest magnitudes.
enum class Draw { kRandom, kExtreme };

// A product with everything its arguments point at.
struct Problem {
  Problem(const Extents& extents, uint32_t seed, Draw draw = Draw::kRandom)
      : layout(u8_rows_layout(extents.rows, extents.inputs)),
        x(host_device().allocate(static_cast<size_t>(layout.bytes) + 64)),
        bias(testing::random_values(padded(extents.outputs), seed + 1, 20.0f)),
        y_stride(extents.outputs + 3),
        residual(testing::random_values(extents.rows * y_stride, seed + 2)) {
    std::mt19937 generator(seed);
    draw_rows(extents, draw, generator);
    draw_weights(extents, draw, generator);
    const int64_t panels = panel_count(extents.outputs);
    values = host_device().allocate(static_cast<size_t>(panels * panel_bytes(extents.inputs)));
    scales = host_device().allocate(static_cast<size_t>(padded(extents.outputs)) * 4);
    sums = host_device().allocate(static_cast<size_t>(padded(extents.outputs)) * 4);
    pack({weights}, {values.as<int8_t>(), scales.as<float>(), sums.as<int32_t>()}, {0, panels});
    args = {.x = rows_in(x.data(), layout),
            .rows = extents.rows,
            .inputs = extents.inputs,
            .panels = values.as<int8_t>(),
            .outputs = extents.outputs,
            .scales = scales.as<float>(),
            .sums = sums.as<int32_t>(),
            .bias = bias.data(),
            .residual = residual.data(),
            .residual_stride = y_stride,
            .y_stride = y_stride};
  }

  static int64_t padded(int64_t outputs) { return panel_count(outputs) * kPanelOutputs; }

  void draw_rows(const Extents& extents, Draw draw, std::mt19937& generator) {
    auto* bytes = x.as<uint8_t>();
    auto* row_scales = reinterpret_cast<float*>(bytes + layout.scales);
    auto* zeros = reinterpret_cast<int32_t*>(bytes + layout.zeros);
    for (int64_t m = 0; m < extents.rows; ++m) {
      const bool extreme = draw == Draw::kExtreme;
      zeros[m] = extreme ? (m % 2 == 0 ? 0 : 255) : static_cast<int32_t>(generator() % 256);
      row_scales[m] = 0.01f + static_cast<float>(generator() % 1000) / 1000;
      uint8_t* row = bytes + m * layout.stride;
      // What lies behind the inputs is finite, whatever it is.
      for (int64_t k = 0; k < layout.stride; ++k) row[k] = static_cast<uint8_t>(generator());
      for (int64_t k = 0; k < extents.inputs && extreme; ++k)
        row[k] = static_cast<uint8_t>(255 - zeros[m]);
    }
  }

  void draw_weights(const Extents& extents, Draw draw, std::mt19937& generator) {
    integers.resize(static_cast<size_t>(extents.outputs * extents.inputs));
    for (int8_t& one : integers) one = static_cast<int8_t>(int(generator() % 255) - 127);
    for (size_t i = 0; i < integers.size() && draw == Draw::kExtreme; ++i)
      integers[i] =
          static_cast<int8_t>(i / static_cast<size_t>(extents.inputs) % 2 == 0 ? 127 : -127);
    weight_scales = testing::random_values(extents.outputs, 5);
    weights = {.values = integers.data(),
               .rows = extents.outputs,
               .cols = extents.inputs,
               .scales = weight_scales.data()};
  }

  int64_t outputs() const { return args.outputs; }
  int64_t units() const { return panel_count(args.outputs); }

  // The header's bound before f for the reference's value, and the activation's own with its slope
  // of at most 1.13 and the rounding of the residual.
  float bound(int64_t m, int64_t n) const {
    int64_t sum = 0;
    for (int64_t k = 0; k < args.inputs; ++k) {
      sum += (args.x.values[m * layout.stride + k] - args.x.zeros[m]) *
             int64_t{integers[static_cast<size_t>(n * args.inputs + k)]};
    }
    const float value = std::abs(args.x.scales[m] * weight_scales[n] * static_cast<float>(sum));
    return (1.13f * 2.5f + 8 + 2) * kEpsilon * (value + std::abs(bias[n]) + 8);
  }

  U8RowsLayout layout;
  Buffer x;
  std::vector<float> bias;
  int64_t y_stride;
  std::vector<float> residual;
  std::vector<int8_t> integers;
  std::vector<float> weight_scales;
  QuantizedMatrix weights;
  Buffer values, scales, sums;
  Args args;
};

TEST(Int8Matmul, EveryRowAgreesWithRefAtEverySize) {
  uint32_t seed = 1;
  for (const int64_t rows : kRowCounts) {
    for (const int64_t inputs : kInputCounts) {
      for (const int64_t outputs : kOutputCounts) {
        Problem problem({rows, inputs, outputs}, ++seed);
        testing::vary_epilogue(problem.args, seed);
        SCOPED_TRACE(testing::product_trace(problem.args, seed));
        ASSERT_NO_FATAL_FAILURE(testing::check_rows(kernels, problem));
      }
    }
  }
}

TEST(Int8Matmul, EveryEpilogue) {
  uint32_t seed = 1000;
  for (int choice = 0; choice < testing::kEpilogues; ++choice) {
    Problem problem({13, 100, 200}, ++seed);
    testing::choose_epilogue(problem.args, choice);
    SCOPED_TRACE(testing::product_trace(problem.args, seed));
    ASSERT_NO_FATAL_FAILURE(testing::check_rows(kernels, problem));
  }
}

TEST(Int8Matmul, ManyRowsAndInputs) {
  uint32_t seed = 2000;
  for (const auto& [rows, inputs, outputs] :
       {std::tuple{97, 1030, 70}, {300, 700, 65}, {3, 3072, 130}, {1, 2049, 130}, {40, 4100, 64}}) {
    const Problem problem({rows, inputs, outputs}, ++seed);
    SCOPED_TRACE(testing::product_trace(problem.args, seed));
    ASSERT_NO_FATAL_FAILURE(testing::check_rows(kernels, problem));
  }
}

// Neither pairs of products nor whole sums saturate or overflow.
TEST(Int8Matmul, LargestIntegersAndMostInputs) {
  for (const int64_t inputs : {int64_t{64}, int64_t{1000}, kMaxInputs}) {
    Problem problem({7, inputs, 5}, 3, Draw::kExtreme);
    problem.args.bias = problem.args.residual = nullptr;
    SCOPED_TRACE(testing::product_trace(problem.args, 3));
    ASSERT_NO_FATAL_FAILURE(testing::check_rows(kernels, problem));
  }
}

TEST(Int8Matmul, RowsThatAreNotFiniteStayAlone) {
  const Problem problem({9, 100, 70}, 4);
  const_cast<float*>(problem.args.x.scales)[4] = kNaN;
  testing::for_each_row(kernels, problem.args, [&](const KernelRow<Args>& row) {
    const std::vector<float> y = testing::run_whole(problem, row);
    for (int64_t m = 0; m < 9; ++m) {
      for (int64_t n = 0; n < 70; ++n)
        ASSERT_EQ(std::isnan(y[static_cast<size_t>(m * problem.y_stride + n)]), m == 4);
    }
  });
}

TEST(Int8Matmul, ResidualMayBeTheOutput) {
  for (const int64_t rows : {1, 7, 65})
    testing::check_residual_as_output(kernels, Problem({rows, 257, 200}, 7));
}

// Whatever panels and rows a call has, an element is the same.
TEST(Int8Matmul, PartsGiveTheSameBitsAsTheWhole) {
  for (const int64_t rows : {1, 2, 7, 33, 65, 130}) {
    const Problem problem({rows, 257, 200}, 11);
    testing::for_each_row(kernels, problem.args, [&](const KernelRow<Args>& row) {
      testing::check_parts(problem, row, {rows / 3, rows - rows / 3},
                           {{3, 4}, {0, 1}, {1, 3}, {2, 2}});
    });
  }
}

TEST(Int8MatmulPack, StacksAndPadding) {
  for (const int64_t inputs : {1, 4, 63, 64, 65, 130}) {
    const Problem one({0, inputs, 70}, 21), two({0, inputs, 3}, 22), three({0, inputs, 64}, 23);
    const Problem* parts[] = {&one, &two, &three};
    const int64_t panels = panel_count(137);
    std::vector<int8_t> values(static_cast<size_t>(panels * panel_bytes(inputs)), 1);
    std::vector<float> scales(static_cast<size_t>(panels * kPanelOutputs), 1.0f);
    std::vector<int32_t> sums(scales.size(), 1);
    const Packed packed{values.data(), scales.data(), sums.data()};
    const std::vector<QuantizedMatrix> stack = {one.weights, two.weights, three.weights};
    pack(stack, packed, {1, panels});
    pack(stack, packed, {0, 1});
    for (int64_t n = 0; n < panels * kPanelOutputs; ++n) {
      SCOPED_TRACE("output " + std::to_string(n) + ", inputs " + std::to_string(inputs));
      const int part = n < 70 ? 0 : n < 73 ? 1 : n < 137 ? 2 : 3;
      const int64_t output = n - (part == 0 ? 0 : part == 1 ? 70 : 73);
      int32_t sum = 0;
      for (int64_t k = 0; k < u8_padded_inputs(inputs); ++k) {
        const int64_t at = ((k / 4) * kPanelOutputs + n % kPanelOutputs) * 4 + k % 4;
        const int8_t found =
            values[static_cast<size_t>(n / kPanelOutputs * panel_bytes(inputs) + at)];
        const bool inside = part < 3 && k < inputs;
        ASSERT_EQ(found, inside ? parts[part]->weights.integer(output, k) : 0) << "input " << k;
        sum += found;
      }
      ASSERT_EQ(sums[static_cast<size_t>(n)], sum);
      ASSERT_EQ(scales[static_cast<size_t>(n)],
                part < 3 ? parts[part]->weights.scale(output, 0) : 0);
    }
  }
}

}  // namespace
}  // namespace tessera::int8_matmul
