#include <immintrin.h>

#include "kernels/tile_int8_matmul/blocked.h"
#include "kernels/tile_int8_matmul/tile_int8_matmul.h"
#include "kernels/tile_matmul/outputs_avx512.h"

namespace tessera::tile_int8_matmul {
namespace {

// Rows up to which a tile waits for memory.
constexpr int kStreamRows = 6;

// Chains of sums per row that are added at the end: flat tiles need several to hide the latency of
// the dot product. From 8 rows on there is one.
constexpr int chains(int rows, int steps) {
  const int most = rows < 4 ? 4 : rows < 8 ? 2 : 1;
  return most < steps ? most : steps;
}

// A step's inputs of one row: four to all lanes, or eight in turns.
template <int kOutputs>
inline __m512i broadcast(const uint8_t* x) {
  if constexpr (kOutputs == 16) {
    int four;
    __builtin_memcpy(&four, x, sizeof(four));
    return _mm512_set1_epi32(four);
  } else {
    long long eight;
    __builtin_memcpy(&eight, x, sizeof(eight));
    return _mm512_set1_epi64(eight);
  }
}

// The sums of 8 outputs stand as pairs of lanes.
template <int kOutputs>
inline __m512i whole_sums(__m512i sums) {
  if constexpr (kOutputs == 16) {
    return sums;
  } else {
    const __m512i pairs = _mm512_add_epi32(sums, _mm512_shuffle_epi32(sums, _MM_PERM_CDAB));
    return _mm512_maskz_compress_epi32(0x5555, pairs);
  }
}

// Gives the sums of a register tile, [rows][16], to its outputs. They come from memory, since GCC
// would otherwise keep them there in the loop that adds them up, too.
template <__m512 (*function)(__m512)>
void finish_rows(const Args& args, const Tile<uint8_t>& tile, int64_t rows, const int32_t* sums) {
  const Outputs outputs(args, tile.row, *tile.panel);
  const __m512 scales = _mm512_maskz_loadu_ps(outputs.mask, args.scales + tile.panel->output);
  const __m512i whole = _mm512_load_si512(panel_sums(args, tile));
  const __m512i parts = _mm512_or_si512(_mm512_and_si512(whole, _mm512_set1_epi32(127)),
                                        _mm512_slli_epi32(_mm512_srai_epi32(whole, 7), 16));
  const uint8_t* ends = row_ends(args, tile, rows);
  for (int64_t r = 0; r < rows; ++r) {
    const RowEnd end = end_of(ends, r);
    const __m512i exact = _mm512_dpwssd_epi32(_mm512_load_si512(sums + r * kLane), parts,
                                              _mm512_set1_epi32(int(end.zeros)));
    const __m512 scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(exact), _mm512_set1_ps(end.scale));
    outputs.store<function>(r, _mm512_mul_ps(scaled, scales));
  }
}

[[gnu::noinline]] void finish(const Args& args, const Tile<uint8_t>& tile, int64_t rows,
                              const int32_t* sums) {
  with_activation(args.activation, [&]<__m512 (*function)(__m512)>() {
    finish_rows<function>(args, tile, rows, sums);
  });
}

struct Vnni : Integers<Vnni, uint8_t> {
  // 24 sums, a vector of weights and a few broadcasts in 32 registers.
  static constexpr int kMaxRows = 24;

  static void copy_line(const uint8_t* source, uint8_t* target) {
    _mm_store_si128(reinterpret_cast<__m128i*>(target),
                    _mm_loadu_si128(reinterpret_cast<const __m128i*>(source)));
  }

  template <int kRows, int kOutputs, int kInputs>
  static void multiply(const Args& args, const Tile<uint8_t>& tile) {
    constexpr int kStepInputs = 64 / kOutputs, kSteps = kInputs / kStepInputs;
    constexpr int kChains = chains(kRows, kSteps);
    __m512i sums[kChains][kRows];
#pragma GCC unroll 4
    for (int c = 0; c < kChains; ++c) {
#pragma GCC unroll 24
      for (int r = 0; r < kRows; ++r) sums[c][r] = _mm512_setzero_si512();
    }
    const char* w = tile.values;
    [[maybe_unused]] const char* ahead = tile.ahead;
    for (int64_t b = tile.panel->begin; b < tile.panel->end; ++b, w += kSteps * kLineBytes) {
      const uint8_t* x = packed_at<kRows>(tile.x, args.blocks[b], kInputs);
      if constexpr (kRows <= kStreamRows) {
        fetch_lines(w + kStreamAheadBytes, kSteps);
      } else {
        fetch_lines(ahead, tile.ahead_lines);
        ahead += tile.ahead_lines * kLineBytes;
      }
#pragma GCC unroll 4
      for (int s = 0; s < kSteps; ++s) {
        const __m512i weights = _mm512_load_si512(w + s * kLineBytes);
#pragma GCC unroll 24
        for (int r = 0; r < kRows; ++r) {
          __m512i& sum = sums[s % kChains][r];
          sum = _mm512_dpbusd_epi32(sum, broadcast<kOutputs>(x + r * kLane + s * kStepInputs),
                                    weights);
        }
      }
    }
#pragma GCC unroll 4
    for (int c = 1; c < kChains; ++c) {
#pragma GCC unroll 24
      for (int r = 0; r < kRows; ++r) sums[0][r] = _mm512_add_epi32(sums[0][r], sums[c][r]);
    }
    alignas(64) int32_t whole[kRows * kLane];
#pragma GCC unroll 24
    for (int r = 0; r < kRows; ++r) {
      _mm512_store_si512(whole + r * kLane, whole_sums<kOutputs>(sums[0][r]));
    }
    finish(args, tile, kRows, whole);
  }
};

}  // namespace

void avx512_vnni(const Args& args, Exec exec) noexcept { product<Vnni>(args, exec); }

}  // namespace tessera::tile_int8_matmul
