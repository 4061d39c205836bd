#include "kernels/peak/peak.h"

namespace tessera::peak {

void ref(const Args& args, Exec exec) noexcept {
  double sum = 0;
  for (int64_t step = exec.begin; step < exec.end; ++step) {
    for (int64_t i = 0; i < kProductsPerStep; ++i)
      sum += static_cast<double>(args.value) * static_cast<double>(args.value);
  }
  *args.sum = sum;
}

}  // namespace tessera::peak
