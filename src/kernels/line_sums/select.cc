#include "kernels/line_sums/line_sums.h"

namespace tessera::line_sums {
namespace {

constexpr KernelRow<Args> kRows[] = {
#define TESSERA_KERNEL(row, isa) {#row, isa, row, takes_all<Args>},
#include "kernels/line_sums/table.inc"
#undef TESSERA_KERNEL
};

}  // namespace

const KernelFamily<Args> kernels{"line_sums", kRows};

}  // namespace tessera::line_sums
