#include "compress/quantize.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "compress/sweep.h"
#include "compress/testing.h"
#include "io/testing.h"

namespace tessera {
namespace {

using testing::expect_message;
using testing::loss;
using testing::random_statistics;
using testing::random_weight;

constexpr size_t at(int64_t index) { return static_cast<size_t>(index); }

Matrix matrix_of(const Weight& weight) {
  Matrix matrix;
  matrix.item.outputs = matrix.item.tensor_outputs = weight.outputs;
  matrix.item.inputs = weight.inputs;
  matrix.whole = matrix.pruned = weight;
  return matrix;
}

struct Case {
  WeightType weights;
  std::optional<int32_t> group;
};
const Case kCases[] = {{WeightType::kInt8, {}}, {WeightType::kInt8, 16}, {WeightType::kInt4, {}},
                       {WeightType::kInt4, 0},  {WeightType::kW8, {}},   {WeightType::kW8, 7},
                       {WeightType::kW4, {}},   {WeightType::kW4, 100},  {WeightType::kW4, 1000},
                       {WeightType::kW4, 1}};

QuantizeOptions options_of(const Case& one, Rounding rounding = Rounding::kNearest) {
  return {.weights = one.weights, .group = one.group, .rounding = rounding};
}

std::string text_of(const Case& one) {
  return std::string(name(one.weights)) + " in groups of " +
         (one.group ? std::to_string(*one.group) : "the default");
}

// With statistics or without.
Matrix quantized(Matrix matrix, const QuantizeOptions& options, const InputStatistics* statistics,
                 int threads = 2) {
  Team team(threads);
  MapInputs inputs(statistics);
  QuantizeContext context{&options, &inputs, &team};
  if (options.smooth > 0)
    context.input_scales = smoothing_scales({&matrix}, *statistics, options.smooth);
  const Status status = quantize_matrix(context, matrix);
  EXPECT_TRUE(status.ok()) << status.message();
  return matrix;
}

TEST(Quantize, WhatIsLeftIsWhatThePackedMatrixHolds) {
  for (const int64_t inputs : {1, 2, 31, 32, 33, 64, 65, 129}) {
    const Weight weight = random_weight(35, inputs, 3);
    const InputStatistics statistics = random_statistics(inputs, 200, 4);
    for (const Case& one : kCases) {
      for (const Rounding rounding : {Rounding::kNearest, Rounding::kCompensated}) {
        QuantizeOptions options = options_of(one, rounding);
        if (has_integer_rows(precision_of(options))) options.smooth = 0.5;
        const Matrix matrix = quantized(matrix_of(weight), options, &statistics);
        const Result<PackedMatrix> packed = pack(matrix);
        ASSERT_TRUE(packed.ok());
        const auto stored = get<QuantizedMatrix>(packed->matrix);
        EXPECT_TRUE(validate(stored).ok()) << validate(stored).message();
        EXPECT_EQ(stored.group, group_of(options, inputs));
        const int64_t scale_bytes = stored.input_scales == nullptr ? 0 : 4 * inputs;
        EXPECT_EQ(packed_bytes(stored), quantized_bytes(options, 35, inputs) + scale_bytes);
        std::vector<float> dense(weight.values.size());
        to_dense(stored, dense.data());
        EXPECT_EQ(dense, matrix.pruned.values) << text_of(one) << ", " << inputs << " inputs";
      }
    }
  }
}

// |W - W'| / |W| with the scale of each group by which its largest value is reached.
double plain_error(const Weight& weight, const QuantizeOptions& options) {
  const Precision precision = precision_of(options);
  const int64_t given = group_of(options, weight.inputs);
  const int64_t group = given == 0 ? weight.inputs : given;
  const bool eight = bits(precision) == 8;
  double lost = 0, total = 0;
  for (int64_t o = 0; o < weight.outputs; ++o) {
    for (int64_t begin = 0; begin < weight.inputs; begin += group) {
      const float* values = weight.row(o) + begin;
      const int64_t count = std::min(group, weight.inputs - begin);
      const float extreme = *std::max_element(
          values, values + count, [](float a, float b) { return std::abs(a) < std::abs(b); });
      float scale = eight ? std::abs(extreme) / 127 : extreme / -8;
      if (scale_type(precision) == DType::kF16) scale = f16_to_f32(f32_to_f16(scale));
      for (int64_t i = 0; i < count; ++i) {
        const float most = eight ? 127 : 7, least = eight ? -127 : -8;
        const double q = std::nearbyint(std::clamp(values[i] / scale, least, most));
        lost += (values[i] - scale * q) * (values[i] - scale * q);
        total += double{values[i]} * values[i];
      }
    }
  }
  return std::sqrt(lost / total);
}

TEST(Quantize, ScalesAreNotWorseThanThoseThatReachTheLargestValue) {
  for (uint32_t seed = 0; seed < 5; ++seed) {
    const Weight weight = random_weight(20, 150, seed);
    for (const Case& one : kCases) {
      const QuantizeOptions options = options_of(one);
      const Matrix matrix = quantized(matrix_of(weight), options, nullptr);
      EXPECT_LE(matrix.weight_error(), plain_error(weight, options) * (1 + 1e-6))
          << text_of(one) << ", seed " << seed;
      EXPECT_TRUE(std::isnan(matrix.output_error));
    }
  }
}

TEST(Quantize, CompensationLosesLessThanRoundingEachToNearest) {
  for (uint32_t seed = 0; seed < 12; ++seed) {
    const Weight weight = random_weight(40, 97, seed);
    const InputStatistics statistics = random_statistics(97, 400, seed + 100);
    const Hessian hessian = make_hessian(statistics, Centre::kNo);
    for (const Case& one : kCases) {
      const Matrix nearest = quantized(matrix_of(weight), options_of(one), &statistics),
                   compensated = quantized(matrix_of(weight),
                                           options_of(one, Rounding::kCompensated), &statistics);
      EXPECT_LT(loss(weight, compensated.pruned, hessian), loss(weight, nearest.pruned, hessian))
          << text_of(one) << ", seed " << seed;
      EXPECT_LT(compensated.output_error, nearest.output_error)
          << text_of(one) << ", seed " << seed;
    }
  }
}

TEST(Quantize, InputsThatDoNotDependOnEachOtherHaveNothingToMakeUpFor) {
  InputStatistics statistics{.inputs = 70, .rows = 1};
  statistics.origin.resize(70);
  statistics.sums.resize(70);
  statistics.products.resize(70 * 70);
  for (size_t i = 0; i < 70; ++i) statistics.products[i * 71] = 0.25f + static_cast<float>(i % 9);
  const Weight weight = random_weight(40, 70, 9);
  for (const Case& one : kCases) {
    const Matrix nearest = quantized(matrix_of(weight), options_of(one), &statistics),
                 compensated = quantized(matrix_of(weight), options_of(one, Rounding::kCompensated),
                                         &statistics);
    EXPECT_EQ(nearest.integers->values, compensated.integers->values) << text_of(one);
    EXPECT_EQ(nearest.integers->scales, compensated.integers->scales) << text_of(one);
  }
}

TEST(Quantize, ResultsDoNotDependOnTheTeam) {
  const Weight weight = random_weight(101, 130, 21);
  const InputStatistics statistics = random_statistics(130, 300, 22);
  for (const Case& one : kCases) {
    const QuantizeOptions options = options_of(one, Rounding::kCompensated);
    const Matrix alone = quantized(matrix_of(weight), options, &statistics, 1);
    for (const int threads : {2, 3}) {
      const Matrix shared = quantized(matrix_of(weight), options, &statistics, threads);
      EXPECT_EQ(alone.pruned.values, shared.pruned.values) << text_of(one) << ", " << threads;
      EXPECT_EQ(alone.integers->scales, shared.integers->scales) << text_of(one);
    }
  }
}

TEST(Quantize, WhatIsPrunedStaysZero) {
  // So little that the matrix stays dense.
  Matrix matrix = matrix_of(random_weight(40, 70, 31));
  matrix.removed = Removed::kTiles;
  matrix.mask = TileMask::all({8, 8}, 40, 70);
  matrix.mask->kept[0] = matrix.mask->kept[12] = 0;
  clear_pruned(*matrix.mask, sizeof(float), matrix.pruned.values.data());
  const InputStatistics statistics = random_statistics(70, 200, 32);
  for (const Case& one : kCases) {
    const Matrix rounded = quantized(matrix, options_of(one, Rounding::kCompensated), &statistics);
    for (int64_t o = 0; o < 40; ++o) {
      for (int64_t i = 0; i < 70; ++i) {
        if (matrix.mask->keeps(o / 8, i / 8)) continue;
        ASSERT_EQ(rounded.pruned.row(o)[i], 0) << text_of(one);
        ASSERT_EQ(rounded.integers->values[at(o * 70 + i)], 0) << text_of(one);
      }
    }
  }
}

TEST(Quantize, TilesBecomeTilesOfIntegersForIntegerRows) {
  for (const MatrixOrder order : {MatrixOrder::kOutputRows, MatrixOrder::kInputRows}) {
    Matrix matrix = matrix_of(random_weight(40, 70, 33));
    matrix.item.order = order;
    matrix.item.tensor = "w";
    matrix.removed = Removed::kTiles;
    matrix.mask = TileMask::all({8, 8}, 40, 70);
    for (size_t i = 0; i < matrix.mask->kept.size(); i += 2) matrix.mask->kept[i] = 0;
    clear_pruned(*matrix.mask, sizeof(float), matrix.pruned.values.data());
    const InputStatistics statistics = random_statistics(70, 200, 34);
    for (const WeightType weights : {WeightType::kInt8, WeightType::kInt4}) {
      const QuantizeOptions options{
          .weights = weights, .group = 16, .rounding = Rounding::kCompensated, .smooth = 0.5};
      const Matrix rounded = quantized(matrix, options, &statistics);
      const Result<PackedMatrix> packed = pack(rounded);
      ASSERT_TRUE(packed.ok());
      ASSERT_STREQ(format_name(packed->matrix), "tiles");
      const auto tiles = get<TileMatrix>(packed->matrix);
      EXPECT_TRUE(tiles.is_quantized());
      EXPECT_TRUE(validate(tiles, matrix.mask->kept_tiles()).ok());
      std::vector<float> dense(40 * 70);
      to_dense(tiles, dense.data());
      for (int64_t o = 0; o < 40; ++o) {
        for (int64_t i = 0; i < 70; ++i)
          ASSERT_EQ(dense[at(order == MatrixOrder::kOutputRows ? o * 70 + i : i * 40 + o)],
                    rounded.pruned.row(o)[i]);
      }
    }
    for (const WeightType weights : {WeightType::kW8, WeightType::kW4}) {
      const Matrix same = quantized(matrix, {.weights = weights}, &statistics);
      EXPECT_FALSE(same.integers.has_value());
      EXPECT_EQ(same.pruned.values, matrix.pruned.values);
    }
  }
}

TEST(Quantize, ZerosAndTinyWeightsAreRoundedToo) {
  Weight weight{3, 40, std::vector<float>(120)};
  std::fill_n(weight.row(1), 40, 1e-12f);  // below what f16 scales can hold
  weight.row(2)[5] = -3;
  for (const Case& one : kCases) {
    const Matrix matrix = quantized(matrix_of(weight), options_of(one), nullptr);
    for (const float value : matrix.pruned.values) ASSERT_TRUE(std::isfinite(value));
    EXPECT_NEAR(matrix.pruned.row(2)[5], -3, 3 * 0x1p-10) << text_of(one);
    EXPECT_EQ(matrix.pruned.row(0)[0], 0);
  }
}

TEST(Quantize, TheBiasTakesUpWhatIsLostOnAverage) {
  const Weight weight = random_weight(16, 40, 41);
  const InputStatistics statistics = random_statistics(40, 200, 42);
  Matrix matrix = matrix_of(weight);
  matrix.bias.assign(16, 0.5f);
  const Matrix without = quantized(matrix_of(weight), {.weights = WeightType::kInt4}, &statistics);
  const Matrix with = quantized(matrix, {.weights = WeightType::kInt4}, &statistics);
  EXPECT_TRUE(with.bias_changed);
  for (int64_t o = 0; o < 16; ++o) {
    double before = 0.5, after = with.bias[at(o)];
    for (int64_t i = 0; i < 40; ++i) {
      before += weight.row(o)[i] * statistics.mean(i);
      after += with.pruned.row(o)[i] * statistics.mean(i);
    }
    EXPECT_NEAR(after, before, 1e-5 * (1 + std::abs(before)));
  }
  EXPECT_LT(with.output_error, without.output_error);
}

// |W x - W' r(x)| over rows x with one input 50 times as large as the others, r rounding x / s to
// 8 bits with a scale and a zero for each row.
double error_with_integer_rows(const Matrix& matrix, const Weight& x) {
  const std::vector<float>& scales = matrix.integers->input_scales;
  double lost = 0;
  for (int64_t r = 0; r < x.outputs; ++r) {
    std::vector<double> row(x.row(r), x.row(r) + x.inputs);
    for (size_t i = 0; i < row.size(); ++i) row[i] /= scales.empty() ? 1 : scales[i];
    const auto [least, most] = std::minmax_element(row.begin(), row.end());
    const double zero = *least, step = (*most - *least) / 255;
    for (double& value : row) value = zero + step * std::nearbyint((value - zero) / step);
    for (int64_t o = 0; o < matrix.whole.outputs; ++o) {
      double error = 0;
      for (int64_t i = 0; i < x.inputs; ++i) {
        const double scale = scales.empty() ? 1 : scales[at(i)];
        error += double{matrix.whole.row(o)[i]} * x.row(r)[i] -
                 double{matrix.pruned.row(o)[i]} * scale * row[at(i)];
      }
      lost += error * error;
    }
  }
  return std::sqrt(lost);
}

TEST(Quantize, SmoothingHelpsWhereInputsHaveOutliers) {
  for (uint32_t seed = 0; seed < 5; ++seed) {
    Weight x = random_weight(64, 48, seed + 50);
    for (int64_t r = 0; r < 64; ++r) x.row(r)[11] *= 50;
    InputStatistics statistics{.inputs = 48, .rows = 64};
    statistics.origin.resize(48);
    statistics.sums.resize(48);
    statistics.products.resize(48 * 48);
    statistics.largest.resize(48);
    for (int64_t r = 0; r < 64; ++r) {
      for (int64_t i = 0; i < 48; ++i) {
        statistics.sums[at(i)] += x.row(r)[i];
        statistics.largest[at(i)] = std::max(statistics.largest[at(i)], std::abs(x.row(r)[i]));
        for (int64_t j = 0; j < 48; ++j)
          statistics.products[at(i * 48 + j)] += x.row(r)[i] * x.row(r)[j];
      }
    }
    const Matrix matrix = matrix_of(random_weight(32, 48, seed));
    const Matrix plain = quantized(matrix, {.weights = WeightType::kInt8}, &statistics),
                 smooth =
                     quantized(matrix, {.weights = WeightType::kInt8, .smooth = 0.5}, &statistics);
    EXPECT_TRUE(plain.integers->input_scales.empty());
    EXPECT_LT(error_with_integer_rows(smooth, x), 0.7 * error_with_integer_rows(plain, x))
        << "seed " << seed;
  }
}

TEST(Quantize, SmoothingScalesBalanceInputsAndWeights) {
  Matrix one = matrix_of({1, 4, {1, -4, 0, 2}}),
         other = matrix_of({2, 4, {0, 1, 0, 1, -9, 0, 0, 1}});
  InputStatistics statistics{.inputs = 4};
  statistics.largest = {4, 1, 5, 0};
  const std::vector<float> half = smoothing_scales({&one, &other}, statistics, 0.5);
  EXPECT_FLOAT_EQ(half[0], 2.0f / 3);
  EXPECT_FLOAT_EQ(half[1], 0.5f);
  EXPECT_FLOAT_EQ(half[2], 1);  // no weight
  EXPECT_FLOAT_EQ(half[3], 1);  // no input
  statistics.largest[0] = 1e30f;
  EXPECT_FLOAT_EQ(smoothing_scales({&one}, statistics, 1)[0], 0x1p20f);
}

TEST(Quantize, OptionsThatMakeNoSenseAreOneSentence) {
  const auto refused = [](const QuantizeOptions& options,
                          std::initializer_list<std::string_view> parts) {
    expect_message(check_quantize(options), parts);
  };
  refused({.weights = WeightType::kBF16}, {"int8, int4, w8 or w4", "bf16"});
  refused({.weights = WeightType::kAuto}, {"int8, int4, w8 or w4", "auto"});
  refused({.weights = WeightType::kW4, .group = -1}, {"group", "found -1"});
  refused({.weights = WeightType::kInt8, .smooth = 1.5}, {"smooth", "1.5"});
  refused({.weights = WeightType::kInt8, .smooth = NAN}, {"smooth", "nan"});
  refused({.weights = WeightType::kW8, .smooth = 0.5}, {"smooth", "w8"});
  EXPECT_TRUE(check_quantize({.weights = WeightType::kInt4, .group = 0, .smooth = 1}).ok());
}

// The sweep as its formula has it: H^-1 by elimination, its factor and every update by plain loops.
Weight plain_sweep(const Hessian& hessian, const Stay& stay, Weight weight) {
  const int64_t n = hessian.inputs;
  std::vector<double> a = hessian.values, inverse(at(n * n)), root(at(n * n));
  for (int64_t i = 0; i < n; ++i) inverse[at(i * (n + 1))] = 1;
  for (int64_t p = 0; p < n; ++p) {
    const double pivot = a[at(p * (n + 1))];
    for (int64_t c = 0; c < n; ++c) {
      a[at(p * n + c)] /= pivot;
      inverse[at(p * n + c)] /= pivot;
    }
    for (int64_t r = 0; r < n; ++r) {
      const double factor = a[at(r * n + p)];
      for (int64_t c = 0; c < n && r != p; ++c) {
        a[at(r * n + c)] -= factor * a[at(p * n + c)];
        inverse[at(r * n + c)] -= factor * inverse[at(p * n + c)];
      }
    }
  }
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      double sum = inverse[at(i * n + j)];
      for (int64_t k = 0; k < j; ++k) sum -= root[at(i * n + k)] * root[at(j * n + k)];
      root[at(i * n + j)] = i == j ? std::sqrt(sum) : sum / root[at(j * n + j)];
    }
  }
  for (int64_t o = 0; o < weight.outputs; ++o) {
    std::vector<double> row(weight.row(o), weight.row(o) + n);
    for (int64_t j = 0; j < n; ++j) {
      const double stays = stay(o, j, row.data());
      const double error = (row[at(j)] - stays) / root[at(j * (n + 1))];
      for (int64_t k = j + 1; k < n; ++k) row[at(k)] -= error * root[at(k * n + j)];
      row[at(j)] = stays;
    }
    for (int64_t i = 0; i < n; ++i) weight.row(o)[i] = static_cast<float>(row[at(i)]);
  }
  return weight;
}

TEST(Sweep, DoesWhatItsFormulaSays) {
  Team team(2);
  for (const int64_t inputs : {1, 2, 63, 64, 65, 130, 200}) {
    const InputStatistics statistics = random_statistics(inputs, 2 * inputs + 50, 61);
    const Weight whole = random_weight(33, inputs, 62);
    for (const int64_t group : {0, 1, 5, 48, 64, 65, 100, 1000}) {
      Hessian hessian = make_hessian(statistics, Centre::kNo);
      // What depends on all of a group shows whether it was up to date when its turn came.
      const int64_t size = group == 0 ? inputs : group;
      std::vector<double> sums(at(33 * inputs));
      const Stay stay = [&](int64_t output, int64_t input, const double* row) {
        double& sum = sums[at(output * inputs + input / size)];
        if (input % size == 0) {
          sum = 0;
          for (int64_t i = input; i < std::min(input + size, inputs); ++i) sum += row[i];
        }
        return 0.75 * row[input] + 0.01 * sum;
      };
      Weight fast = whole;
      ASSERT_TRUE(sweep(&hessian, group, stay, fast, team).ok());
      const Weight plain = plain_sweep(hessian, stay, whole);
      double norm = 0, distance = 0;
      for (size_t i = 0; i < plain.values.size(); ++i) {
        norm = std::max(norm, std::abs(double{plain.values[i]}));
        distance = std::max(distance, std::abs(double{plain.values[i]} - fast.values[i]));
      }
      // Sums of f64 over a condition number of at most 1e5, to f32 at the end.
      EXPECT_LE(distance, 1e-6 * norm) << inputs << " inputs in groups of " << group;
    }
  }
}

TEST(Sweep, AMatrixThatIsNotDefiniteIsRefused) {
  Hessian hessian{2, Centre::kNo, {1, 2, 2, 1}, {}, {}};
  Weight weight = random_weight(3, 2, 1);
  Team team(1);
  expect_message(
      sweep(
          &hessian, 0, [](int64_t, int64_t, const double* row) { return row[0]; }, weight, team),
      {"finite and not all zero"});
}

}  // namespace
}  // namespace tessera
