#include "kernels/transpose/transpose.h"

namespace tessera::transpose {
namespace {

constexpr KernelRow<Args> kRows[] = {
#define TESSERA_KERNEL(row, isa) {#row, isa, row, takes_all<Args>},
#include "kernels/transpose/table.inc"
#undef TESSERA_KERNEL
};

}  // namespace

const KernelFamily<Args> kernels{"transpose", kRows};

}  // namespace tessera::transpose
