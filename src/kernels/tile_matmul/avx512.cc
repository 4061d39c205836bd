#include <immintrin.h>

#include "kernels/tile_matmul/blocked.h"
#include "kernels/tile_matmul/outputs_avx512.h"
#include "kernels/tile_matmul/tile_matmul.h"

namespace tessera::tile_matmul {
namespace {

// Rows up to which a tile waits for memory.
constexpr int kStreamRows = 6;

// Chains of sums per row that are added at the end: flat tiles need several to hide the latency of
// the multiply-add. From 8 rows on there is one.
constexpr int chains(int rows) { return rows < 4 ? 4 : rows < 8 ? 2 : 1; }

// A step's inputs of one row: one input to all lanes, or two in turns.
template <int kOutputs>
inline __m512 broadcast(const float* x) {
  if constexpr (kOutputs == 16) {
    return _mm512_set1_ps(*x);
  } else {
    double pair;
    __builtin_memcpy(&pair, x, sizeof(pair));
    return _mm512_castpd_ps(_mm512_set1_pd(pair));
  }
}

// Four steps' weights.
template <bool kWide>
inline void load_steps(const char* w, __m512 (&weights)[4]) {
  if constexpr (kWide) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) weights[i] = _mm512_load_ps(w + i * kLineBytes);
  } else {
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      const __m512i pairs = _mm512_load_si512(w + i * kLineBytes);
      weights[2 * i] = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
      weights[2 * i + 1] =
          _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(int(0xffff0000))));
    }
  }
}

// The sums of 8 outputs stand as pairs of lanes, for even and odd inputs.
template <int kOutputs>
inline __m512 whole_sums(__m512 sums) {
  if constexpr (kOutputs == 16) {
    return sums;
  } else {
    const __m512 pairs = _mm512_add_ps(sums, _mm512_permute_ps(sums, 0xb1));
    return _mm512_maskz_compress_ps(0x5555, pairs);
  }
}

// A single input's weights.
template <bool kWide>
inline __m512 load_single(const char* w) {
  if constexpr (kWide) {
    return _mm512_load_ps(w);
  } else {
    const __m256i bits = _mm256_load_si256(reinterpret_cast<const __m256i*>(w));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
}

// The sums of a register tile, in chains.
template <int kRows>
using Sums = __m512[chains(kRows)][kRows];

// Adds the chains up and gives what comes of them to the outputs.
template <int kRows, int kOutputs>
inline void store_sums(const Args& args, const Tile<float>& tile, Sums<kRows>& sums) {
  constexpr int kChains = chains(kRows);
  if constexpr (kChains > 1) {
#pragma GCC unroll 24
    for (int i = kRows; i < kChains * kRows; ++i) {
      sums[0][i % kRows] = _mm512_add_ps(sums[0][i % kRows], sums[i / kRows][i % kRows]);
    }
  }
  const Outputs outputs(args, tile.row, *tile.panel);
  if (args.activation == Activation::kNone) {
#pragma GCC unroll 24
    for (int r = 0; r < kRows; ++r) outputs.store<vector_same>(r, whole_sums<kOutputs>(sums[0][r]));
    return;
  }
  alignas(64) float whole[kRows * kLane];
#pragma GCC unroll 24
  for (int r = 0; r < kRows; ++r) {
    _mm512_store_ps(whole + r * kLane, whole_sums<kOutputs>(sums[0][r]));
  }
  outputs.finish(args.activation, kRows, whole);
}

struct Avx512 : Floats<Avx512> {
  // 24 sums, a vector of weights and a broadcast in 32 registers.
  static constexpr int kMaxRows = 24;

  static void copy_line(const float* source, float* target) {
    _mm512_store_ps(target, _mm512_loadu_ps(source));
  }
  static void transpose(const transpose::Args& args, Exec rows) { transpose::avx512(args, rows); }

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
        if constexpr (kRows <= kStreamRows) {
          fetch_lines(w + kStreamAheadBytes, kFourBytes / kLineBytes);
        } else {
          fetch_lines(ahead, tile.ahead_lines);
          ahead += tile.ahead_lines * kLineBytes;
        }
        __m512 weights[4];
        load_steps<kWide>(w, weights);
#pragma GCC unroll 4
        for (int s = 0; s < 4; ++s) {
#pragma GCC unroll 24
          for (int r = 0; r < kRows; ++r) {
            sums[s % kChains][r] =
                _mm512_fmadd_ps(broadcast<kOutputs>(x + r * kLane + s * kStepInputs), weights[s],
                                sums[s % kChains][r]);
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
    const auto step = [&](const float* x, __m512 weights, __m512(&chain)[kRows]) {
#pragma GCC unroll 24
      for (int r = 0; r < kRows; ++r) {
        chain[r] = _mm512_fmadd_ps(_mm512_set1_ps(x[r]), weights, chain[r]);
      }
    };
    int64_t b = tile.panel->begin;
    for (; b + 4 <= tile.panel->end; b += 4, w += 4 * kBytes) {
      if constexpr (kRows <= kStreamRows) {
        fetch_lines(w + kStreamAheadBytes, 4 * kBytes / kLineBytes);
      } else {
        fetch_lines(ahead, tile.ahead_lines);
        ahead += tile.ahead_lines * kLineBytes;
      }
      if (b + 2 * kSinglesAhead <= tile.panel->end) {
        fetch_singles<kRows>(tile.x, args.blocks + b + kSinglesAhead);
      }
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const float* x = tile.x + int64_t{args.blocks[b + i]} * kRows;
        step(x, load_single<kWide>(w + i * kBytes), sums[i % kChains]);
      }
    }
    for (; b < tile.panel->end; ++b, w += kBytes) {
      step(tile.x + int64_t{args.blocks[b]} * kRows, load_single<kWide>(w), sums[0]);
    }
    store_sums<kRows, 16>(args, tile, sums);
  }
};

}  // namespace

void avx512(const Args& args, Exec exec) noexcept { product<Avx512>(args, exec); }

}  // namespace tessera::tile_matmul
