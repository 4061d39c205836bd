#include "formats/compact.h"

#include <fmt/format.h>

#include <cstring>

#include "formats/checks.h"
#include "formats/packed.h"
#include "formats/weight_format.h"

namespace tessera {
namespace {

// Whether what is kept are whole rows of the matrix as it is stored, else whole columns.
bool keeps_rows(const CompactMatrix& matrix) {
  return (matrix.axis == KeptAxis::kOutputs) == (matrix.kept.order == MatrixOrder::kOutputRows);
}

}  // namespace

Status validate(const CompactMatrix& matrix) {
  const bool rows = keeps_rows(matrix);
  TESSERA_RETURN_IF_ERROR(check_extents(rows ? matrix.whole : matrix.kept.rows,
                                        rows ? matrix.kept.cols : matrix.whole));
  const int64_t count = matrix.kept_count();
  if (count < 0 || count > matrix.whole) {
    return invalid_input(fmt::format("expected at most {} kept {}, found {}", matrix.whole,
                                     matrix.axis == KeptAxis::kOutputs ? "outputs" : "inputs",
                                     count));
  }
  return check_ascending({"index", matrix.index, 0, count, matrix.whole});
}

void to_dense(const CompactMatrix& matrix, void* target) {
  const int64_t bytes = static_cast<int64_t>(size_bytes(matrix.kept.dtype));
  auto* dense = static_cast<char*>(target);
  const auto* kept = static_cast<const char*>(matrix.kept.data);
  const int64_t count = matrix.kept_count();
  if (keeps_rows(matrix)) {
    const int64_t row_bytes = matrix.kept.cols * bytes;
    std::memset(dense, 0, static_cast<size_t>(matrix.whole * row_bytes));
    for (int64_t i = 0; i < count; ++i) {
      std::memcpy(dense + matrix.index[i] * row_bytes, kept + i * row_bytes,
                  static_cast<size_t>(row_bytes));
    }
    return;
  }
  std::memset(dense, 0, static_cast<size_t>(matrix.kept.rows * matrix.whole * bytes));
  for (int64_t row = 0; row < matrix.kept.rows; ++row) {
    for (int64_t i = 0; i < count; ++i) {
      std::memcpy(dense + (row * matrix.whole + matrix.index[i]) * bytes,
                  kept + (row * count + i) * bytes, static_cast<size_t>(bytes));
    }
  }
}

int64_t flops_per_row(const CompactMatrix& matrix) {
  return 2 * matrix.kept.rows * matrix.kept.cols;
}

namespace {

constexpr std::string_view kAxes[] = {"outputs", "inputs"};  // as KeptAxis has them
constexpr AttributeSpec kAttributes[] = {
    {.key = "axis", .kind = AttributeSpec::Kind::kWord, .words = kAxes}};

enum : size_t { kKept, kIndex };
constexpr PartSpec kParts[] = {{".kept"}, {".kept_index"}};

bool keeps_rows(const StoredMatrix& matrix) {
  return (static_cast<KeptAxis>(matrix.attributes[0][0]) == KeptAxis::kOutputs) ==
         (matrix.order == MatrixOrder::kOutputRows);
}

PartRule rule(const StoredMatrix& matrix, size_t index) {
  const bool rows = keeps_rows(matrix);
  if (index == kKept) {
    return {PartType::kFloats, {rows ? -1 : matrix.rows, rows ? matrix.cols : -1}};
  }
  return {PartType::kIndices,
          {matrix.part(kKept).shape[rows ? 0 : 1]},
          rows ? matrix.rows : matrix.cols};
}

}  // namespace

CompactMatrix CompactMatrix::of(const StoredMatrix& matrix) {
  const MatrixPart& kept = matrix.part(kKept);
  return {{kept.data, kept.dtype, kept.shape[0], kept.shape[1], matrix.order},
          static_cast<KeptAxis>(matrix.attributes[0][0]),
          matrix.data<int32_t>(kIndex),
          keeps_rows(matrix) ? matrix.rows : matrix.cols};
}

CompactMatrix::operator StoredMatrix() const {
  const bool rows = keeps_rows(*this);
  return {&kFormat,
          rows ? whole : kept.rows,
          rows ? kept.cols : whole,
          kept.order,
          {{static_cast<int64_t>(axis), 0}},
          {{kept.data, kept.dtype, {kept.rows, kept.cols}}, {index, DType::kI32, {kept_count()}}}};
}

constinit const WeightFormat weight_formats::compact = {
    .name = "compact",
    .attributes = kAttributes,
    .parts = kParts,
    .rule = rule,
    .validate = [](const StoredMatrix& matrix) { return validate(get<CompactMatrix>(matrix)); },
    .to_dense = [](const StoredMatrix& matrix,
                   void* target) { to_dense(get<CompactMatrix>(matrix), target); },
    .flops_per_row =
        [](const StoredMatrix& matrix) { return flops_per_row(get<CompactMatrix>(matrix)); },
    .pack = [](const DenseView& dense) -> Result<PackedMatrix> {
      return pack_compact(dense, KeptAxis::kOutputs,
                          std::vector<uint8_t>(static_cast<size_t>(dense.outputs()), 1));
    },
};

}  // namespace tessera
