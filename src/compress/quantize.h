#pragma once

#include <vector>

#include "base/status.h"
#include "base/team.h"
#include "compress/matrix.h"
#include "compress/statistics.h"
#include "tessera/compress.h"

namespace tessera {

// Whether the options make sense.
Status check_quantize(const QuantizeOptions& options);
Precision precision_of(const QuantizeOptions& options);
// Inputs of a matrix of so many that share a scale, 0: all.
int32_t group_of(const QuantizeOptions& options, int64_t inputs);
// Bytes of values and scales of a matrix, once it is quantized.
int64_t quantized_bytes(const QuantizeOptions& options, int64_t outputs, int64_t inputs);

// What the functions below share.
struct QuantizeContext {
  const QuantizeOptions* options = nullptr;
  MapInputs* inputs = nullptr;
  Team* team = nullptr;
  std::vector<float> input_scales = {};  // of the map; empty: none
};

// As what a matrix is quantized: one that is left dense in the options' precision, tiles in 8 bits
// with a scale an output, which only products with integer rows read. All others stay floats.
enum class IntegerForm { kNone, kDense, kTiles };
Result<IntegerForm> integer_form(const QuantizeOptions& options, const Matrix& matrix);

// s_i = max |x_i|^alpha / max |W_i|^(1 - alpha) over all matrices that read x, so that x_i / s_i
// and W_i s_i are equally hard to round at alpha = 1/2 (SmoothQuant, Xiao et al. 2022); 1 where an
// input or its weights are 0. Between 2^-20 and 2^20.
std::vector<float> smoothing_scales(const std::vector<Matrix*>& matrices,
                                    const InputStatistics& statistics, double alpha);

// Rounds what is left of a matrix to integers, if it has a form of them, and moves what that costs
// on average into its bias, where there are a bias and statistics. A scale is the one of some
// around the least that reaches all of its group which makes sum_i H_ii (W_i - W'_i)^2 least, when
// the group's turn comes. What the mask prunes stays 0.
Status quantize_matrix(const QuantizeContext& context, Matrix& matrix);

}  // namespace tessera
