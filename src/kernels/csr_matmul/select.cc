#include "kernels/csr_matmul/csr_matmul.h"

namespace tessera::csr_matmul {
namespace {

constexpr KernelRow<Args> kRows[] = {
#define TESSERA_KERNEL(row, isa) {#row, isa, row, takes_all<Args>},
#include "kernels/csr_matmul/table.inc"
#undef TESSERA_KERNEL
};

}  // namespace

const KernelFamily<Args> kernels{"csr_matmul", kRows};

}  // namespace tessera::csr_matmul
