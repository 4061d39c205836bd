#pragma once

#include "kernels/topk/topk.h"

// What the rows of the family have in common. Everything is static: each file that includes this
// has its own copy, compiled with its own flags. Keys are integers that are ordered as the values
// are, and kLowest stands for NaN and for what pads a row to whole vectors. V has
//   keys(x, n, keys)                          the keys of n values, padded to [padded(n)]
//   count_above(keys, n, limit)               how many of [padded(n)] keys exceed the limit
//   keep(keys, n, lowest, highest, kept)      writes the keys of [lowest, highest] to kept, whose
//                                             last vector may be written whole; gives their number
//   emit(keys, n, threshold, equals, indices) writes the places of the keys above the threshold and
//                                             of the first `equals` that equal it
namespace tessera::topk {

constexpr int32_t kLowest = INT32_MIN;
constexpr int32_t kHighest = INT32_MAX;

// The k-th largest of the keys, 1 <= k <= n, which is known to lie in [lowest, highest].
template <typename V>
static inline int32_t bisect(const int32_t* keys, int64_t n, int64_t k, int32_t lowest,
                             int32_t highest) {
  while (lowest < highest) {
    const uint32_t width = uint32_t(highest) - uint32_t(lowest);
    const int32_t middle = int32_t(uint32_t(lowest) + width / 2);
    if (V::count_above(keys, n, middle) >= k) {
      lowest = middle + 1;
    } else {
      highest = middle;
    }
  }
  return lowest;
}

// Pads keys to whole vectors.
static inline void pad(int32_t* keys, int64_t n) {
  for (int64_t i = n; i < padded(n); ++i) keys[i] = kLowest;
}

// The first `count` set bits of a mask of lanes.
static inline uint32_t first_of(uint32_t mask, int64_t count) {
  while (__builtin_popcount(mask) > count) mask &= ~(0x80000000u >> __builtin_clz(mask));
  return mask;
}

// The k-th largest of the keys. Two keys of a sample, a few deviations of its rank above and below,
// nearly always enclose it; then the search goes on among the keys between them. spare: as large as
// keys and a vector more.
template <typename V>
static inline int32_t threshold(const int32_t* keys, int64_t n, int64_t k, int32_t* spare) {
  constexpr int64_t kSample = 128, kMargin = 14, kFew = 4 * kSample;
  if (n <= kFew) return bisect<V>(keys, n, k, kLowest, kHighest);
  int32_t sample[kSample];
  for (int64_t i = 0; i < kSample; ++i) sample[i] = keys[i * n / kSample];
  const int64_t rank = k * kSample / n;
  int32_t lowest = kLowest, highest = kHighest;
  if (rank + kMargin < kSample)
    lowest = bisect<V>(sample, kSample, rank + kMargin, kLowest, kHighest);
  if (rank > kMargin) highest = bisect<V>(sample, kSample, rank - kMargin, lowest, kHighest);

  const int64_t above = highest == kHighest ? 0 : V::count_above(keys, n, highest);
  if (above >= k) return bisect<V>(keys, n, k, highest + 1, kHighest);
  const int64_t kept = V::keep(keys, n, lowest, highest, spare);
  if (above + kept < k) return bisect<V>(keys, n, k, kLowest, lowest);
  pad(spare, kept);
  return bisect<V>(spare, kept, k - above, lowest, highest);
}

template <typename V>
static inline void quick_select(const Args& args, Exec exec) {
  int32_t* keys = args.scratch;
  int32_t* spare = keys + padded(args.n) + kPadding;
  for (int64_t m = exec.begin; m < exec.end; ++m) {
    int32_t* indices = args.indices + m * args.indices_stride;
    if (args.k >= args.n) {
      for (int64_t i = 0; i < args.n; ++i) indices[i] = int32_t(i);
    } else if (args.k > 0) {
      V::keys(args.x + m * args.x_stride, args.n, keys);
      const int32_t limit = threshold<V>(keys, args.n, args.k, spare);
      V::emit(keys, args.n, limit, args.k - V::count_above(keys, args.n, limit), indices);
    }
  }
}

}  // namespace tessera::topk
