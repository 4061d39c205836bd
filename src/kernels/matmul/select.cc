#include "kernels/matmul/matmul.h"

namespace tessera::matmul {
namespace {

constexpr KernelRow<Args> kRows[] = {
#define TESSERA_KERNEL(row, isa, refuse) {#row, isa, row, refuse},
#include "kernels/matmul/table.inc"
#undef TESSERA_KERNEL
};

}  // namespace

const KernelFamily<Args> kernels{"matmul", kRows};

}  // namespace tessera::matmul
