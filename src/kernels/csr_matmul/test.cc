#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "base/device.h"
#include "kernels/csr_matmul/csr_matmul.h"
#include "kernels/product_testing.h"

namespace tessera::csr_matmul {
namespace {

using testing::kEpsilon;
using testing::kNaN;

constexpr int64_t kRowCounts[] = {0, 1, 2, 7, 8, 9, 16, 17, 33, 63, 64, 65, 130};

struct Draw {
  int64_t outputs = 0;
  int64_t inputs = 0;
  MatrixOrder order = MatrixOrder::kOutputRows;
  DType dtype = DType::kF32;
  double kept = 0.3;
  uint32_t seed = 1;
};

// A matrix of random elements, with its memory and what it multiplies out to.
struct Matrix {
  explicit Matrix(const Draw& draw) : dense(static_cast<size_t>(draw.outputs * draw.inputs)) {
    const bool by_output = draw.order == MatrixOrder::kOutputRows;
    csr.dtype = draw.dtype;
    csr.rows = by_output ? draw.outputs : draw.inputs;
    csr.cols = by_output ? draw.inputs : draw.outputs;
    csr.order = draw.order;
    std::mt19937 generator(draw.seed);
    std::bernoulli_distribution keep(draw.kept);
    std::normal_distribution<float> normal;
    offsets.push_back(0);
    for (int64_t row = 0; row < csr.rows; ++row) {
      for (int64_t col = 0; col < csr.cols; ++col) {
        if (!keep(generator)) continue;
        columns.push_back(static_cast<int32_t>(col));
        const float value = add(normal(generator), draw.dtype);
        dense[static_cast<size_t>(by_output ? row * draw.inputs + col : col * draw.inputs + row)] =
            value;
      }
      offsets.push_back(static_cast<int32_t>(columns.size()));
    }
    csr.values = bytes.data();
    csr.offsets = offsets.data();
    csr.columns = columns.data();
  }
  Matrix(const Matrix&) = delete;
  Matrix& operator=(const Matrix&) = delete;

  float add(float value, DType dtype) {
    char one[4];
    if (dtype == DType::kF32) {
      std::memcpy(one, &value, 4);
    } else {
      const bool half = dtype == DType::kF16;
      const uint16_t bits = half ? f32_to_f16(value) : f32_to_bf16(value);
      std::memcpy(one, &bits, 2);
      value = half ? f16_to_f32(bits) : bf16_to_f32(bits);
    }
    bytes.insert(bytes.end(), one, one + size_bytes(dtype));
    return value;
  }

  std::vector<float> dense;  // [outputs][inputs]
  CsrMatrix csr;
  std::vector<char> bytes;
  std::vector<int32_t> offsets, columns;
};

// A product with everything its arguments point at; the transposed x has garbage behind its rows.
struct Problem {
  Problem(int64_t rows, const Draw& draw, DType type)
      : matrix(draw),
        packed(pack({matrix.csr}, type)),
        bias(testing::random_values(draw.outputs, draw.seed + 1)),
        y_stride(draw.outputs + 3),
        residual(testing::random_values(rows * y_stride, draw.seed + 2)),
        plain(testing::random_values(std::max<int64_t>(rows, 1) * draw.inputs, draw.seed + 3)) {
    const int64_t stride = (rows + kLanes - 1) / kLanes * kLanes;
    transposed = host_device().allocate(static_cast<size_t>(draw.inputs * stride) * sizeof(float));
    std::fill_n(transposed.as<float>(), draw.inputs * stride, kNaN);
    for (int64_t m = 0; m < rows; ++m) {
      for (int64_t k = 0; k < draw.inputs; ++k) {
        transposed.as<float>()[k * stride + m] = plain[m * draw.inputs + k];
      }
    }
    args = {.x = rows == 1 ? plain.data() : transposed.as<float>(),
            .x_stride = stride,
            .rows = rows,
            .inputs = draw.inputs,
            .offsets = packed.offsets.data(),
            .columns = packed.columns.data(),
            .values = packed.values.data(),
            .weight_type = type,
            .outputs = draw.outputs,
            .bias = bias.data(),
            .residual = residual.data(),
            .residual_stride = y_stride,
            .y_stride = y_stride};
  }

  int64_t outputs() const { return args.outputs; }
  int64_t units() const { return group_count(args.outputs); }

  float weight(int64_t n, int64_t k) const {
    const float value = matrix.dense[n * args.inputs + k];
    return args.weight_type == DType::kF32 ? value : bf16_to_f32(f32_to_bf16(value));
  }
  std::pair<double, double> sum(int64_t m, int64_t n) const {
    double sum = 0, size = 0;
    for (int64_t k = 0; k < args.inputs; ++k) {
      const double term = double{plain[m * args.inputs + k]} * weight(n, k);
      sum += term;
      size += std::abs(term);
    }
    return {sum, size};
  }
  // The header's bound, and the activation's own bound with its slope of at most 1.13.
  double bound(int64_t m, int64_t n) const {
    const double product = 1.13 * (static_cast<double>(args.inputs) / 2 + 8);
    return (product + 8 + 2) * kEpsilon * (sum(m, n).second + std::abs(bias[n]) + 8);
  }

  Matrix matrix;
  Packed packed;
  std::vector<float> bias;
  int64_t y_stride;
  std::vector<float> residual, plain;
  Buffer transposed;
  Args args;
};

TEST(CsrMatmul, RefIsTheDenseProductOverTheMaskedMatrix) {
  uint32_t seed = 1;
  for (const MatrixOrder order : {MatrixOrder::kOutputRows, MatrixOrder::kInputRows}) {
    for (const DType source : {DType::kF32, DType::kF16, DType::kBF16}) {
      for (const DType type : {DType::kF32, DType::kBF16}) {
        for (const int64_t rows : {1, 3}) {
          const Problem problem(rows, {30, 53, order, source, 0.4, ++seed}, type);
          SCOPED_TRACE(testing::product_trace(problem.args, seed));
          const std::vector<float> found = testing::run_whole(problem, kernels.rows().back());
          for (int64_t m = 0; m < rows; ++m) {
            for (int64_t n = 0; n < 30; ++n) {
              const auto before = static_cast<float>(problem.sum(m, n).first + problem.bias[n]);
              const float expected = before + problem.residual[m * problem.y_stride + n];
              ASSERT_NEAR(expected, found[m * problem.y_stride + n],
                          2 * kEpsilon * (std::abs(before) + std::abs(expected)));
            }
          }
        }
      }
    }
  }
}

TEST(CsrMatmul, EveryRowAgreesWithRefAtEverySize) {
  uint32_t seed = 100;
  for (const DType type : {DType::kF32, DType::kBF16}) {
    for (const int64_t rows : kRowCounts) {
      for (const int64_t inputs : {1, 17, 95, 96, 97, 300}) {
        for (const int64_t outputs : {1, 15, 16, 17, 65}) {
          for (const double kept : {0.0, 0.3, 1.0}) {
            Problem problem(
                rows, {outputs, inputs, MatrixOrder::kOutputRows, DType::kF32, kept, ++seed}, type);
            testing::vary_epilogue(problem.args, seed);
            SCOPED_TRACE(testing::product_trace(problem.args, seed));
            ASSERT_NO_FATAL_FAILURE(testing::check_rows(kernels, problem));
          }
        }
      }
    }
  }
}

TEST(CsrMatmul, EveryEpilogue) {
  uint32_t seed = 7000;
  for (const int64_t rows : {1, 13}) {
    for (int choice = 0; choice < testing::kEpilogues; ++choice) {
      Problem problem(rows, {60, 100, MatrixOrder::kOutputRows, DType::kF32, 0.3, ++seed},
                      DType::kF32);
      testing::choose_epilogue(problem.args, choice);
      SCOPED_TRACE(testing::product_trace(problem.args, seed));
      ASSERT_NO_FATAL_FAILURE(testing::check_rows(kernels, problem));
    }
  }
}

TEST(CsrMatmul, ResidualMayBeTheOutput) {
  for (const int64_t rows : {1, 70}) {
    const Problem problem(rows, {40, 100, MatrixOrder::kInputRows, DType::kF32, 0.3, 11},
                          DType::kF32);
    testing::check_residual_as_output(kernels, problem);
  }
}

TEST(CsrMatmul, PartsGiveTheSameBitsAsTheWhole) {
  for (const int64_t rows : {1, 61}) {
    const Problem problem(rows, {130, 200, MatrixOrder::kOutputRows, DType::kBF16, 0.3, 12},
                          DType::kBF16);
    testing::for_each_row(kernels, problem.args, [&](const KernelRow<Args>& row) {
      testing::check_parts(problem, row, {rows}, {{5, problem.units()}, {0, 2}, {2, 5}, {3, 3}});
    });
  }
}

TEST(CsrPack, AStackIsOneMatrixByOutputs) {
  const Matrix one({20, 50, MatrixOrder::kOutputRows, DType::kF32, 0.3, 1});
  const Matrix two({33, 50, MatrixOrder::kInputRows, DType::kBF16, 0.3, 2});
  const Packed packed = pack({one.csr, two.csr}, DType::kF32);
  ASSERT_EQ(packed.offsets.size(), 54u);
  ASSERT_EQ(packed.columns.size(), one.columns.size() + two.columns.size());
  for (int64_t n = 0; n < 53; ++n) {
    std::vector<float> row(50, 0.0f);
    for (int32_t i = packed.offsets[n]; i < packed.offsets[n + 1]; ++i) {
      if (i > packed.offsets[n]) {
        EXPECT_LT(packed.columns[i - 1], packed.columns[i]);
      }
      std::memcpy(&row[packed.columns[i]], packed.values.data() + i * 4, 4);
    }
    const float* dense = n < 20 ? &one.dense[n * 50] : &two.dense[(n - 20) * 50];
    EXPECT_EQ(row, std::vector<float>(dense, dense + 50)) << "output " << n;
  }
}

}  // namespace
}  // namespace tessera::csr_matmul
