#include "kernels/attention_product/attention_product.h"

namespace tessera::attention_product {
namespace {

double number(const Args& args, int64_t k, int64_t j) {
  const int64_t at = k * args.b_stride + j;
  switch (args.b_dtype) {
    case DType::kBF16:
      return bf16_to_f32(static_cast<const uint16_t*>(args.b)[at]);
    case DType::kI8: {
      const float scale = args.b_row_scale != nullptr ? args.b_row_scale[k] : args.b_col_scale[j];
      return static_cast<double>(scale) * static_cast<const int8_t*>(args.b)[at];
    }
    default:
      return static_cast<const float*>(args.b)[at];
  }
}

}  // namespace

void ref(const Args& args, Exec exec) noexcept {
  for (int64_t r = exec.begin; r < exec.end; ++r) {
    const float* a = args.a + r * args.a_stride;
    float* c = args.c + r * args.c_stride;
    for (int64_t j = 0; j < args.cols; ++j) {
      double sum = 0;
      if (args.start == Start::kAdd) sum = c[j];
      if (args.start == Start::kScale) sum = static_cast<double>(c[j]) * args.factor[r];
      for (int64_t k = 0; k < args.depth; ++k) sum += a[k] * number(args, k, j);
      c[j] = static_cast<float>(sum);
    }
  }
}

}  // namespace tessera::attention_product
