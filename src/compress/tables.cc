#include "compress/tables.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>

#include "io/json.h"
#include "model/finite.h"

namespace tessera {
namespace {

constexpr Precision kPrecision = Precision::kW8;

// |W - W'| / |W|
double rounding_error(const DenseView& whole, const QuantizedMatrix& rounded) {
  const auto row_bytes = whole.cols * static_cast<int64_t>(size_bytes(whole.dtype));
  std::vector<float> row(static_cast<size_t>(whole.cols));
  double lost = 0, total = 0;
  for (int64_t r = 0; r < whole.rows; ++r) {
    convert_to_f32(static_cast<const char*>(whole.data) + r * row_bytes, whole.dtype, whole.cols,
                   row.data());
    for (int64_t c = 0; c < whole.cols; ++c) {
      const double value = row[static_cast<size_t>(c)];
      const float scale = rounded.scale(r, rounded.group == 0 ? 0 : c / rounded.group);
      const double error = value - double{scale} * rounded.integer(r, c);
      lost += error * error;
      total += value * value;
    }
  }
  return lost > 0 ? std::sqrt(lost / total) : 0;
}

}  // namespace

std::vector<Table> list_tables(const Source& source, const Architecture& architecture,
                               const TensorNames& names) {
  std::vector<Table> tables;
  const auto add = [&](const std::string& pattern) {
    const std::string name = tensor_name(names, pattern, 0);
    if (source.checkpoint->has(name) && source.formats->find(name) == nullptr)
      tables.push_back({name, architecture.vocabulary_size, architecture.hidden_size});
  };
  add(names.token_embedding);
  const bool has_head =
      architecture.head == Head::kCausalLm || architecture.head == Head::kMaskedLm;
  if (has_head && !names.head.output.weights.empty()) add(names.head.output.weights.front());
  return tables;
}

Result<RoundedTable> round_table(const Source& source, const Table& table, Team& team) {
  TESSERA_ASSIGN_OR_RETURN(const TensorView tensor,
                           source.checkpoint->tensor(table.tensor, {table.rows, table.cols}));
  if (find_not_finite(tensor, team) >= 0) {
    return invalid_input(fmt::format("{}: tensor {}: expected finite values, found others",
                                     source.checkpoint->directory(), quote(table.tensor)));
  }
  const DenseView whole{tensor.data, tensor.dtype, table.rows, table.cols};
  RoundedTable rounded;
  TESSERA_ASSIGN_OR_RETURN(rounded.packed,
                           pack_quantized(whole, kPrecision, default_group(kPrecision)));
  const auto matrix = get<QuantizedMatrix>(rounded.packed.matrix);
  rounded.report = {.name = table.tensor,
                    .format = format_name(matrix),
                    .precision = std::string(name(kPrecision)),
                    .dense_bytes = static_cast<int64_t>(tensor.size_bytes),
                    .bytes = tensor_bytes(rounded.packed),
                    .weight_error = rounding_error(whole, matrix),
                    .output_error = std::numeric_limits<double>::quiet_NaN(),
                    .expected_speedup = 1};
  source.checkpoint->release(tensor);
  return rounded;
}

}  // namespace tessera
