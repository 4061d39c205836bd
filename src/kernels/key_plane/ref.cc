#include "kernels/key_plane/key_plane.h"

namespace tessera::key_plane {
namespace {

int32_t integer(const Args& args, int64_t k, int64_t j) {
  const auto* bytes = static_cast<const uint8_t*>(args.b);
  if (args.integers == Integers::kInt8) return static_cast<int8_t>(bytes[k * kCols + j]);
  const int64_t half = (args.depth + 1) / 2;
  const int32_t bits = k < half ? bytes[k * kCols + j] & 15 : bytes[(k - half) * kCols + j] >> 4;
  return args.integers == Integers::kInt4 && bits >= 8 ? bits - 16 : bits;
}

}  // namespace

void ref(const Args& args, Exec exec) noexcept {
  for (int64_t r = exec.begin; r < exec.end; ++r) {
    const float* a = args.a + r * args.a_stride;
    float* c = args.c + r * args.c_stride;
    for (int64_t j = 0; j < kCols; ++j) {
      double sum = 0;
      for (int64_t k = 0; k < args.depth; ++k)
        sum += static_cast<double>(a[k]) * integer(args, k, j);
      const double score = args.scale[j] * (args.factor * sum + args.offset[r]);
      c[j] = static_cast<float>(score + (args.start == Start::kAdd ? c[j] : 0));
    }
  }
}

}  // namespace tessera::key_plane
