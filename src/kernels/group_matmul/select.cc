#include "kernels/group_matmul/group_matmul.h"

namespace tessera::group_matmul {
namespace {

const char* refuse_bytes(const Args& args) noexcept {
  return args.x.form != RowForm::k16 ? "bytes gain nothing without VNNI" : nullptr;
}

constexpr KernelRow<Args> kRows[] = {
#define TESSERA_KERNEL(row, isa, refuse) {#row, isa, row, refuse},
#include "kernels/group_matmul/table.inc"
#undef TESSERA_KERNEL
};

}  // namespace

const KernelFamily<Args> kernels{"group_matmul", kRows};

}  // namespace tessera::group_matmul
