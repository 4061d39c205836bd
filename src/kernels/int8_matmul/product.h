#pragma once

#include "kernels/int8_matmul/int8_matmul.h"
#include "kernels/matmul/matmul.h"

// Included by files compiled for different instruction sets, so everything has internal linkage.
namespace tessera::int8_matmul {
namespace {

// The product as the loops of kernels/matmul take it: four bytes stand where these have a float, in
// rows as in panels, and integers where they have sums, until a tile is finished.
struct Product : matmul::Args {
  const float* row_scales;
  const int32_t* row_zeros;
  const float* scales;
  const int32_t* sums;
};

inline Product in_fours(const Args& args) {
  Product product = {};
  product.x = reinterpret_cast<const float*>(args.x.values);
  product.x_stride = args.x.stride / 4;
  product.rows = args.rows;
  product.inputs = (args.inputs + 3) / 4;
  product.panels = args.panels;
  product.outputs = args.outputs;
  product.bias = args.bias;
  product.activation = args.activation;
  product.residual = args.residual;
  product.residual_stride = args.residual_stride;
  product.y = args.y;
  product.y_stride = args.y_stride;
  product.l2_bytes = args.l2_bytes;
  product.input_parts = args.four_parts;
  product.input_part_count = args.four_part_count;
  product.row_scales = args.x.scales;
  product.row_zeros = args.x.zeros;
  product.scales = args.scales;
  product.sums = args.sums;
  return product;
}

}  // namespace
}  // namespace tessera::int8_matmul
