#include "formats/csr.h"

#include <cstring>

#include "formats/checks.h"
#include "formats/packed.h"
#include "formats/weight_format.h"

namespace tessera {

Status validate(const CsrMatrix& matrix, int64_t kept) {
  TESSERA_RETURN_IF_ERROR(check_extents(matrix.rows, matrix.cols));
  TESSERA_RETURN_IF_ERROR(check_offsets({"row", matrix.offsets, matrix.rows}, kept));
  for (int64_t row = 0; row < matrix.rows; ++row) {
    TESSERA_RETURN_IF_ERROR(check_ascending(
        {"columns", matrix.columns, matrix.offsets[row], matrix.offsets[row + 1], matrix.cols}));
  }
  return {};
}

void to_dense(const CsrMatrix& matrix, void* target) {
  const int64_t bytes = static_cast<int64_t>(size_bytes(matrix.dtype));
  auto* dense = static_cast<char*>(target);
  const auto* values = static_cast<const char*>(matrix.values);
  std::memset(dense, 0, static_cast<size_t>(matrix.rows * matrix.cols * bytes));
  for (int64_t row = 0; row < matrix.rows; ++row) {
    for (int64_t i = matrix.offsets[row]; i < matrix.offsets[row + 1]; ++i) {
      std::memcpy(dense + (row * matrix.cols + matrix.columns[i]) * bytes, values + i * bytes,
                  static_cast<size_t>(bytes));
    }
  }
}

int64_t flops_per_row(const CsrMatrix& matrix) { return 2 * matrix.kept(); }

namespace {

enum : size_t { kValues, kOffsets, kColumns };
constexpr PartSpec kParts[] = {{".csr_values"}, {".csr_offsets"}, {".csr_columns"}};

PartRule rule(const StoredMatrix& matrix, size_t index) {
  switch (index) {
    case kValues:
      return {PartType::kFloats, {-1}};
    case kOffsets:
      return {PartType::kIndices, {matrix.rows + 1}};
    default:
      return {PartType::kIndices, {matrix.part(kValues).shape[0]}, matrix.cols};
  }
}

}  // namespace

CsrMatrix CsrMatrix::of(const StoredMatrix& matrix) {
  return {matrix.part(kValues).data,
          matrix.part(kValues).dtype,
          matrix.rows,
          matrix.cols,
          matrix.order,
          matrix.data<int32_t>(kOffsets),
          matrix.data<int32_t>(kColumns)};
}

CsrMatrix::operator StoredMatrix() const {
  return {&kFormat,
          rows,
          cols,
          order,
          {},
          {{values, dtype, {kept()}},
           {offsets, DType::kI32, {rows + 1}},
           {columns, DType::kI32, {kept()}}}};
}

constinit const WeightFormat weight_formats::csr = {
    .name = "csr",
    .parts = kParts,
    .rule = rule,
    .validate =
        [](const StoredMatrix& matrix) {
          return validate(get<CsrMatrix>(matrix), matrix.part(kValues).shape[0]);
        },
    .to_dense = [](const StoredMatrix& matrix,
                   void* target) { to_dense(get<CsrMatrix>(matrix), target); },
    .flops_per_row =
        [](const StoredMatrix& matrix) { return flops_per_row(get<CsrMatrix>(matrix)); },
    .pack = [](const DenseView& dense) -> Result<PackedMatrix> {
      return pack_csr(dense, TileMask::all({1, 1}, dense.rows, dense.cols));
    },
};

}  // namespace tessera
