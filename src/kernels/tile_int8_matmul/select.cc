#include "kernels/tile_int8_matmul/tile_int8_matmul.h"

namespace tessera::tile_int8_matmul {
namespace {

constexpr KernelRow<Args> kRows[] = {
#define TESSERA_KERNEL(row, isa) {#row, isa, row, takes_all<Args>},
#include "kernels/tile_int8_matmul/table.inc"
#undef TESSERA_KERNEL
};

}  // namespace

const KernelFamily<Args> kernels{"tile_int8_matmul", kRows};

}  // namespace tessera::tile_int8_matmul
