#include <bit>
#include <cmath>

#include "kernels/topk/quick_select.h"

namespace tessera::topk {
namespace {

struct Plain {
  static void keys(const float* x, int64_t n, int32_t* keys) {
    for (int64_t i = 0; i < n; ++i) {
      const auto bits = std::bit_cast<int32_t>(x[i] + 0.0f);  // -0 becomes +0
      keys[i] = std::isnan(x[i]) ? kLowest : bits < 0 ? bits ^ 0x7fffffff : bits;
    }
    pad(keys, n);
  }

  static int64_t count_above(const int32_t* keys, int64_t n, int32_t limit) {
    int64_t count = 0;
    for (int64_t i = 0; i < n; ++i) count += keys[i] > limit ? 1 : 0;
    return count;
  }

  static int64_t keep(const int32_t* keys, int64_t n, int32_t lowest, int32_t highest,
                      int32_t* kept) {
    int64_t count = 0;
    for (int64_t i = 0; i < n; ++i) {
      if (keys[i] >= lowest && keys[i] <= highest) kept[count++] = keys[i];
    }
    return count;
  }

  static void emit(const int32_t* keys, int64_t n, int32_t threshold, int64_t equals,
                   int32_t* indices) {
    for (int64_t i = 0; i < n; ++i) {
      const bool equal = keys[i] == threshold && equals > 0;
      if (equal) --equals;
      if (equal || keys[i] > threshold) *indices++ = int32_t(i);
    }
  }
};

}  // namespace

void ref(const Args& args, Exec exec) noexcept { quick_select<Plain>(args, exec); }

}  // namespace tessera::topk
