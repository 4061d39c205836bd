#include "kernels/value_rows/value_rows.h"

namespace tessera::value_rows {
namespace {

constexpr KernelRow<Args> kRows[] = {
#define TESSERA_KERNEL(row, isa) {#row, isa, row, takes_all<Args>},
#include "kernels/value_rows/table.inc"
#undef TESSERA_KERNEL
};

}  // namespace

const KernelFamily<Args> kernels{"value_rows", kRows};

}  // namespace tessera::value_rows
