#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/quantize_rows_blockwise/quantize_rows_blockwise.h"

namespace tessera::quantize_rows_blockwise {
namespace {

// Where input k of a block stands among its values of 16 bits.
int64_t place(int64_t k) { return k % 4 == 1 ? k + 1 : k % 4 == 2 ? k - 1 : k; }

// Puts integer k of a block in its place.
void put(const IntegerRows& rows, char* values, int64_t k, int32_t integer) {
  switch (rows.form) {
    case RowForm::k8:
      values[k] = static_cast<char>(integer);
      break;
    case RowForm::k16:
      reinterpret_cast<int16_t*>(values)[place(k)] = static_cast<int16_t>(integer);
      break;
    case RowForm::k16Split: {
      const int32_t high = (integer + 128) >> 8;
      values[k] = static_cast<char>(integer - 256 * high);
      values[rows.row_bytes / 2 + k] = static_cast<char>(high);
      break;
    }
  }
}

}  // namespace

void ref(const Args& args, Exec exec) noexcept {
  const auto most = static_cast<float>(tessera::most(args.rows.form));
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
        put(args.rows, values, k, integer);
      }
      values += padded * value_bytes(args.rows.form);
      const float scale = zero ? 0 : largest / most;
      const int64_t at = m * args.blocks.count + block;
      args.rows.scales[at] = finite ? scale : std::numeric_limits<float>::quiet_NaN();
      args.rows.sums[at] = sum;
    });
  }
}

}  // namespace tessera::quantize_rows_blockwise
