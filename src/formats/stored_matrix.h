#pragma once

#include <variant>
#include <vector>

#include "formats/compact.h"
#include "formats/csr.h"
#include "formats/dense.h"
#include "formats/quantized.h"
#include "formats/tiles.h"

namespace tessera {

// A matrix as a checkpoint holds it, in any format.
using StoredMatrix = std::variant<DenseView, TileMatrix, CsrMatrix, CompactMatrix, QuantizedMatrix>;

inline int64_t outputs(const StoredMatrix& matrix) {
  return std::visit([](const auto& one) { return one.outputs(); }, matrix);
}
inline int64_t inputs(const StoredMatrix& matrix) {
  return std::visit([](const auto& one) { return one.inputs(); }, matrix);
}

// Of the matrix written out.
DType dtype(const StoredMatrix& matrix);
MatrixOrder order(const StoredMatrix& matrix);
// Bytes of the matrix written out, and that: target as the formats' own to_dense.
int64_t dense_bytes(const StoredMatrix& matrix);
void to_dense(const StoredMatrix& matrix, void* target);
int64_t packed_bytes(const StoredMatrix& matrix);
int64_t flops_per_row(const StoredMatrix& matrix);
const char* format_name(const StoredMatrix& matrix);  // "dense", "tiles", "csr", "compact",
                                                      // "quantized"

// Matrices of equal inputs whose outputs are laid one after another.
using MatrixStack = std::vector<StoredMatrix>;

}  // namespace tessera
