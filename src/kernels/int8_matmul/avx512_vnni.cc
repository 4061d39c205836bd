#include <immintrin.h>
#include <string.h>

#include "kernels/int8_matmul/finish_avx512.h"

namespace tessera::int8_matmul {
namespace {

using matmul::Block;
using matmul::Fetch;

// A step of the loops is four inputs. Flat tiles have several chains of sums, which hide the
// latency of the products; integers may be added in any order.
struct Avx512Vnni : Epilogue {
  template <int kRows, bool kWide, Fetch kFetch>
  static void multiply(const Block& block) {
    constexpr int kParts = kRows <= 1 ? 4 : kRows <= 2 ? 2 : 1;
    __m512i sums[kParts][kRows][kVectors];
    for (int p = 0; p < kParts; ++p) {
      for (int r = 0; r < kRows; ++r) {
        for (int v = 0; v < kVectors; ++v) {
          sums[p][r][v] = p == 0 && block.accumulate
                              ? _mm512_load_si512(block.tile + r * kPanelOutputs + v * kLanes)
                              : _mm512_setzero_si512();
        }
      }
    }
    const auto* x = reinterpret_cast<const char*>(block.x);
    const auto* w = static_cast<const char*>(block.weights);
    const int64_t x_bytes = block.x_stride * 4;
    const auto step = [&](int p) {
      __m512i weights[kVectors];
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) weights[v] = _mm512_load_si512(w + v * kLanes * 4);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        int32_t four;
        memcpy(&four, x + r * x_bytes, sizeof(four));
        const __m512i values = _mm512_set1_epi32(four);
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) {
          sums[p][r][v] = _mm512_dpbusd_epi32(sums[p][r][v], values, weights[v]);
        }
      }
      x += 4;
      w += kPanelOutputs * 4;
    };
    int64_t k = 0;
    for (; k + kParts <= block.inputs; k += kParts) {
#pragma GCC unroll 4
      for (int p = 0; p < kParts; ++p) {
        matmul::fetch<kFetch, 1>(w, block.ahead + (k + p) * matmul::kLineBytes);
        step(p);
      }
    }
    for (; k < block.inputs; ++k) step(0);
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVectors; ++v) {
        __m512i sum = sums[0][r][v];
        for (int p = 1; p < kParts; ++p) sum = _mm512_add_epi32(sum, sums[p][r][v]);
        _mm512_store_si512(block.tile + r * kPanelOutputs + v * kLanes, sum);
      }
    }
  }
};

}  // namespace

void avx512_vnni(const Args& args, Exec exec) noexcept {
  matmul::product_of<Avx512Vnni, true>(in_fours(args), exec);
}

}  // namespace tessera::int8_matmul
