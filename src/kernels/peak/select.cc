#include "kernels/peak/peak.h"

namespace tessera::peak {
namespace {

const char* refuse_vnni(const Args& args) noexcept {
  return args.dtype == DType::kI8 ? nullptr : "multiplies bytes only";
}
const char* refuse_bf16(const Args& args) noexcept {
  return args.dtype == DType::kBF16 ? nullptr : "multiplies bf16 only";
}
const char* refuse_f32(const Args& args) noexcept {
  return args.dtype == DType::kF32 ? nullptr : "multiplies f32 only";
}

constexpr KernelRow<Args> kRows[] = {
#define TESSERA_KERNEL(row, isa, refuse) {#row, isa, row, refuse},
#include "kernels/peak/table.inc"
#undef TESSERA_KERNEL
};

}  // namespace

const KernelFamily<Args> kernels{"peak", kRows};

}  // namespace tessera::peak
