#pragma once

#include <memory>
#include <string>

#include "base/device.h"
#include "formats/compact.h"
#include "formats/csr.h"
#include "formats/quantized.h"
#include "formats/tile_panels.h"
#include "linear/linear.h"

// What prepare_linear is made of. Every function takes matrices of equal inputs, already validated,
// and a bias of all their outputs or null, and keeps none of it.
namespace tessera {

// What rows [rows.begin, rows.end) of a call are for a kernel that reads them in another form:
// where they are written, and the activation.
template <typename Product>
void take_results(const LinearArgs& args, Range rows, Product& product) {
  product.rows = rows.size();
  product.activation = args.activation;
  if (args.residual != nullptr) {
    product.residual = args.residual + rows.begin * args.residual_stride;
    product.residual_stride = args.residual_stride;
  }
  product.y = args.y + rows.begin * args.y_stride;
  product.y_stride = args.y_stride;
}

// And where they are read.
template <typename Product>
void take_rows(const LinearArgs& args, Range rows, Product& product) {
  product.x = args.x + rows.begin * args.x_stride;
  product.x_stride = args.x_stride;
  take_results(args, rows, product);
}

// Memory for what a map keeps, or an error that says how much it needs.
Result<Buffer> allocate_packed(int64_t bytes);

// What stands about a product of tiles before it is packed.
struct TileProduct {
  TilePattern pattern;          // its blocks
  DType numbers = DType::kF32;  // of the packed values: kF32, kBF16 or kI8
  TileCosts costs;
  int64_t l2_bytes = kUsualL2Bytes;
};

// One product of a stack of tile-pruned matrices.
Result<std::unique_ptr<Linear>> prepare_tiles(const TileStack& stack, TileProduct product,
                                              const float* bias, Team& team);

// The same with integer rows, of int8 tiles of equal input scales and at most
// tile_int8_matmul::kMaxInputs inputs.
Result<std::unique_ptr<Linear>> prepare_int8_tiles(const TileStack& stack, TileProduct product,
                                                   const float* bias, Team& team);

// One product of a stack of matrices of single elements, of at most csr_matmul::kMaxInputs inputs.
Result<std::unique_ptr<Linear>> prepare_csr(const std::vector<CsrMatrix>& stack, const float* bias,
                                            DType stored, Team& team);

// Products of what is kept of a matrix of whole outputs or inputs.
Result<std::unique_ptr<Linear>> prepare_compact(const CompactMatrix& matrix, const float* bias,
                                                const LinearChoices& choices, Team& team);

using QuantizedStack = std::vector<QuantizedMatrix>;

// One product of a stack of integer matrices with integer rows (kInt8 without groups).
Result<std::unique_ptr<Linear>> prepare_int8(const QuantizedStack& stack, const float* bias,
                                             const LinearChoices& choices, Team& team);

// One product of a stack of integer matrices with scales for groups of inputs, or of 4 bits: of
// equal precision and group.
Result<std::unique_ptr<Linear>> prepare_groups(const QuantizedStack& stack, const float* bias,
                                               const LinearChoices& choices, Team& team);

}  // namespace tessera
