#include "kernels/activation/activation.h"
#include "kernels/attention_product/attention_product.h"
#include "kernels/attention_softmax/attention_softmax.h"
#include "kernels/family.h"
#include "kernels/matmul/matmul.h"
#include "kernels/norm/norm.h"
#include "kernels/rotary/rotary.h"
#include "kernels/transpose/transpose.h"

namespace tessera {

// Every family, one row each.
std::vector<KernelState> all_kernel_states() {
  std::vector<KernelState> all;
  for (const std::vector<KernelState>& states : {
           matmul::kernels.states(),
           norm::kernels.states(),
           activation::kernels.states(),
           rotary::kernels.states(),
           attention_product::kernels.states(),
           attention_softmax::kernels.states(),
           transpose::kernels.states(),
       }) {
    all.insert(all.end(), states.begin(), states.end());
  }
  return all;
}

}  // namespace tessera
