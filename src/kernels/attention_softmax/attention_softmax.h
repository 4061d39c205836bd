#pragma once

#include <cstdint>

#include "kernels/family.h"

namespace tessera::attention_softmax {

// Scores are multiples of ln 2: the caller scales queries by log2(e), which makes every exponential
// a power of two.
constexpr float kLog2E = 1.44269504088896340736f;
constexpr double kLn2 = 0.69314718055994530942;
// Scores are computed and probabilities read by pages of this many keys.
constexpr int32_t kBlock = 64;

// One step of the online softmax (Milakov & Gimelshein 2018; FlashAttention, Dao et al. 2022) of
// each row r over keys first_key <= j < first_key + keys; a step over all keys of a fresh row is
// the full softmax. A row sees the keys V = [begin[r], end[r]) of these, and s[j] = scores[r][j -
// first_key] + log2(e) bias[r][j]:
//   M' = max(M, max_V s)     p[j] = 2^(s[j] - M')     L' = L 2^(M - M') + sum_V p     rescale =
//   2^(M - M')
// scores: [rows][>= keys rounded up to 64], rows scores_stride (a multiple of 16) apart, replaced
// by p; in the blocks of 64 that hold a key of V, other columns become 0; the rest of the row is
// neither read nor written. maximum (M), sum (L): [rows], -inf and 0 for a fresh row; rescale:
// [rows], 1 where V is empty. bias: null, or [rows] pointers to the bias of key 0. s = -inf gives p
// = 0 and a row of only these keeps M = -inf and L = 0. NaN stays NaN. The unit of Exec is a row;
// rows are independent. Max error of p against ref: (|s - M'| + 8) eps p + 2^-126; of L: (keys / 8
// + 8) eps L.
struct Args {
  float* scores = nullptr;
  int64_t scores_stride = 0;
  const int32_t* begin = nullptr;
  const int32_t* end = nullptr;
  int32_t first_key = 0;
  int32_t keys = 0;
  const float* const* bias = nullptr;
  float* maximum = nullptr;
  float* sum = nullptr;
  float* rescale = nullptr;
};

#define TESSERA_KERNEL(row, isa) void row(const Args& args, Exec exec) noexcept;
#include "kernels/attention_softmax/table.inc"
#undef TESSERA_KERNEL

extern const KernelFamily<Args> kernels;

}  // namespace tessera::attention_softmax
