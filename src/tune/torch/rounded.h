#pragma once

#include <torch/types.h>

#include "formats/packed.h"
#include "tune/torch/parameters.h"

// Matrices of integers while they are trained (Bengio et al. 2013, "Estimating or propagating
// gradients through stochastic neurons"; Jacob et al. 2018, "Quantization and training of neural
// networks for efficient integer-arithmetic-only inference"). What is trained is the value w, in
// f32; what is multiplied is what its integers stand for,
//   q = min(max(round(w input_scale / scale), least), most),  W = scale q / input_scale
// with round to the nearest, halves to the even integer, and the scales of the source, which stay:
// so the first step computes what the source does, bit for bit, and the scales that a compression
// has chosen by its inputs are not lost.
namespace tessera::training {

// W [outputs, inputs], or the value itself where it is no matrix of integers or is not trained,
// since W is then the value already. The gradient passes to w straight through where q is w's
// nearest integer, and is 0 where that is beyond the least or the most.
torch::Tensor rounded_values(const Parameter& weight);

// x [rows, inputs] as products with the weight read it, and the gradient straight through: x itself
// unless these are integers of 8 bits. Then, as linear maps have it, asymmetric by row for int8
// with a scale an output (kernels/quantize_rows_u8), else symmetric by blocks
// (kernels/quantize_rows_blockwise); rows of 16 bits, as w8 and w4 have them, are taken for floats,
// from which they differ by 2^-16 of the largest of a block.
torch::Tensor rounded_rows(const torch::Tensor& x, const Parameter& weight);

// The integers of W and the scales, of a parameter that has a rounding.
Integers integers_of(const Parameter& weight);

}  // namespace tessera::training
