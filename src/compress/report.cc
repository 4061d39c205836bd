#include "compress/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "formats/weight_format.h"
#include "io/json.h"

namespace tessera {
namespace {

constexpr size_t at(int64_t index) { return static_cast<size_t>(index); }

Status broken(const Matrix& matrix, const std::string& message) {
  return invalid_input(fmt::format("{}: compressed: {}", quote(matrix.item.name()), message));
}

bool is_finite(const std::vector<float>& values) {
  return std::all_of(values.begin(), values.end(), [](float x) { return std::isfinite(x); });
}

Status verify_mask(const Matrix& matrix) {
  const TileMask& mask = *matrix.mask;
  if (mask.rows != matrix.item.outputs || mask.cols != matrix.item.inputs ||
      mask.kept.size() != at(mask.tiles())) {
    return broken(matrix,
                  fmt::format("expected a mask of {} x {}, found {} x {}", matrix.item.outputs,
                              matrix.item.inputs, mask.rows, mask.cols));
  }
  for (int64_t o = 0; o < mask.rows; ++o) {
    for (int64_t i = 0; i < mask.cols; ++i) {
      if (matrix.pruned.row(o)[i] == 0 || mask.keeps(o / mask.tile.rows, i / mask.tile.cols))
        continue;
      return broken(matrix, "expected zeros where the mask prunes, found others");
    }
  }
  return {};
}

}  // namespace

Status verify(const Matrix& matrix) {
  const Item& item = matrix.item;
  const Weight& left = matrix.pruned;
  if (left.outputs != item.outputs || left.inputs != item.inputs ||
      left.values.size() != at(item.outputs * item.inputs)) {
    return broken(matrix, fmt::format("expected {} x {} weights, found {} x {}", item.outputs,
                                      item.inputs, left.outputs, left.inputs));
  }
  if (matrix.bias.size() != (item.bias.empty() ? 0 : at(item.outputs)))
    return broken(matrix, "expected as many biases as outputs, found others");
  if (!is_finite(left.values) || !is_finite(matrix.bias))
    return broken(matrix, "expected finite values, found others");
  if (matrix.integers.has_value() &&
      matrix.integers->values.size() != at(item.outputs * item.inputs)) {
    return broken(matrix, "expected as many integers as weights, found others");
  }
  return matrix.mask.has_value() ? verify_mask(matrix) : Status();
}

Status measure_output_error(const InputStatistics& statistics, Team& team, Matrix& matrix) {
  TESSERA_ASSIGN_OR_RETURN(matrix.output_error, output_error(matrix.whole, matrix.pruned,
                                                             statistics, matrix.shift, team));
  return {};
}

Result<MatrixReport> report_of(const Matrix& matrix) {
  TESSERA_ASSIGN_OR_RETURN(const PackedMatrix packed, pack(matrix));
  TESSERA_RETURN_IF_ERROR(validate(packed.matrix));
  const int64_t weights = matrix.item.outputs * matrix.item.inputs;
  const auto flops = static_cast<double>(flops_per_row(packed.matrix));
  const auto& integers = matrix.integers;
  return MatrixReport{
      .name = matrix.item.name(),
      .format = format_name(packed.matrix),
      .precision = integers ? std::string(name(integers->precision)) : "",
      .dense_bytes = weights * static_cast<int64_t>(size_bytes(matrix.dtype)),
      .bytes = tensor_bytes(packed),
      .share = matrix.share(),
      .weight_error = matrix.weight_error(),
      .output_error = matrix.output_error,
      .expected_speedup = 2.0 * static_cast<double>(weights) / std::max(flops, 1.0)};
}

}  // namespace tessera
