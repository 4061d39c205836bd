#include "kernels/attention_product/attention_product.h"

namespace tessera::attention_product {

void ref(const Args& args, Exec exec) noexcept {
  for (int64_t r = exec.begin; r < exec.end; ++r) {
    const float* a = args.a + r * args.a_stride;
    float* c = args.c + r * args.c_stride;
    for (int64_t j = 0; j < args.cols; ++j) {
      double sum = 0;
      if (args.start == Start::kAdd) sum = c[j];
      if (args.start == Start::kScale) sum = static_cast<double>(c[j]) * args.factor[r];
      for (int64_t k = 0; k < args.depth; ++k) {
        sum += static_cast<double>(a[k]) * args.b[k * args.b_stride + j];
      }
      c[j] = static_cast<float>(sum);
    }
  }
}

}  // namespace tessera::attention_product
