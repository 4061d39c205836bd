#include "tune/torch/products.h"

#include <c10/util/Exception.h>
#include <oneapi/dnnl/dnnl.h>

#include <algorithm>

namespace tessera::training {

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

}  // namespace tessera::training
