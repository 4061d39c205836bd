#include "kernels/widen/widen.h"

namespace tessera::widen {
namespace {

constexpr KernelRow<Args> kRows[] = {
#define TESSERA_KERNEL(row, isa) {#row, isa, row, takes_all<Args>},
#include "kernels/widen/table.inc"
#undef TESSERA_KERNEL
};

}  // namespace

const KernelFamily<Args> kernels{"widen", kRows};

}  // namespace tessera::widen
