#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/attention_softmax/attention_softmax.h"

namespace tessera::attention_softmax {
namespace {

float larger(float a, float b) { return std::isnan(a) || a > b ? a : b; }

}  // namespace

void ref(const Args& args, Exec exec) noexcept {
  for (int64_t r = exec.begin; r < exec.end; ++r) {
    float* s = args.scores + r * args.scores_stride;
    const int32_t begin = std::max(args.begin[r] - args.first_key, 0);
    const int32_t end = std::min(args.end[r] - args.first_key, args.keys);
    args.rescale[r] = 1;
    if (begin >= end) continue;
    float maximum = args.maximum[r];
    for (int32_t j = begin; j < end; ++j) {
      if (args.bias != nullptr) s[j] += kLog2E * args.bias[r][args.first_key + j];
      maximum = larger(s[j], maximum);
    }
    const double base = maximum == -std::numeric_limits<float>::infinity() ? 0.0 : maximum;
    double sum = 0;
    for (int32_t j = begin; j < end; ++j) {
      const double p = std::exp2(s[j] - base);
      s[j] = static_cast<float>(p);
      sum += p;
    }
    std::fill(s + begin / kBlock * kBlock, s + begin, 0.0f);
    std::fill(s + end, s + (end + kBlock - 1) / kBlock * kBlock, 0.0f);
    const double rescale = std::exp2(args.maximum[r] - base);
    args.rescale[r] = static_cast<float>(rescale);
    args.sum[r] = static_cast<float>(args.sum[r] * rescale + sum);
    args.maximum[r] = maximum;
  }
}

}  // namespace tessera::attention_softmax
