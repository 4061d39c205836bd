#include "kernels/line_sums/line_sums.h"
#include "kernels/line_sums/places.h"

namespace tessera::line_sums {

void ref(const Args& args, Exec exec) noexcept {
  for (int64_t i = exec.begin; i < exec.end; ++i) {
    const float* line = args.lines + place(args.line_of, i);
    float* sums = args.sums + place(args.sum_of, i);
    for (int64_t lane = 0; lane < kLine; ++lane) {
      double sum = sums[lane];
      for (int64_t j = 0; j < kLine; ++j) {
        sum += static_cast<double>(line[j]) * args.fixed[j * args.fixed_stride + lane];
      }
      sums[lane] = static_cast<float>(sum);
    }
  }
}

}  // namespace tessera::line_sums
