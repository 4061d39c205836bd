#include "kernels/tile_outer/tile_outer.h"

namespace tessera::tile_outer {
namespace {

constexpr KernelRow<Args> kRows[] = {
#define TESSERA_KERNEL(row, isa) {#row, isa, row, takes_all<Args>},
#include "kernels/tile_outer/table.inc"
#undef TESSERA_KERNEL
};

}  // namespace

const KernelFamily<Args> kernels{"tile_outer", kRows};

}  // namespace tessera::tile_outer
