#include "tune/torch/products.h"

#include <ATen/ATen.h>
#include <c10/util/Exception.h>
#include <oneapi/dnnl/dnnl.h>

#include <algorithm>

#include "kernels/attention_product/attention_product.h"
#include "kernels/transpose/transpose.h"

namespace tessera::training {
namespace {

// What oneDNN takes to begin a product, some 1.5 us, is more than so few multiplications take.
constexpr int64_t kSmallExtent = 64, kSmallProducts = int64_t{48} << 10;

bool is_small(const Product& product) {
  return std::max({product.rows, product.cols, product.depth}) <= kSmallExtent &&
         product.rows * product.cols * product.depth <= kSmallProducts &&
         (product.beta == 0 || product.beta == 1);
}

// The operand as it is read, [rows, cols] times factor: in place, or in `square`.
Operand as_read(const Operand& operand, int64_t rows, int64_t cols, float factor, float* square) {
  if (operand.read == Operand::Read::kAsStored && factor == 1) return operand;
  if (operand.read == Operand::Read::kTransposed) {
    transpose::kernels.run({operand.data, operand.stride, rows, square, kSmallExtent}, {0, cols});
  } else {
    for (int64_t r = 0; r < rows; ++r) {
      std::copy_n(operand.data + r * operand.stride, cols, square + r * kSmallExtent);
    }
  }
  if (factor != 1) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < cols; ++c) square[r * kSmallExtent + c] *= factor;
    }
  }
  return {square, kSmallExtent};
}

void multiply_small(const Product& product) {
  alignas(64) float left[kSmallExtent * kSmallExtent], right[kSmallExtent * kSmallExtent];
  const Operand a = as_read(product.a, product.rows, product.depth, product.alpha, left);
  const Operand b = as_read(product.b, product.depth, product.cols, 1, right);
  using attention_product::Start;
  attention_product::kernels.run({.a = a.data,
                                  .a_stride = a.stride,
                                  .depth = product.depth,
                                  .b = b.data,
                                  .b_stride = b.stride,
                                  .cols = product.cols,
                                  .start = product.beta == 0 ? Start::kZero : Start::kAdd,
                                  .c = product.c,
                                  .c_stride = product.c_stride},
                                 {0, product.rows});
}

}  // namespace

void multiply(const Product& product) {
  if (product.rows == 0 || product.cols == 0) return;
  if (product.depth == 0) {
    for (int64_t r = 0; r < product.rows; ++r) {
      float* row = product.c + r * product.c_stride;
      std::transform(row, row + product.cols, row,
                     [&](float c) { return product.beta == 0 ? 0 : product.beta * c; });
    }
    return;
  }
  if (is_small(product)) return multiply_small(product);
  const auto letter = [](const Operand& operand) {
    return operand.read == Operand::Read::kTransposed ? 'T' : 'N';
  };
  const dnnl_status_t status =
      dnnl_sgemm(letter(product.a), letter(product.b), product.rows, product.cols, product.depth,
                 product.alpha, product.a.data, product.a.stride, product.b.data, product.b.stride,
                 product.beta, product.c, product.c_stride);
  TORCH_CHECK(status == dnnl_success, "oneDNN could not multiply ", product.rows, " x ",
              product.depth, " by ", product.depth, " x ", product.cols, ": status ",
              static_cast<int>(status));
}

Operand read(const torch::Tensor& matrix, Operand::Read how) {
  return {matrix.data_ptr<float>(), matrix.size(1), how};
}

torch::Tensor product(int64_t rows, int64_t cols, int64_t depth, const Operand& a,
                      const Operand& b) {
  torch::Tensor c = at::empty({rows, cols});
  multiply({rows, cols, depth, a, b, c.data_ptr<float>(), cols});
  return c;
}

}  // namespace tessera::training
