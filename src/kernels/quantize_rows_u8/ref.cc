#include <algorithm>
#include <cmath>
#include <limits>

#include "formats/u8_rows.h"
#include "kernels/quantize_rows_u8/quantize_rows_u8.h"

namespace tessera::quantize_rows_u8 {
namespace {

float value(const Args& args, int64_t m, int64_t k) {
  const float x = args.x[m * args.x_stride + k];
  return args.multipliers == nullptr ? x : x * args.multipliers[k];
}

}  // namespace

void ref(const Args& args, Exec exec) noexcept {
  const int64_t padded = u8_padded_inputs(args.inputs);
  for (int64_t m = exec.begin; m < exec.end; ++m) {
    float least = 0, most = 0;
    bool finite = true;
    for (int64_t k = 0; k < args.inputs; ++k) {
      const float v = value(args, m, k);
      finite = finite && std::isfinite(v);
      least = std::min(least, v);
      most = std::max(most, v);
    }
    uint8_t* values = args.values + m * args.stride;
    args.scales[m] = std::numeric_limits<float>::quiet_NaN();
    args.zeros[m] = 0;
    std::fill(values, values + padded, uint8_t{0});
    if (!finite) continue;
    const float high = most / 255, low = least / 255;
    const float scale = std::max(high - low, std::numeric_limits<float>::min());
    const float inverse = 1 / scale;
    const int zero = static_cast<int>(std::nearbyint(-least * inverse));
    for (int64_t k = 0; k < args.inputs; ++k) {
      const int rounded = static_cast<int>(std::nearbyint(value(args, m, k) * inverse));
      values[k] = static_cast<uint8_t>(std::min(rounded + zero, 255));
    }
    std::fill(values + args.inputs, values + padded, static_cast<uint8_t>(zero));
    args.scales[m] = scale;
    args.zeros[m] = zero;
  }
}

}  // namespace tessera::quantize_rows_u8
