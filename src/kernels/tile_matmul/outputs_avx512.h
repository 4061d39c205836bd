#pragma once

#include <immintrin.h>

#include "kernels/tile_matmul/blocks.h"
#include "kernels/vector_math_avx512.h"

// The epilogue of a register tile of blocks.h. Included by AVX-512 files, each with its own
// copy.
namespace tessera::tile_blocks {
namespace {

inline __m512 same(__m512 x) { return x; }

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
      : mask(__mmask16((1u << panel.outputs) - 1)),
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
  void finish(Activation activation, int64_t rows, const float* sums) const {
    switch (activation) {
      case Activation::kNone:
        return store_rows<same>(rows, sums);
      case Activation::kRelu:
        return store_rows<vector_relu>(rows, sums);
      case Activation::kGeluErf:
        return store_rows<vector_gelu_erf>(rows, sums);
      case Activation::kGeluTanh:
        return store_rows<vector_gelu_tanh>(rows, sums);
      case Activation::kSilu:
        return store_rows<vector_silu>(rows, sums);
      case Activation::kTanh:
        return store_rows<vector_tanh>(rows, sums);
    }
  }
};

}  // namespace
}  // namespace tessera::tile_blocks
