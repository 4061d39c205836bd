#pragma once

#include <immintrin.h>

#include "kernels/tile_matmul/blocks.h"
#include "kernels/vector_math_avx512.h"

// The epilogue of a register tile of blocks.h. Included by AVX-512 files, each with its own
// copy.
namespace tessera::tile_blocks {
namespace {

// Where the finished sums of a register tile go, which begins at `row` of args.
struct Outputs {
  __mmask16 mask;
  __m512 bias;
  const float* residual;
  int64_t residual_stride;
  float* y;
  int64_t y_stride;

  template <typename Args>
  Outputs(const Args& args, int64_t row, const TilePanel& panel)
      : mask(tail_mask(panel.outputs)),
        bias(args.bias == nullptr ? _mm512_setzero_ps()
                                  : _mm512_maskz_loadu_ps(mask, args.bias + panel.output)),
        residual(args.residual == nullptr
                     ? nullptr
                     : args.residual + row * args.residual_stride + panel.output),
        residual_stride(args.residual_stride),
        y(args.y + row * args.y_stride + panel.output),
        y_stride(args.y_stride) {}

  template <__m512 (*function)(__m512)>
  void store(int64_t row, __m512 sum) const {
    __m512 value = function(_mm512_add_ps(sum, bias));
    if (residual != nullptr) {
      value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, residual + row * residual_stride));
    }
    _mm512_mask_storeu_ps(y + row * y_stride, mask, value);
  }

  template <__m512 (*function)(__m512)>
  void store_rows(int64_t rows, const float* sums) const {
    for (int64_t r = 0; r < rows; ++r) store<function>(r, _mm512_load_ps(sums + r * kLane));
  }

  // sums: [rows][16]
  [[gnu::noinline]] void finish(Activation activation, int64_t rows, const float* sums) const {
    with_activation(activation,
                    [&]<__m512 (*function)(__m512)>() { store_rows<function>(rows, sums); });
  }
};

}  // namespace
}  // namespace tessera::tile_blocks
