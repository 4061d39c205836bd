#pragma once

#include <cstdint>
#include <string>

#include "attention/method.h"
#include "formats/precision.h"

namespace tessera {

// How values reach a layer's output, for query head h with KV head g:
//   two steps:     y = sum_h (sum_j p_hj v_gj) W_O,h       with v_gj = x_j W_V,g
//   pre-computed:  y = sum_h  sum_j p_hj m_hj               with m_hj = x_j (W_V,g W_O,h)
// (E.T., Chen et al. 2021, x W convention). kAuto: chosen when the weights are known.
enum class VoMethod { kAuto, kTwoStep, kPrecomputed };

struct VoChoice {
  VoMethod method = VoMethod::kAuto;
  std::string why;
};

struct VoProblem {
  int32_t tokens = 128;  // expected of a sequence
  int32_t query_heads = 0;
  int32_t kv_heads = 0;
  int64_t hidden_size = 0;
  int64_t value_size = 0;  // of a head, in two steps
  int64_t features = 0;    // that the output matrix keeps: the width of a pre-computed head
  // The FLOPs of V and the output matrix for one token, in two steps, as they are stored.
  double two_step_flops = 0;
  Precision weights = Precision::kF32;
  Mask mask = Mask::kNone;
};

// The faster method by FLOPs for a token among `tokens`, with n keys each:
//   two steps:     two_step_flops + 2 n H value_size
//   pre-computed:  2 H features (hidden_size + n)
// With dense V of d columns and H heads of d / H this pays where rho = features / d is below
// (d + n) / (H (d + n) - d). Measured speeds of the two kinds of product correct it, see
// precompute_vo.cc. Never kAuto. Not chosen, only forced: where weights are rounded, the product
// too, and for a decoder where the cache would grow.
VoChoice choose_vo(VoMethod wanted, const VoProblem& problem);

}  // namespace tessera
