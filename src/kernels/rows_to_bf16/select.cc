#include "kernels/rows_to_bf16/rows_to_bf16.h"

namespace tessera::rows_to_bf16 {
namespace {

constexpr KernelRow<Args> kRows[] = {
#define TESSERA_KERNEL(row, isa) {#row, isa, row, takes_all<Args>},
#include "kernels/rows_to_bf16/table.inc"
#undef TESSERA_KERNEL
};

}  // namespace

const KernelFamily<Args> kernels{"rows_to_bf16", kRows};

}  // namespace tessera::rows_to_bf16
