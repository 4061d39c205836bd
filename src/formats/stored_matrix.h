#pragma once

#include <variant>
#include <vector>

#include "formats/compact.h"
#include "formats/csr.h"
#include "formats/dense.h"
#include "formats/tiles.h"

namespace tessera {

// A matrix as a checkpoint holds it, in any format.
using StoredMatrix = std::variant<DenseView, TileMatrix, CsrMatrix, CompactMatrix>;

inline int64_t outputs(const StoredMatrix& matrix) {
  return std::visit([](const auto& one) { return one.outputs(); }, matrix);
}
inline int64_t inputs(const StoredMatrix& matrix) {
  return std::visit([](const auto& one) { return one.inputs(); }, matrix);
}

// Matrices of equal inputs whose outputs are laid one after another.
using MatrixStack = std::vector<StoredMatrix>;

}  // namespace tessera
