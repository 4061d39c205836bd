#include <immintrin.h>

#include "kernels/tile_matmul/blocked.h"
#include "kernels/tile_matmul/outputs_avx2.h"
#include "kernels/tile_matmul/tile_matmul.h"

namespace tessera::tile_matmul {
namespace {

constexpr int kVectors = 2;

// Chains of sums per row that are added at the end: flat tiles need several to hide the latency of
// the multiply-add. From 4 rows on there is one.
constexpr int chains(int rows) { return rows < 2 ? 4 : rows < 4 ? 2 : 1; }

// A step's inputs of one row: one input to all lanes, or two in turns.
template <int kOutputs>
inline __m256 broadcast(const float* x) {
  if constexpr (kOutputs == 16) {
    return _mm256_broadcast_ss(x);
  } else {
    double pair;
    __builtin_memcpy(&pair, x, sizeof(pair));
    return _mm256_castpd_ps(_mm256_set1_pd(pair));
  }
}

// One step's weights; of two bf16 steps that are interleaved the one that `odd` says.
template <bool kWide>
inline void load_step(const char* w, int odd, __m256 (&weights)[kVectors]) {
#pragma GCC unroll 2
  for (int v = 0; v < kVectors; ++v) {
    if constexpr (kWide) {
      weights[v] =
          _mm256_load_ps(reinterpret_cast<const float*>(w + odd * kLineBytes) + v * kLanes);
    } else {
      const __m256i pairs = _mm256_load_si256(reinterpret_cast<const __m256i*>(w) + v);
      weights[v] = _mm256_castsi256_ps(
          odd == 0 ? _mm256_slli_epi32(pairs, 16)
                   : _mm256_and_si256(pairs, _mm256_set1_epi32(int(0xffff0000))));
    }
  }
}

// The sums of 8 outputs stand as pairs of lanes, for even and odd inputs.
template <int kOutputs>
inline void store_row(const __m256 (&sums)[kVectors], float* target) {
  if constexpr (kOutputs == 16) {
    for (int v = 0; v < kVectors; ++v) _mm256_store_ps(target + v * kLanes, sums[v]);
  } else {
    const __m256 mixed = _mm256_hadd_ps(sums[0], sums[1]);  // outputs 0 1 4 5 2 3 6 7
    const __m256d ordered = _mm256_permute4x64_pd(_mm256_castps_pd(mixed), 0xd8);
    _mm256_store_ps(target, _mm256_castpd_ps(ordered));
  }
}

// A single input's weights.
template <bool kWide>
inline void load_single(const char* w, __m256 (&weights)[kVectors]) {
#pragma GCC unroll 2
  for (int v = 0; v < kVectors; ++v) {
    if constexpr (kWide) {
      weights[v] = _mm256_load_ps(reinterpret_cast<const float*>(w) + v * kLanes);
    } else {
      const __m128i bits = _mm_load_si128(reinterpret_cast<const __m128i*>(w) + v);
      weights[v] = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
    }
  }
}

// The sums of a register tile, in chains.
template <int kRows>
using Sums = __m256[chains(kRows)][kRows][kVectors];

// Adds the chains up and gives what comes of them to the outputs.
template <int kRows, int kOutputs>
inline void store_sums(const Args& args, const Tile<float>& tile, Sums<kRows>& sums) {
  constexpr int kChains = chains(kRows);
  if constexpr (kChains > 1) {
#pragma GCC unroll 6
    for (int i = kRows; i < kChains * kRows; ++i) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        __m256& sum = sums[0][i % kRows][v];
        sum = _mm256_add_ps(sum, sums[i / kRows][i % kRows][v]);
      }
    }
  }
  alignas(64) float whole[kRows * kLane];
  for (int r = 0; r < kRows; ++r) store_row<kOutputs>(sums[0][r], whole + r * kLane);
  finish(args, {tile.row, kRows, *tile.panel, whole});
}

struct Avx2 : Floats<Avx2> {
  // 6 x 2 sums, two vectors of weights and a broadcast in 16 registers.
  static constexpr int kMaxRows = 6;

  static void copy_line(const float* source, float* target) {
    _mm256_store_ps(target, _mm256_loadu_ps(source));
    _mm256_store_ps(target + kLanes, _mm256_loadu_ps(source + kLanes));
  }
  static void transpose(const transpose::Args& args, Exec rows) { transpose::avx2(args, rows); }

  template <int kRows, int kOutputs, bool kWide>
  static void multiply(const Args& args, const Tile<float>& tile) {
    constexpr int kChains = chains(kRows), kStepInputs = 16 / kOutputs;
    constexpr int64_t kFourBytes = kFourSteps * (kWide ? 4 : 2);
    Sums<kRows> sums = {};
    const int32_t block_inputs = args.shape.inputs;
    const int fours = block_inputs / (4 * kStepInputs);
    const char* w = tile.values;
    [[maybe_unused]] const char* ahead = tile.ahead;
    for (int64_t b = tile.panel->begin; b < tile.panel->end; ++b) {
      const float* x = packed_at<kRows>(tile.x, args.blocks[b], block_inputs);
      for (int i = 0; i < fours; ++i, x += 4 * kStepInputs, w += kFourBytes) {
        if constexpr (kRows == 1) {
          fetch_lines(w + kStreamAheadBytes, kFourBytes / kLineBytes);
        } else {
          fetch_lines(ahead, tile.ahead_lines);
          ahead += tile.ahead_lines * kLineBytes;
        }
#pragma GCC unroll 4
        for (int s = 0; s < 4; ++s) {
          __m256 weights[kVectors];
          load_step<kWide>(w + s / 2 * (kWide ? 2 * kLineBytes : kLineBytes), s % 2, weights);
#pragma GCC unroll 6
          for (int r = 0; r < kRows; ++r) {
            const __m256 value = broadcast<kOutputs>(x + r * kLane + s * kStepInputs);
#pragma GCC unroll 2
            for (int v = 0; v < kVectors; ++v) {
              __m256& sum = sums[s % kChains][r][v];
              sum = _mm256_fmadd_ps(value, weights[v], sum);
            }
          }
        }
      }
    }
    store_sums<kRows, kOutputs>(args, tile, sums);
  }

  // Panels of single inputs, four at a time.
  template <int kRows, bool kWide>
  static void multiply_singles(const Args& args, const Tile<float>& tile) {
    constexpr int kChains = chains(kRows);
    constexpr int64_t kBytes = kLane * (kWide ? 4 : 2);
    Sums<kRows> sums = {};
    const char* w = tile.values;
    [[maybe_unused]] const char* ahead = tile.ahead;
    const auto step = [&](int64_t b, const char* from, __m256(&chain)[kRows][kVectors]) {
      const float* x = tile.x + int64_t{args.blocks[b]} * kRows;
      __m256 weights[kVectors];
      load_single<kWide>(from, weights);
#pragma GCC unroll 6
      for (int r = 0; r < kRows; ++r) {
        const __m256 value = _mm256_broadcast_ss(x + r);
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v)
          chain[r][v] = _mm256_fmadd_ps(value, weights[v], chain[r][v]);
      }
    };
    int64_t b = tile.panel->begin;
    for (; b + 4 <= tile.panel->end; b += 4, w += 4 * kBytes) {
      if constexpr (kRows == 1) {
        fetch_lines(w + kStreamAheadBytes, 4 * kBytes / kLineBytes);
      } else {
        fetch_lines(ahead, tile.ahead_lines);
        ahead += tile.ahead_lines * kLineBytes;
      }
      if (b + 2 * kSinglesAhead <= tile.panel->end) {
        fetch_singles<kRows>(tile.x, args.blocks + b + kSinglesAhead);
      }
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) step(b + i, w + i * kBytes, sums[i % kChains]);
    }
    for (; b < tile.panel->end; ++b, w += kBytes) step(b, w, sums[0]);
    store_sums<kRows, 16>(args, tile, sums);
  }
};

}  // namespace

void avx2(const Args& args, Exec exec) noexcept { product<Avx2>(args, exec); }

}  // namespace tessera::tile_matmul
