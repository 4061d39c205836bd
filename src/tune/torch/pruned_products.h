#pragma once

#include <cstdint>
#include <optional>

#include "formats/tile_mask.h"
#include "formats/tile_panels.h"

namespace tessera::training {

// Rows of f32 that lie one after another.
struct Rows {
  float* data = nullptr;
  int64_t rows = 0;
  int64_t width = 0;
};

// The products of a pruned W [outputs, inputs] of y = x W^T that multiply its kept tiles only, on
// all threads of OpenMP. W lies dense in memory and is packed for each product again, because
// training changes it. Equal numbers of threads give equal bits.
class PrunedProducts {
 public:
  // None where no kernel multiplies tiles of this shape, or where dense products are as fast.
  static std::optional<PrunedProducts> of(const TileMask& mask);

  // y = x W^T + bias; bias: [outputs] or null
  void forward(Rows x, const float* weights, const float* bias, Rows y) const;
  // dx = dy W
  void input_gradient(Rows dy, const float* weights, Rows dx) const;
  // dw = dy^T x in the kept tiles; dw: [outputs, inputs], 0 before.
  void weight_gradient(Rows dy, Rows x, float* dw) const;

 private:
  // Blocks of W, in panels of outputs, and of W^T, in panels of inputs; of tiles that are no
  // multiples of 8 inputs or of 8 outputs only the former or the latter, lines of 16 weights.
  TilePattern by_outputs_;
  TilePattern by_inputs_;
};

}  // namespace tessera::training
