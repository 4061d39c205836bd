#pragma once

#include "kernels/bf16_matmul/bf16_matmul.h"
#include "kernels/matmul/matmul.h"

// Included by files compiled for different instruction sets, so everything has internal linkage.
namespace tessera::bf16_matmul {
namespace {

// The same product as kernels/matmul takes it, for its loops and its epilogue: a pair of bf16
// stands where these have a float, in rows as in panels.
inline matmul::Args as_floats(const Args& args) {
  matmul::Args floats;
  floats.x = reinterpret_cast<const float*>(args.x);
  floats.x_stride = args.x_stride / 2;
  floats.rows = args.rows;
  floats.inputs = (args.inputs + 1) / 2;
  floats.panels = args.panels;
  floats.outputs = args.outputs;
  floats.bias = args.bias;
  floats.activation = args.activation;
  floats.residual = args.residual;
  floats.residual_stride = args.residual_stride;
  floats.y = args.y;
  floats.y_stride = args.y_stride;
  floats.l2_bytes = args.l2_bytes;
  floats.input_parts = args.pair_parts;
  floats.input_part_count = args.pair_part_count;
  return floats;
}

}  // namespace
}  // namespace tessera::bf16_matmul
