#include "kernels/narrow_rows/narrow_rows.h"

namespace tessera::narrow_rows {
namespace {

constexpr KernelRow<Args> kRows[] = {
#define TESSERA_KERNEL(row, isa) {#row, isa, row, takes_all<Args>},
#include "kernels/narrow_rows/table.inc"
#undef TESSERA_KERNEL
};

}  // namespace

const KernelFamily<Args> kernels{"narrow_rows", kRows};

}  // namespace tessera::narrow_rows
