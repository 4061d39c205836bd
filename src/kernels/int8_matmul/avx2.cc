#include <immintrin.h>
#include <string.h>

#include "kernels/int8_matmul/product.h"
#include "kernels/matmul/finish_avx2.h"

namespace tessera::int8_matmul {
namespace {

using matmul::Block;
using matmul::Fetch;
using matmul::kLanes;

// Bytes are widened to 16 bits, because the product of unsigned with signed bytes saturates. A
// vector holds four inputs of each of four outputs; their products are added in pairs, so that each
// output has two sums.
constexpr int64_t kVectorOutputs = 4;

// Rows of a block in 16 bits: [rows][fours of inputs][4].
struct Widened {
  alignas(32) uint16_t at[matmul::kBlockRows][matmul::kChunk * 4];

  inline void load(const Block& block, int rows) {
    for (int r = 0; r < rows; ++r) {
      const auto* x = reinterpret_cast<const char*>(block.x + r * block.x_stride);
      // Rows are padded to 64 inputs, so whole vectors may be read.
      for (int64_t k = 0; k < block.inputs * 4; k += 16) {
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x + k));
        _mm256_store_si256(reinterpret_cast<__m256i*>(at[r] + k), _mm256_cvtepu8_epi16(bytes));
      }
    }
  }
};

inline __m256i load_tile(const float* at) {
  return _mm256_load_si256(reinterpret_cast<const __m256i*>(at));
}
inline void store_tile(float* at, __m256i sums) {
  _mm256_store_si256(reinterpret_cast<__m256i*>(at), sums);
}

// Adds the two sums of each of eight outputs.
inline __m256i join(__m256i low, __m256i high) {
  constexpr int kOrder = 0 | 2 << 2 | 1 << 4 | 3 << 6;
  return _mm256_permute4x64_epi64(_mm256_hadd_epi32(low, high), kOrder);
}

// kVectors x 4 outputs of the tile from `column` on. Sixteen registers hold 6 x 2 sums, the
// weights, a row's inputs and a product.
template <int kRows, int kVectors, Fetch kFetch>
inline void multiply_column(const Block& block, const Widened& rows, int64_t column) {
  __m256i sums[kRows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sums[r][v] = _mm256_setzero_si256();
  }
  const auto* w = static_cast<const char*>(block.weights) + column * 4;
  for (int64_t k = 0; k < block.inputs; ++k, w += kPanelOutputs * 4) {
    matmul::fetch<kFetch, 1>(w, block.ahead + k * matmul::kLineBytes);
    __m256i weights[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      weights[v] = _mm256_cvtepi8_epi16(
          _mm_load_si128(reinterpret_cast<const __m128i*>(w + v * kVectorOutputs * 4)));
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      int64_t four;
      memcpy(&four, rows.at[r] + k * 4, sizeof(four));
      const __m256i x = _mm256_set1_epi64x(four);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        sums[r][v] = _mm256_add_epi32(sums[r][v], _mm256_madd_epi16(x, weights[v]));
        asm volatile("" : "+x"(sums[r][v]));
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; v += 2) {
      float* at = block.tile + r * kPanelOutputs + column + v * kVectorOutputs;
      const __m256i sum = join(sums[r][v], sums[r][v + 1]);
      store_tile(at, block.accumulate ? _mm256_add_epi32(sum, load_tile(at)) : sum);
    }
  }
}

struct Avx2 {
  template <int kRows, bool kWide, Fetch kFetch>
  static void multiply(const Block& block) {
    constexpr int kVectors = kRows == 1 ? 8 : kRows == 2 ? 4 : 2;
    constexpr int64_t kOutputs = kVectors * kVectorOutputs;
    Widened rows;
    rows.load(block, kRows);
    // The first sub-column fetches for all.
    multiply_column<kRows, kVectors, kFetch>(block, rows, 0);
    for (int64_t column = kOutputs; column < kPanelOutputs; column += kOutputs) {
      multiply_column<kRows, kVectors, Fetch::kNone>(block, rows, column);
    }
  }

  // tile: int32 [target.rows][64], aligned to 32 bytes; floats afterwards.
  static void finish(const matmul::Args& args, float* tile, const matmul::Target& target) {
    const auto& product = static_cast<const Product&>(args);
    for (int64_t n = 0; n < kPanelOutputs; n += kLanes) {
      const __m256 scale = _mm256_loadu_ps(product.scales + target.output + n);
      const __m256i sum =
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(product.sums + target.output + n));
      for (int64_t r = 0; r < target.rows; ++r) {
        float* at = tile + r * kPanelOutputs + n;
        const __m256i zero = _mm256_set1_epi32(product.row_zeros[target.row + r]);
        const __m256 row_scale = _mm256_set1_ps(product.row_scales[target.row + r]);
        const __m256i whole = _mm256_sub_epi32(load_tile(at), _mm256_mullo_epi32(zero, sum));
        const __m256 value = _mm256_mul_ps(_mm256_cvtepi32_ps(whole), row_scale);
        _mm256_store_ps(at, _mm256_mul_ps(value, scale));
      }
    }
    matmul::Epilogue::finish(args, tile, target);
  }
};

}  // namespace

void avx2(const Args& args, Exec exec) noexcept {
  matmul::product_of<Avx2, true>(in_fours(args), exec);
}

}  // namespace tessera::int8_matmul
