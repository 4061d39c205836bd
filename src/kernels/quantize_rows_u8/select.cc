#include "kernels/quantize_rows_u8/quantize_rows_u8.h"

namespace tessera::quantize_rows_u8 {
namespace {

constexpr KernelRow<Args> kRows[] = {
#define TESSERA_KERNEL(row, isa) {#row, isa, row, takes_all<Args>},
#include "kernels/quantize_rows_u8/table.inc"
#undef TESSERA_KERNEL
};

}  // namespace

const KernelFamily<Args> kernels{"quantize_rows_u8", kRows};

}  // namespace tessera::quantize_rows_u8
