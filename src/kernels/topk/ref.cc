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

  static constexpr int64_t kLanes = 1;
  static int32_t load(const int32_t* keys) { return *keys; }
  static int32_t all(int64_t key) { return int32_t(key); }
  static int32_t places() { return 0; }
  static int32_t plus(int32_t a, int32_t b) { return a + b; }
  static uint32_t above(int32_t a, int32_t b) { return a > b ? 1 : 0; }
  static uint32_t equal(int32_t a, int32_t b) { return a == b ? 1 : 0; }
  static int32_t compressed(uint32_t, int32_t a) { return a; }
  static void store(int32_t* target, int32_t a) { *target = a; }
  static void store_first(int32_t* target, int count, int32_t a) {
    if (count > 0) *target = a;
  }
};

}  // namespace

void ref(const Args& args, Exec exec) noexcept { quick_select<Plain>(args, exec); }

}  // namespace tessera::topk
