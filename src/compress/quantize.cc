#include "compress/quantize.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "compress/sweep.h"

namespace tessera {
namespace {

constexpr size_t at(int64_t index) { return static_cast<size_t>(index); }

constexpr float kLargestHalf = 65504;

struct Limits {
  int32_t least, most;
};
constexpr Limits limits(Precision precision) {
  return bits(precision) == 8 ? Limits{-127, 127} : Limits{-8, 7};
}

// A group's values as they are rounded, and what an error of each counts.
struct Group {
  std::vector<float> values;
  std::vector<float> importances;
};

// To nearest, ties to even, for |x| < 2^22: what the sum has no bits for is rounded away.
float to_nearest(float x) {
  constexpr float kShift = 12582912;  // 1.5 x 2^23
  return (x + kShift) - kShift;
}

float error_of(const Group& group, float scale, Limits limit) {
  const float inverse = scale == 0 ? 0 : 1 / scale;
  const auto least = static_cast<float>(limit.least), most = static_cast<float>(limit.most);
  float sum = 0;
  for (size_t i = 0; i < group.values.size(); ++i) {
    const float q = to_nearest(std::clamp(group.values[i] * inverse, least, most));
    const float error = group.values[i] - q * scale;
    sum += group.importances[i] * error * error;
  }
  return sum;
}

// As files hold it.
float stored_scale(float scale, Precision precision) {
  if (scale_type(precision) == DType::kF32) return scale;
  return f16_to_f32(f32_to_f16(std::clamp(scale, -kLargestHalf, kLargestHalf)));
}

// The first of the best candidates: that by which the largest value is reached exactly, and shares
// of it down to where a clipped value costs more than finer steps gain; of 4 bits, whose range is
// not symmetric, with either sign and a little above it, where the value is reached from below.
float choose_scale(const Group& group, Precision precision, std::optional<float> earlier) {
  float largest = 0;
  for (const float value : group.values) {
    if (std::abs(value) > std::abs(largest)) largest = value;
  }
  const Limits limit = limits(precision);
  const bool bytes = bits(precision) == 8;
  const float exact = bytes ? std::abs(largest) / 127 : largest / -8;
  const int finest = bytes ? -8 : -16, coarsest = bytes ? 0 : 8;
  float best = stored_scale(exact, precision), least = error_of(group, best, limit);
  for (int step = coarsest; step >= finest; --step) {
    for (const float sign : {1.0f, -1.0f}) {
      if (bytes && sign < 0) continue;
      const float share = 1 + static_cast<float>(step) * (1.0f / 40);
      const float scale = stored_scale(sign * exact * share, precision);
      const float error = error_of(group, scale, limit);
      if (error < least) {
        least = error;
        best = scale;
      }
    }
  }
  // What was rounded before and has not changed since stays as it is, bit by bit.
  return earlier.has_value() && error_of(group, *earlier, limit) <= least ? *earlier : best;
}

// What stays of weights: integers, which it writes down.
class Rounder {
 public:
  // earlier: how the matrix was rounded before; null: it was not.
  Rounder(const std::vector<double>& importances, const TileMask* mask,
          const SourceRounding* earlier, Integers& integers)
      : importances_(importances),
        mask_(mask),
        earlier_(earlier),
        integers_(integers),
        size_(integers.group == 0 ? integers.inputs : integers.group),
        groups_((integers.inputs + size_ - 1) / size_) {
    integers_.values.assign(at(integers.outputs * integers.inputs), 0);
    integers_.scales.assign(at(integers.outputs * groups_), 0);
  }

  double operator()(int64_t output, int64_t input, const double* row) {
    const size_t place = at(output * groups_ + input / size_);
    float& scale = integers_.scales[place];
    if (input % size_ == 0) {
      scale = choose_scale(group_at(output, input, row), integers_.precision,
                           earlier_ == nullptr ? std::optional<float>() : earlier_->scales[place]);
    }
    if (scale == 0 || prunes(output, input)) return 0;
    const Limits limit = limits(integers_.precision);
    const double exact = row[input] * input_scale(input) / scale;
    const double q = std::nearbyint(
        std::clamp(exact, static_cast<double>(limit.least), static_cast<double>(limit.most)));
    integers_.values[at(output * integers_.inputs + input)] = static_cast<int8_t>(q);
    return scale * q / input_scale(input);
  }

 private:
  double input_scale(int64_t input) const {
    return integers_.input_scales.empty() ? 1.0 : integers_.input_scales[at(input)];
  }
  bool prunes(int64_t output, int64_t input) const {
    return mask_ != nullptr && !mask_->keeps(output / mask_->tile.rows, input / mask_->tile.cols);
  }
  Group group_at(int64_t output, int64_t first, const double* row) const {
    Group group;
    const int64_t end = std::min(first + size_, integers_.inputs);
    for (int64_t i = first; i < end; ++i) {
      if (prunes(output, i)) continue;
      const double factor = input_scale(i);
      group.values.push_back(static_cast<float>(row[i] * factor));
      group.importances.push_back(static_cast<float>(importances_[at(i)] / (factor * factor)));
    }
    return group;
  }

  const std::vector<double>& importances_;
  const TileMask* mask_;
  const SourceRounding* earlier_;
  Integers& integers_;
  int64_t size_, groups_;
};

}  // namespace

Status check_quantize(const QuantizeOptions& options) {
  const std::optional<Precision> precision = parse_precision(name(options.weights));
  if (!precision.has_value() || !is_quantized(*precision)) {
    return invalid_input(
        fmt::format("quantize: expected int8, int4, w8 or w4, found {}", name(options.weights)));
  }
  if (options.group.value_or(0) < 0) {
    return invalid_input(
        fmt::format("group: expected at least 0 inputs, found {}", *options.group));
  }
  if (!(options.smooth >= 0 && options.smooth <= 1)) {
    return invalid_input(
        fmt::format("smooth: expected a number from 0 to 1, found {}", options.smooth));
  }
  if (options.smooth == 0 || has_integer_rows(*precision)) return {};
  return invalid_input(fmt::format(
      "smooth: expected int8 or int4, whose rows are rounded, found {}", name(options.weights)));
}

Precision precision_of(const QuantizeOptions& options) {
  return parse_precision(name(options.weights)).value_or(Precision::kInt8);
}

int32_t group_of(const QuantizeOptions& options, int64_t inputs) {
  const int32_t group = options.group.value_or(default_group(precision_of(options)));
  return group < inputs ? group : 0;
}

int64_t quantized_bytes(const QuantizeOptions& options, int64_t outputs, int64_t inputs) {
  const Precision precision = precision_of(options);
  return packed_bytes(QuantizedMatrix{.precision = precision,
                                      .rows = outputs,
                                      .cols = inputs,
                                      .group = group_of(options, inputs),
                                      .scale_type = scale_type(precision)});
}

Result<IntegerForm> integer_form(const QuantizeOptions& options, const Matrix& matrix) {
  if (!matrix.mask.has_value()) return IntegerForm::kDense;
  TESSERA_ASSIGN_OR_RETURN(const PackedMatrix packed, pack(matrix));
  if (is<DenseView>(packed.matrix)) return IntegerForm::kDense;
  const bool tiles = is<TileMatrix>(packed.matrix);
  return tiles && has_integer_rows(precision_of(options)) ? IntegerForm::kTiles
                                                          : IntegerForm::kNone;
}

std::vector<float> smoothing_scales(const std::vector<Matrix*>& matrices,
                                    const InputStatistics& statistics, double alpha) {
  constexpr double kLeast = 0x1p-20, kMost = 0x1p20;
  std::vector<float> largest(at(statistics.inputs)), scales;
  for (const Matrix* matrix : matrices) {
    for (int64_t o = 0; o < matrix->pruned.outputs; ++o) {
      const float* row = matrix->pruned.row(o);
      for (size_t i = 0; i < largest.size(); ++i)
        largest[i] = std::max(largest[i], std::abs(row[i]));
    }
  }
  for (size_t i = 0; i < largest.size(); ++i) {
    const double x = statistics.largest[i], w = largest[i];
    const double scale = x > 0 && w > 0 ? std::pow(x, alpha) / std::pow(w, 1 - alpha) : 1;
    scales.push_back(static_cast<float>(std::clamp(scale, kLeast, kMost)));
  }
  return scales;
}

Status quantize_matrix(const QuantizeContext& context, Matrix& matrix) {
  TESSERA_ASSIGN_OR_RETURN(const IntegerForm form, integer_form(*context.options, matrix));
  if (form == IntegerForm::kNone) return {};
  const bool tiles = form == IntegerForm::kTiles;
  const InputStatistics* statistics = context.inputs->statistics();
  const bool moves_bias = statistics != nullptr && !matrix.bias.empty();
  const int64_t inputs = matrix.item.inputs;
  std::vector<double> importances(at(inputs), 1.0);
  Hessian* hessian = nullptr;
  if (statistics != nullptr) {
    hessian = &context.inputs->hessian(moves_bias ? Centre::kYes : Centre::kNo);
    for (int64_t i = 0; i < inputs; ++i) importances[at(i)] = hessian->values[at(i * (inputs + 1))];
  }
  if (context.options->rounding == Rounding::kNearest) hessian = nullptr;
  Integers integers{.precision = tiles ? Precision::kInt8 : precision_of(*context.options),
                    .outputs = matrix.item.outputs,
                    .inputs = inputs,
                    .group = tiles ? 0 : group_of(*context.options, inputs),
                    .input_scales = context.input_scales};
  const bool has_scales = matrix.rounding.has_value() &&
                          matrix.rounding->precision == integers.precision &&
                          matrix.rounding->group == integers.group &&
                          matrix.rounding->input_scales == integers.input_scales;
  Rounder rounder(importances, matrix.mask.has_value() ? &*matrix.mask : nullptr,
                  has_scales ? &*matrix.rounding : nullptr, integers);
  const Weight before = matrix.pruned;
  TESSERA_RETURN_IF_ERROR(
      sweep(hessian, integers.group, std::ref(rounder), matrix.pruned, *context.team));
  matrix.integers = std::move(integers);
  if (!moves_bias) return {};
  move_bias(bias_shift(before, matrix.pruned, *statistics), matrix);
  round_bias(matrix);
  return {};
}

}  // namespace tessera
