#include <algorithm>
#include <cmath>
#include <cstring>
#include <thread>
#include <tuple>

#include "base/device.h"
#include "kernels/group_matmul/group_matmul.h"
#include "kernels/product_testing.h"

namespace tessera::group_matmul {
namespace {

using testing::kEpsilon;

// A quantized matrix with its memory, scales of normal values in both types.
struct Quantized {
  Quantized(int64_t outputs, int64_t inputs, Precision precision, int32_t group, uint32_t seed,
            DType scale_type = DType::kF16) {
    std::mt19937 generator(seed);
    matrix = {.precision = precision,
              .rows = outputs,
              .cols = inputs,
              .group = group,
              .scale_type = scale_type};
    values.resize(static_cast<size_t>(outputs * matrix.row_bytes()));
    for (uint8_t& byte : values) byte = static_cast<uint8_t>(generator());
    if (bits(precision) == 8) std::replace(values.begin(), values.end(), 0x80, 0x81);
    for (int64_t o = 1; bits(precision) == 4 && inputs % 2 == 1 && o <= outputs; ++o)
      values[static_cast<size_t>(o * matrix.row_bytes() - 1)] &= 0xf;
    const std::vector<float> drawn =
        testing::random_values(outputs * matrix.groups(), seed + 1, 0.01f);
    scales.resize(drawn.size() * size_bytes(scale_type));
    for (size_t i = 0; i < drawn.size(); ++i) {
      const uint16_t half = f32_to_f16(drawn[i]);
      if (scale_type == DType::kF32) std::memcpy(scales.data() + 4 * i, &drawn[i], 4);
      if (scale_type == DType::kF16) std::memcpy(scales.data() + 2 * i, &half, 2);
    }
    matrix.values = values.data();
    matrix.scales = scales.data();
  }
  Quantized(const Quantized&) = delete;

  QuantizedMatrix matrix;
  std::vector<uint8_t> values;
  std::vector<char> scales;
};

constexpr RowForm kForms[] = {RowForm::k8, RowForm::k16, RowForm::k16Split};

struct Shape {
  int64_t rows, inputs, outputs;
  Precision precision = Precision::kW4;
  int32_t group = 32;
  DType scale_type = DType::kF16;
};

// A product with everything its arguments point at. The integers of rows are drawn, not rounded, so
// that all that can stand there does.
struct Problem {
  Problem(const Shape& shape, RowForm form, uint32_t seed)
      : weights(shape.outputs, shape.inputs, shape.precision, shape.group, seed, shape.scale_type),
        bias(testing::random_values(shape.outputs, seed + 2)),
        y_stride(shape.outputs + 3),
        residual(testing::random_values(shape.rows * y_stride, seed + 3)) {
    const Layout layout{.blocks = input_blocks(shape.inputs, shape.group),
                        .bits = bits(shape.precision),
                        .scale_type = shape.scale_type,
                        .outputs = shape.outputs};
    const int64_t panels = panel_count(layout);
    packed = host_device().allocate(static_cast<size_t>(panels * panel_bytes(layout)));
    pack({weights.matrix}, layout, packed.data(), {0, panels});
    draw_rows(layout.blocks, shape.rows, form, seed + 4);
    args = {.x = x,
            .rows = shape.rows,
            .weights = layout,
            .panels = packed.data(),
            .bias = bias.data(),
            .residual = residual.data(),
            .residual_stride = y_stride,
            .y_stride = y_stride};
  }

  void draw_rows(const InputBlocks& blocks, int64_t rows, RowForm form, uint32_t seed) {
    std::mt19937 generator(seed);
    const auto bytes = static_cast<size_t>(integer_rows_bytes(blocks, form, rows));
    row_memory = host_device().allocate(bytes);
    std::memset(row_memory.data(), 0, bytes);
    x = integer_rows(blocks, form, rows, row_memory.data());
    integers.assign(static_cast<size_t>(rows),
                    std::vector<int32_t>(static_cast<size_t>(blocks.steps * kStepInputs)));
    const int32_t most = tessera::most(form);
    for (int64_t m = 0; m < rows; ++m) {
      int64_t first = 0;
      for_each_block(blocks, [&](int64_t b, int64_t, int64_t count) {
        int32_t sum = 0;
        for (int64_t k = 0; k < count; ++k) {
          // Rows of nothing but the largest integers are the ones that could overflow.
          const int32_t drawn = static_cast<int32_t>(generator() % (2 * most + 1)) - most;
          const int32_t value = m % 3 == 0 ? drawn : m % 3 == 1 ? most : -most;
          set(m, first, k, value);
          sum += value;
        }
        first += (count + kStepInputs - 1) / kStepInputs * kStepInputs;
        x.scales[m * blocks.count + b] = static_cast<float>(1 + generator() % 64) / 64;
        x.sums[m * blocks.count + b] = sum;
      });
    }
  }
  void set(int64_t m, int64_t first, int64_t k, int32_t value) {
    char* row = static_cast<char*>(x.values) + m * x.row_bytes;
    const int64_t place = k % 4 == 1 ? k + 1 : k % 4 == 2 ? k - 1 : k;
    switch (x.form) {
      case RowForm::k8:
        row[first + k] = static_cast<char>(value);
        break;
      case RowForm::k16:
        reinterpret_cast<int16_t*>(row)[first + place] = static_cast<int16_t>(value);
        break;
      case RowForm::k16Split:
        row[first + k] = static_cast<char>(value);
        row[x.row_bytes / 2 + first + k] = static_cast<char>((value + 128) >> 8);
        break;
    }
    integers[static_cast<size_t>(m)][static_cast<size_t>(first + k)] = value;
  }
  int64_t integer(int64_t m, int64_t first, int64_t k) const {
    return integers[static_cast<size_t>(m)][static_cast<size_t>(first + k)];
  }

  // From the matrix as it was before it was packed; and what the header's bound is relative to.
  std::pair<double, double> sum_and_size(int64_t m, int64_t n) const {
    const InputBlocks& blocks = args.weights.blocks;
    double sum = 0, size = 0;
    int64_t first = 0;
    for_each_block(blocks, [&](int64_t b, int64_t begin, int64_t count) {
      int64_t integers = 0;
      for (int64_t k = 0; k < count; ++k)
        integers += integer(m, first, k) * weights.matrix.integer(n, begin + k);
      const double term = double{x.scales[m * blocks.count + b]} *
                          weights.matrix.scale(n, begin / blocks.group) *
                          static_cast<double>(integers);
      sum += term;
      size += std::abs(term);
      first += (count + kStepInputs - 1) / kStepInputs * kStepInputs;
    });
    return {sum, size};
  }

  int64_t outputs() const { return args.weights.outputs; }
  int64_t units() const { return panel_count(args.weights); }

  // The header's bound, and the activation's own bound with its slope of at most 1.13.
  double bound(int64_t m, int64_t n) const {
    const double blocks = static_cast<double>(args.weights.blocks.count);
    const double size = sum_and_size(m, n).second;
    const double before = (blocks / 2 + 2) * size + std::abs(bias[static_cast<size_t>(n)]);
    return (1.13 * before + 8 * (size + 8) + 2) * kEpsilon;
  }

  Quantized weights;
  std::vector<float> bias;
  int64_t y_stride;
  std::vector<float> residual;
  Buffer packed, row_memory;
  IntegerRows x;
  std::vector<std::vector<int32_t>> integers;  // of each row, padded to whole steps
  Args args;
};

std::string trace(const Shape& shape, RowForm form, uint32_t seed) {
  return std::to_string(shape.rows) + " x " + std::to_string(shape.inputs) + " -> " +
         std::to_string(shape.outputs) + ", " + std::string(name(shape.precision)) +
         " in groups of " + std::to_string(shape.group) + ", rows of form " +
         std::to_string(static_cast<int>(form)) + ", " + testing::seed_trace(seed);
}

TEST(GroupMatmul, RefIsTheProduct) {
  uint32_t seed = 1;
  for (const Precision precision : {Precision::kW4, Precision::kW8}) {
    for (const int32_t group : {0, 1, 7, 32, 200}) {
      for (const RowForm form : kForms) {
        for (const DType scales : {DType::kF16, DType::kF32}) {
          const Shape shape{4, 259, 70, precision, group, scales};
          SCOPED_TRACE(trace(shape, form, ++seed));
          const Problem problem(shape, form, seed);
          const std::vector<float> found = testing::run_whole(problem, kernels.rows().back());
          for (int64_t m = 0; m < shape.rows; ++m) {
            for (int64_t n = 0; n < shape.outputs; ++n) {
              const auto [sum, size] = problem.sum_and_size(m, n);
              const size_t at = static_cast<size_t>(m * problem.y_stride + n);
              const double expected =
                  sum + problem.bias[static_cast<size_t>(n)] + problem.residual[at];
              ASSERT_NEAR(expected, found[at], 2 * kEpsilon * (std::abs(expected) + size + 8));
            }
          }
        }
      }
    }
  }
}

TEST(GroupMatmul, EveryRowAgreesWithRefAtEverySize) {
  uint32_t seed = 100;
  for (const Precision precision : {Precision::kW4, Precision::kW8}) {
    for (const int64_t rows : {0, 1, 2, 3, 4, 5, 6, 7, 13, 130}) {
      for (const int64_t inputs : {1, 8, 9, 31, 64, 100, 257, 640}) {
        for (const int64_t outputs : {1, 16, 64, 65, 200}) {
          for (const RowForm form : kForms) {
            constexpr int32_t kGroups[] = {0, 16, 32, 64, 128, 5, 12, 150};
            const int32_t group = kGroups[++seed % 8];
            const Shape shape{rows,
                              inputs,
                              outputs,
                              precision,
                              group <= inputs ? group : 0,
                              seed % 5 == 0 ? DType::kF32 : DType::kF16};
            Problem problem(shape, form, seed);
            testing::vary_epilogue(problem.args, seed);
            SCOPED_TRACE(trace(shape, form, seed));
            ASSERT_NO_FATAL_FAILURE(testing::check_rows(kernels, problem));
          }
        }
      }
    }
  }
}

TEST(GroupMatmul, EveryGroupOfBothWidths) {
  uint32_t seed = 3000;
  for (const Precision precision : {Precision::kW4, Precision::kW8}) {
    for (const int32_t group : {0, 16, 32, 64, 128, 256, 1, 3, 8, 100, 129}) {
      for (const int64_t inputs : {1024, 1037}) {
        for (const int64_t rows : {1, 3, 13}) {
          for (const RowForm form : kForms) {
            const Shape shape{rows, inputs, 130, precision, group};
            SCOPED_TRACE(trace(shape, form, ++seed));
            const Problem problem(shape, form, seed);
            ASSERT_NO_FATAL_FAILURE(testing::check_rows(kernels, problem));
          }
        }
      }
    }
  }
}

TEST(GroupMatmul, ResidualMayBeTheOutputAndPartsGiveTheSameBits) {
  for (const auto& [precision, form] : {std::pair{Precision::kW4, RowForm::k16Split},
                                        {Precision::kW8, RowForm::k16},
                                        {Precision::kW8, RowForm::k16Split}}) {
    for (const int64_t rows : {1, 7, 65}) {
      const Problem problem({rows, 257, 200, precision}, form, 7);
      testing::for_each_row(kernels, problem.args, [&](const KernelRow<Args>& row) {
        const std::vector<float> apart = testing::run_whole(problem, row);
        std::vector<float> within = problem.residual;
        Args args = problem.args;
        args.y = within.data();
        args.residual = within.data();
        std::thread other([&] { row.run(args, {3, 4}); });
        testing::run_parts(problem, row, args, {{0, 1}, {1, 3}, {2, 2}});
        other.join();
        for (int64_t i = 0; i < rows * problem.y_stride; ++i) {
          const bool inside = i % problem.y_stride < problem.outputs();
          ASSERT_EQ(inside ? apart[i] : problem.residual[i], within[i]) << i;
        }
      });
    }
  }
}

void skip_rows(Args& args, int64_t rows) {
  const int64_t blocks = args.weights.blocks.count;
  args.x.values = static_cast<char*>(args.x.values) + rows * args.x.row_bytes;
  args.x.scales += rows * blocks;
  args.x.sums += rows * blocks;
  args.residual += rows * args.residual_stride;
}

// Nothing but the blocks decides in which order is summed.
TEST(GroupMatmul, ARowHasTheSameBitsAmongAnyNumberOfRows) {
  for (const Precision precision : {Precision::kW4, Precision::kW8}) {
    for (const RowForm form : kForms) {
      const Problem problem({200, 300, 130, precision}, form, 17);
      testing::for_each_fast_row(kernels, problem.args, [&](const KernelRow<Args>& row) {
        const std::vector<float> all = testing::run_whole(problem, row);
        for (const int64_t rows : {1, 2, 3, 4, 5, 6, 7, 50}) {
          const int64_t first = 200 - rows;
          Args args = problem.args;
          skip_rows(args, first);
          args.rows = rows;
          const std::vector<float> some = testing::run_whole(problem, row, args);
          for (int64_t m = 0; m < rows; ++m) {
            EXPECT_EQ(0, std::memcmp(all.data() + (first + m) * problem.y_stride,
                                     some.data() + m * problem.y_stride, 130 * sizeof(float)))
                << m << " of " << rows;
          }
        }
      });
    }
  }
}

// Every integer of a stack of matrices, as the header says where it stands.
TEST(GroupMatmulPack, StacksAsTheHeaderHasThem) {
  for (const Precision precision : {Precision::kW4, Precision::kW8}) {
    for (const int32_t group : {0, 7, 24, 32}) {
      constexpr int64_t kInputs = 61, kPanel = kPanelOutputs;
      const Quantized first(70, kInputs, precision, group, 1),
          second(3, kInputs, precision, group, 2);
      const Layout layout{
          .blocks = input_blocks(kInputs, group), .bits = bits(precision), .outputs = 73};
      const Buffer packed = host_device().allocate(static_cast<size_t>(2 * panel_bytes(layout)));
      std::memset(packed.data(), 0xff, packed.size_bytes());
      pack({first.matrix, second.matrix}, layout, packed.data(), {1, 2});
      pack({first.matrix, second.matrix}, layout, packed.data(), {0, 1});
      for (int64_t n = 0; n < 2 * kPanel; ++n) {
        const auto* at = packed.as<uint8_t>() + n / kPanel * panel_bytes(layout);
        const QuantizedMatrix& matrix = n < 70 ? first.matrix : second.matrix;
        const int64_t output = n < 70 ? n : n - 70, column = n % kPanel;
        for_each_block(layout.blocks, [&](int64_t, int64_t begin, int64_t count) {
          float scale = 0;
          convert_to_f32(at + 2 * column, DType::kF16, 1, &scale);
          ASSERT_EQ(n < 73 ? matrix.scale(output, begin / layout.blocks.group) : 0, scale) << n;
          at += 2 * kPanel;
          for (int64_t k = 0; k < (count + 7) / 8 * 8 && n < 73; ++k) {
            const int expected = k < count ? matrix.integer(output, begin + k) : 0;
            const uint8_t byte = layout.bits == 8 ? at[k / 4 * kPanel * 4 + column * 4 + k % 4]
                                                  : at[k / 8 * kPanel * 4 + column * 4 + k % 4];
            const int found = layout.bits == 8 ? byte - 128
                              : k % 8 < 4      ? (byte & 0xf) - 8
                                               : (byte >> 4) - 8;
            ASSERT_EQ(expected, found) << "output " << n << " input " << begin + k;
          }
          at += (count + 7) / 8 * kPanel * layout.bits;
        });
      }
    }
  }
}

}  // namespace
}  // namespace tessera::group_matmul
