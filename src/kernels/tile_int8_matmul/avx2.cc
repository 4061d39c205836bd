#include <immintrin.h>

#include "kernels/tile_int8_matmul/blocked.h"
#include "kernels/tile_int8_matmul/tile_int8_matmul.h"
#include "kernels/tile_matmul/outputs_avx2.h"

namespace tessera::tile_int8_matmul {
namespace {

// Without dot products of bytes both sides are widened to 16 bits, whose products in pairs are
// exact. A vector then holds 16 weights: 4 inputs of 4 outputs, or 8 of 2; a step has 4 vectors.
constexpr int kStepVectors = 4;

// Sums of so many vectors of a step are kept at a time: all of them for few rows, which wait for
// memory, else two, so that 6 rows share each vector of weights.
constexpr int vectors(int rows) { return rows <= 2 ? 4 : 2; }

// A step's inputs of one row, in turns.
template <int kOutputs>
inline __m256i broadcast(const uint16_t* x) {
  if constexpr (kOutputs == 16) {
    long long four;
    __builtin_memcpy(&four, x, sizeof(four));
    return _mm256_set1_epi64x(four);
  } else {
    return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(x)));
  }
}

inline __m256i load_weights(const char* w) {
  return _mm256_cvtepi8_epi16(_mm_load_si128(reinterpret_cast<const __m128i*>(w)));
}

// Adds up the parts of two vectors' outputs and stores them in order.
template <int kOutputs>
inline void store_sums(__m256i low, __m256i high, int32_t* target) {
  const __m256i mixed = _mm256_hadd_epi32(low, high);
  if constexpr (kOutputs == 16) {  // outputs 0 1 4 5 2 3 6 7
    _mm256_store_si256(reinterpret_cast<__m256i*>(target), _mm256_permute4x64_epi64(mixed, 0xd8));
  } else {  // outputs 0 0 2 2 1 1 3 3
    const __m256i twice = _mm256_hadd_epi32(mixed, mixed);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 0, 4, 1, 5);
    _mm_store_si128(reinterpret_cast<__m128i*>(target),
                    _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(twice, order)));
  }
}

// The sums of a panel's outputs as floats, [rows][16].
void scale_sums(const Args& args, const TilePanel& panel, const int32_t* weights,
                const uint16_t* ends, const int32_t* sums, int64_t rows, float* scaled) {
  for (int64_t v = 0; v * kLanes < panel.outputs; ++v) {
    const __m256 scales = _mm256_maskload_ps(args.scales + panel.output + v * kLanes,
                                             tail_mask(panel.outputs - v * kLanes));
    const __m256i whole = _mm256_load_si256(reinterpret_cast<const __m256i*>(weights + v * kLanes));
    const __m256i parts = _mm256_or_si256(_mm256_and_si256(whole, _mm256_set1_epi32(127)),
                                          _mm256_slli_epi32(_mm256_srai_epi32(whole, 7), 16));
    for (int64_t r = 0; r < rows; ++r) {
      const RowEnd end = end_of(ends, r);
      const int64_t at = r * kLane + v * kLanes;
      const __m256i exact =
          _mm256_add_epi32(_mm256_load_si256(reinterpret_cast<const __m256i*>(sums + at)),
                           _mm256_madd_epi16(parts, _mm256_set1_epi32(int(end.zeros))));
      _mm256_store_ps(scaled + at, _mm256_mul_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(exact),
                                                               _mm256_set1_ps(end.scale)),
                                                 scales));
    }
  }
}

struct Avx2 : Integers<Avx2, uint16_t> {
  // 6 x 2 sums, a vector of weights, a broadcast and their product in 16 registers.
  static constexpr int kMaxRows = 6;

  static void copy_line(const uint8_t* source, uint16_t* target) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(source));
    _mm256_store_si256(reinterpret_cast<__m256i*>(target), _mm256_cvtepu8_epi16(bytes));
  }

  // Vectors [first, first + kVectors) of each step; target: [rows][16].
  template <int kRows, int kOutputs, int kInputs>
  static void multiply_vectors(const Args& args, const Tile<uint16_t>& tile, int first,
                               int32_t* target) {
    constexpr int kStepInputs = 64 / kOutputs, kSteps = kInputs / kStepInputs;
    constexpr int kVectors = vectors(kRows);
    __m256i sums[kRows][kVectors];
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sums[r][v] = _mm256_setzero_si256();
    }
    const char* w = tile.values + first * 16;
    const char* ahead = tile.ahead;
    for (int64_t b = tile.panel->begin; b < tile.panel->end; ++b, w += kSteps * kLineBytes) {
      const uint16_t* x = packed_at<kRows>(tile.x, args.blocks[b], kInputs);
      if constexpr (kVectors == kStepVectors) {
        fetch_lines(w + kStreamAheadBytes, kSteps);
      } else if (first == 0) {
        fetch_lines(ahead, tile.ahead_lines);
        ahead += tile.ahead_lines * kLineBytes;
      }
#pragma GCC unroll 4
      for (int s = 0; s < kSteps; ++s) {
        __m256i weights[kVectors];
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) weights[v] = load_weights(w + s * kLineBytes + v * 16);
#pragma GCC unroll 6
        for (int r = 0; r < kRows; ++r) {
          const __m256i value = broadcast<kOutputs>(x + r * kLane + s * kStepInputs);
#pragma GCC unroll 4
          for (int v = 0; v < kVectors; ++v) {
            sums[r][v] = _mm256_add_epi32(sums[r][v], _mm256_madd_epi16(value, weights[v]));
            // GCC would make all products of a block before it adds them up, beyond 16 registers.
            asm volatile("" : "+x"(sums[r][v]));
          }
        }
      }
    }
    constexpr int kVectorOutputs = kOutputs / kStepVectors;
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; v += 2) {
        store_sums<kOutputs>(sums[r][v], sums[r][v + 1],
                             target + r * kLane + (first + v) * kVectorOutputs);
      }
    }
  }

  template <int kRows, int kOutputs, int kInputs>
  static void multiply(const Args& args, const Tile<uint16_t>& tile) {
    alignas(64) int32_t sums[kRows * kLane];
    for (int first = 0; first < kStepVectors; first += vectors(kRows)) {
      multiply_vectors<kRows, kOutputs, kInputs>(args, tile, first, sums);
    }
    alignas(64) float scaled[kRows * kLane];
    scale_sums(args, *tile.panel, panel_sums(args, tile), row_ends(args, tile, kRows), sums, kRows,
               scaled);
    finish(args, TileSums{tile.row, kRows, *tile.panel, scaled});
  }
};

}  // namespace

void avx2(const Args& args, Exec exec) noexcept { product<Avx2>(args, exec); }

}  // namespace tessera::tile_int8_matmul
