#pragma once

#include "kernels/topk/topk.h"

// What the rows of the family have in common. Everything is static: each file that includes this
// has its own copy, compiled with its own flags. Keys are integers that are ordered as the values
// are, and kLowest stands for NaN and for what pads a row to whole vectors. V has
//   keys(x, n, keys)                          the keys of n values, padded to [padded(n)]
//   count_above(keys, n, limit)               how many of [padded(n)] keys exceed the limit
//   kLanes, Vector, load(keys), all(key)      a vector of keys, of one key
//   places()                                  0, 1, ... kLanes - 1
//   plus(a, b)
//   above(a, b), equal(a, b)                  masks of lanes
//   compressed(mask, a)                       the lanes of the mask first
//   store(keys, a), store_first(keys, count, a)
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

// Writes the keys of [lowest, highest] to kept, whose last vector is written whole, and gives their
// number; of the padding too.
template <typename V>
static inline int64_t keep(const int32_t* keys, int64_t n, int32_t lowest, int32_t highest,
                           int32_t* kept) {
  const auto least = V::all(lowest), most = V::all(highest);
  constexpr uint32_t kEvery = (1u << V::kLanes) - 1;
  int64_t count = 0;
  for (int64_t i = 0; i < n; i += V::kLanes) {
    const auto values = V::load(keys + i);
    const uint32_t inside = ~(V::above(least, values) | V::above(values, most)) & kEvery;
    V::store(kept + count, V::compressed(inside, values));
    count += __builtin_popcount(inside);
  }
  return count;
}

// Writes the places of the keys above the threshold and of the first `equals` that equal it.
template <typename V>
static inline void emit(const int32_t* keys, int64_t n, int32_t threshold, int64_t equals,
                        int32_t* indices) {
  const auto limits = V::all(threshold);
  auto places = V::places();
  for (int64_t i = 0; i < n; i += V::kLanes) {
    const auto values = V::load(keys + i);
    const uint32_t equal = first_of(V::equal(values, limits), equals);
    const uint32_t taken = V::above(values, limits) | equal;
    const int count = __builtin_popcount(taken);
    V::store_first(indices, count, V::compressed(taken, places));
    indices += count;
    equals -= __builtin_popcount(equal);
    places = V::plus(places, V::all(V::kLanes));
  }
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
  const int64_t kept = keep<V>(keys, n, lowest, highest, spare);
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
      emit<V>(keys, args.n, limit, args.k - V::count_above(keys, args.n, limit), indices);
    }
  }
}

}  // namespace tessera::topk
