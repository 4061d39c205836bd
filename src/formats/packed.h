#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "base/status.h"
#include "base/team.h"
#include "formats/compact.h"
#include "formats/csr.h"
#include "formats/dense.h"
#include "formats/quantized.h"
#include "formats/stored_matrix.h"
#include "formats/tile_mask.h"
#include "formats/tiles.h"

namespace tessera {

// A stored matrix with the memory that its parts point into. It may be moved, not copied.
struct PackedMatrix {
  StoredMatrix matrix;
  // One each of the matrix's parts, or fewer; empty where a part's memory belongs to a checkpoint.
  std::vector<std::vector<char>> memory = {};

  PackedMatrix() = default;
  explicit PackedMatrix(StoredMatrix stored) : matrix(std::move(stored)) {}
  PackedMatrix(PackedMatrix&&) = default;
  PackedMatrix& operator=(PackedMatrix&&) = default;

  // Has a part point to these bytes, which are of its dtype and shape and aligned as malloc does.
  void own(size_t part, std::vector<char> bytes);
};

// The same matrix in memory of its own.
PackedMatrix copy_of(const StoredMatrix& matrix);
// As that, with the values of its first part, which are not copied.
PackedMatrix packed_with(StoredMatrix matrix, std::vector<char> values);
// Gives a matrix the scales of the optional part of this suffix, [scales] in f32; empty: none.
void set_scales(const char* suffix, const std::vector<float>& scales, PackedMatrix& packed);

// Takes from a dense matrix what the mask keeps, bit by bit. The mask has the matrix's shape; for
// CSR its tiles are 1 x 1. Matrices of more than 2^31 - 1 kept units are kUnsupported.
Result<PackedMatrix> pack_tiles(const DenseView& dense, const TileMask& mask);
Result<PackedMatrix> pack_csr(const DenseView& dense, const TileMask& mask);
// kept: one byte an output (or input), 1 where kept.
Result<PackedMatrix> pack_compact(const DenseView& dense, KeptAxis axis,
                                  const std::vector<uint8_t>& kept);

// Inputs that share a scale unless the options say otherwise: all (0) of kInt8, with f32 scales;
// 32 at 4 bits and 64 of kW8, with f16 scales, which then take a sixteenth of the bits at most.
int32_t default_group(Precision precision);
DType scale_type(Precision precision);

// Rounds a dense f32, f16 or bf16 matrix, to nearest. At 8 bits the scale is the largest magnitude
// of a group over 127; at 4 bits, of a few around that value itself over -8, the one of least
// squared error, then what fits the integers best. The team, if any, shares the outputs; bits do
// not depend on it.
Result<PackedMatrix> pack_quantized(const DenseView& dense, Precision precision, int32_t group,
                                    Team* team = nullptr);
// Rounds the tiles of f32, f16 or bf16 to int8, as that does to kInt8: the scale is the largest
// magnitude that is kept of an output over 127.
Result<PackedMatrix> pack_quantized(const TileMatrix& tiles);
// Integer tiles as f32 ones, of which each value is rounded once.
PackedMatrix pack_floats(const TileMatrix& integers);
// Integer tiles as a quantized matrix of the same integers and scales, 0 where they are pruned.
PackedMatrix pack_whole(const TileMatrix& integers);

// What a quantized matrix holds, a byte each, with its scales as f32.
struct Integers {
  Precision precision = Precision::kInt8;
  int64_t outputs = 0;
  int64_t inputs = 0;
  int32_t group = 0;                // as in QuantizedMatrix
  std::vector<int8_t> values;       // [outputs, inputs]
  std::vector<float> scales;        // [outputs, groups]; f32 in files where scale_type() lacks one
  std::vector<float> input_scales;  // [inputs], or empty
};
PackedMatrix pack_integers(const Integers& integers);

// Lays the outputs of one quantized matrix behind those of another of equal inputs, precision and
// group, which may be empty. outputs: of all that will be laid there, to get memory once.
void append_outputs(const PackedMatrix& piece, int64_t outputs, PackedMatrix& whole);

// Sets what the mask prunes to zero, in a dense matrix of values of value_bytes each.
void clear_pruned(const TileMask& mask, size_t value_bytes, void* dense);

}  // namespace tessera
