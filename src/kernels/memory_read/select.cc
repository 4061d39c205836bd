#include "kernels/memory_read/memory_read.h"

namespace tessera::memory_read {
namespace {

constexpr KernelRow<Args> kRows[] = {
#define TESSERA_KERNEL(row, isa) {#row, isa, row, takes_all<Args>},
#include "kernels/memory_read/table.inc"
#undef TESSERA_KERNEL
};

}  // namespace

const KernelFamily<Args> kernels{"memory_read", kRows};

}  // namespace tessera::memory_read
