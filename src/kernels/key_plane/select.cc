#include "kernels/key_plane/key_plane.h"

namespace tessera::key_plane {
namespace {

constexpr KernelRow<Args> kRows[] = {
#define TESSERA_KERNEL(row, isa) {#row, isa, row, takes_all<Args>},
#include "kernels/key_plane/table.inc"
#undef TESSERA_KERNEL
};

}  // namespace

const KernelFamily<Args> kernels{"key_plane", kRows};

}  // namespace tessera::key_plane
