#include "kernels/quantize_rows_blockwise/quantize_rows_blockwise.h"

namespace tessera::quantize_rows_blockwise {
namespace {

constexpr KernelRow<Args> kRows[] = {
#define TESSERA_KERNEL(row, isa) {#row, isa, row, takes_all<Args>},
#include "kernels/quantize_rows_blockwise/table.inc"
#undef TESSERA_KERNEL
};

}  // namespace

const KernelFamily<Args> kernels{"quantize_rows_blockwise", kRows};

}  // namespace tessera::quantize_rows_blockwise
