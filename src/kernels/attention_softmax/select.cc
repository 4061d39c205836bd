#include "kernels/attention_softmax/attention_softmax.h"

namespace tessera::attention_softmax {
namespace {

constexpr KernelRow<Args> kRows[] = {
#define TESSERA_KERNEL(row, isa) {#row, isa, row, takes_all<Args>},
#include "kernels/attention_softmax/table.inc"
#undef TESSERA_KERNEL
};

}  // namespace

const KernelFamily<Args> kernels{"attention_softmax", kRows};

}  // namespace tessera::attention_softmax
