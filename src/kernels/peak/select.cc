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
    {"avx512_vnni", Isa::kAvx512Vnni, avx512_vnni, refuse_vnni},
    {"avx512_bf16", Isa::kAvx512Bf16, avx512_bf16, refuse_bf16},
    {"avx512", Isa::kAvx512, avx512, refuse_f32},
    {"avx2", Isa::kAvx2, avx2, refuse_f32},
    {"ref", Isa::kAny, ref, takes_all<Args>},
};

}  // namespace

const KernelFamily<Args> kernels{"peak", kRows};

}  // namespace tessera::peak
