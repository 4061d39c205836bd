#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/round_rows/round_rows.h"

namespace tessera::round_rows {
namespace {

// Where input k of a block stands among its values of 16 bits.
int64_t place(int64_t k) { return k % 4 == 1 ? k + 1 : k % 4 == 2 ? k - 1 : k; }

}  // namespace

void ref(const Args& args, Exec exec) noexcept {
  const bool wide = args.rows.bits == 16;
  const float most = wide ? 32767.0f : 127.0f;
  for (int64_t m = exec.begin; m < exec.end; ++m) {
    char* values = static_cast<char*>(args.rows.values) + m * args.rows.row_bytes;
    for_each_block(args.blocks, [&](int64_t block, int64_t first, int64_t count) {
      const auto value = [&](int64_t k) {
        if (k >= count) return 0.0f;
        const float x = args.x[m * args.x_stride + first + k];
        return args.multipliers == nullptr ? x : x * args.multipliers[first + k];
      };
      float largest = 0;
      bool finite = true;
      for (int64_t k = 0; k < count; ++k) {
        largest = std::max(largest, std::abs(value(k)));
        finite = finite && std::isfinite(value(k));
      }
      const bool zero = !finite || largest < kLeast;
      const int64_t padded = (count + kStepInputs - 1) / kStepInputs * kStepInputs;
      int32_t sum = 0;
      for (int64_t k = 0; k < padded; ++k) {
        const float exact = zero ? 0 : value(k) * (most / largest);
        const auto integer = static_cast<int32_t>(std::nearbyint(exact));
        sum += integer;
        if (wide) {
          reinterpret_cast<int16_t*>(values)[place(k)] = static_cast<int16_t>(integer);
        } else {
          values[k] = static_cast<char>(integer);
        }
      }
      values += padded * args.rows.bits / 8;
      const float scale = zero ? 0 : largest / most;
      const int64_t at = m * args.blocks.count + block;
      args.rows.scales[at] = finite ? scale : std::numeric_limits<float>::quiet_NaN();
      args.rows.sums[at] = sum;
    });
  }
}

}  // namespace tessera::round_rows
