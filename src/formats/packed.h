#pragma once

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "formats/stored_matrix.h"
#include "formats/tile_mask.h"

namespace tessera {

// A stored matrix with the memory that it points into. It may be moved, not copied.
//   values:  empty where the values belong to a checkpoint
//   offsets: of tiles and CSR
//   indices: columns of tiles or elements, or a compact matrix's index
struct PackedMatrix {
  StoredMatrix matrix;
  std::vector<char> values;
  std::vector<int32_t> offsets;
  std::vector<int32_t> indices;

  PackedMatrix() = default;
  PackedMatrix(PackedMatrix&&) = default;
  PackedMatrix& operator=(PackedMatrix&&) = default;
};

// Takes from a dense matrix what the mask keeps, bit by bit. The mask has the matrix's shape; for
// CSR its tiles are 1 x 1. Matrices of more than 2^31 - 1 kept units are kUnsupported.
Result<PackedMatrix> pack_tiles(const DenseView& dense, const TileMask& mask);
Result<PackedMatrix> pack_csr(const DenseView& dense, const TileMask& mask);
// kept: one byte an output (or input), 1 where kept.
Result<PackedMatrix> pack_compact(const DenseView& dense, KeptAxis axis,
                                  const std::vector<uint8_t>& kept);

// Sets what the mask prunes to zero, in a dense matrix of values of value_bytes each.
void clear_pruned(const TileMask& mask, size_t value_bytes, void* dense);

}  // namespace tessera
