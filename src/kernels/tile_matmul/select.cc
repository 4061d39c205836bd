#include "kernels/tile_matmul/tile_matmul.h"

namespace tessera::tile_matmul {
namespace {

constexpr KernelRow<Args> kRows[] = {
#define TESSERA_KERNEL(row, isa) {#row, isa, row, takes_all<Args>},
#include "kernels/tile_matmul/table.inc"
#undef TESSERA_KERNEL
};

}  // namespace

const KernelFamily<Args> kernels{"tile_matmul", kRows};

}  // namespace tessera::tile_matmul
