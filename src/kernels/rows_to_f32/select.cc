#include "kernels/rows_to_f32/rows_to_f32.h"

namespace tessera::rows_to_f32 {
namespace {

constexpr KernelRow<Args> kRows[] = {
#define TESSERA_KERNEL(row, isa) {#row, isa, row, takes_all<Args>},
#include "kernels/rows_to_f32/table.inc"
#undef TESSERA_KERNEL
};

}  // namespace

const KernelFamily<Args> kernels{"rows_to_f32", kRows};

}  // namespace tessera::rows_to_f32
