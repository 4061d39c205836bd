#include <algorithm>

#include "kernels/activation/activation.h"
#include "kernels/attention_product/attention_product.h"
#include "kernels/attention_softmax/attention_softmax.h"
#include "kernels/bf16_matmul/bf16_matmul.h"
#include "kernels/csr_matmul/csr_matmul.h"
#include "kernels/family.h"
#include "kernels/group_matmul/group_matmul.h"
#include "kernels/int8_matmul/int8_matmul.h"
#include "kernels/key_plane/key_plane.h"
#include "kernels/line_sums/line_sums.h"
#include "kernels/matmul/matmul.h"
#include "kernels/memory_read/memory_read.h"
#include "kernels/norm/norm.h"
#include "kernels/peak/peak.h"
#include "kernels/quantize_rows_blockwise/quantize_rows_blockwise.h"
#include "kernels/quantize_rows_u8/quantize_rows_u8.h"
#include "kernels/rotary/rotary.h"
#include "kernels/rows_to_bf16/rows_to_bf16.h"
#include "kernels/rows_to_f32/rows_to_f32.h"
#include "kernels/tile_int8_matmul/tile_int8_matmul.h"
#include "kernels/tile_matmul/tile_matmul.h"
#include "kernels/tile_outer/tile_outer.h"
#include "kernels/topk/topk.h"
#include "kernels/transpose/transpose.h"
#include "kernels/value_rows/value_rows.h"

namespace tessera {

// Every family, one row each.
std::vector<KernelState> all_kernel_states() {
  std::vector<KernelState> all;
  for (const std::vector<KernelState>& states : {
           matmul::kernels.states(),
           bf16_matmul::kernels.states(),
           rows_to_bf16::kernels.states(),
           tile_matmul::kernels.states(),
           tile_int8_matmul::kernels.states(),
           tile_outer::kernels.states(),
           line_sums::kernels.states(),
           csr_matmul::kernels.states(),
           quantize_rows_u8::kernels.states(),
           int8_matmul::kernels.states(),
           group_matmul::kernels.states(),
           quantize_rows_blockwise::kernels.states(),
           norm::kernels.states(),
           activation::kernels.states(),
           rotary::kernels.states(),
           attention_product::kernels.states(),
           attention_softmax::kernels.states(),
           topk::kernels.states(),
           key_plane::kernels.states(),
           value_rows::kernels.states(),
           transpose::kernels.states(),
           rows_to_f32::kernels.states(),
           peak::kernels.states(),
           memory_read::kernels.states(),
       }) {
    all.insert(all.end(), states.begin(), states.end());
  }
  return all;
}

Status check_forced_kernels() {
  const std::vector<KernelState> states = all_kernel_states();
  std::string rest = forced_kernels();
  while (!rest.empty()) {
    const size_t comma = rest.find(',');
    const std::string item = rest.substr(0, comma);
    rest = comma == std::string::npos ? "" : rest.substr(comma + 1);
    const bool known = std::any_of(states.begin(), states.end(), [&](const KernelState& state) {
      return item == state.family + ":" + state.row;
    });
    if (!known) {
      return invalid_input(
          "TESSERA_KERNEL: expected family:row pairs as `tessera inspect --kernels` lists them, "
          "found \"" +
          item + "\"");
    }
  }
  return {};
}

}  // namespace tessera
