#include "kernels/bf16_rows/bf16_rows.h"

namespace tessera::bf16_rows {
namespace {

constexpr KernelRow<Args> kRows[] = {
#define TESSERA_KERNEL(row, isa) {#row, isa, row, takes_all<Args>},
#include "kernels/bf16_rows/table.inc"
#undef TESSERA_KERNEL
};

}  // namespace

const KernelFamily<Args> kernels{"bf16_rows", kRows};

}  // namespace tessera::bf16_rows
