#include "kernels/rotary/rotary.h"

namespace tessera::rotary {
namespace {

constexpr KernelRow<Args> kRows[] = {
#define TESSERA_KERNEL(row, isa) {#row, isa, row, takes_all<Args>},
#include "kernels/rotary/table.inc"
#undef TESSERA_KERNEL
};

}  // namespace

const KernelFamily<Args> kernels{"rotary", kRows};

}  // namespace tessera::rotary
