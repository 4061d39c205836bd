#include <immintrin.h>
#include <string.h>

#include "kernels/bf16_matmul/as_floats.h"
#include "kernels/matmul/finish_avx512.h"

namespace tessera::bf16_matmul {
namespace {

using matmul::Block;
using matmul::Fetch;
using matmul::kLanes;

constexpr int kVectors = kPanelOutputs / kLanes;

inline __m512bh pairs(__m512i bits) { return (__m512bh)bits; }

// A step of the loops is a pair of inputs. Every sum is one chain, whatever the height of the tile,
// so that its bits do not depend on the rows beside it.
struct Avx512Bf16 : matmul::Epilogue {
  template <int kRows, bool kWide, Fetch kFetch>
  static void multiply(const Block& block) {
    __m512 sums[kRows][kVectors];
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVectors; ++v) {
        sums[r][v] = block.accumulate ? _mm512_load_ps(block.tile + r * kPanelOutputs + v * kLanes)
                                      : _mm512_setzero_ps();
      }
    }
    const auto* x = reinterpret_cast<const char*>(block.x);
    const auto* w = static_cast<const char*>(block.weights);
    const int64_t x_bytes = block.x_stride * 4;
    for (int64_t k = 0; k < block.inputs; ++k, x += 4, w += kPanelOutputs * 4) {
      matmul::fetch<kFetch, 1>(w, block.ahead + k * matmul::kLineBytes);
      __m512bh weights[kVectors];
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        weights[v] = pairs(_mm512_load_si512(w + v * kLanes * 4));
      }
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        int32_t pair;
        memcpy(&pair, x + r * x_bytes, sizeof(pair));
        const __m512bh value = pairs(_mm512_set1_epi32(pair));
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) {
          sums[r][v] = _mm512_dpbf16_ps(sums[r][v], value, weights[v]);
        }
      }
    }
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVectors; ++v) {
        _mm512_store_ps(block.tile + r * kPanelOutputs + v * kLanes, sums[r][v]);
      }
    }
  }
};

}  // namespace

void avx512_bf16(const Args& args, Exec exec) noexcept {
  matmul::product_of<Avx512Bf16, true>(as_floats(args), exec);
}

}  // namespace tessera::bf16_matmul
