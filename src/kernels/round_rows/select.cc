#include "kernels/round_rows/round_rows.h"

namespace tessera::round_rows {
namespace {

constexpr KernelRow<Args> kRows[] = {
#define TESSERA_KERNEL(row, isa) {#row, isa, row, takes_all<Args>},
#include "kernels/round_rows/table.inc"
#undef TESSERA_KERNEL
};

}  // namespace

const KernelFamily<Args> kernels{"round_rows", kRows};

}  // namespace tessera::round_rows
