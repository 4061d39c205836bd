#include "kernels/bf16_matmul/bf16_matmul.h"

namespace tessera::bf16_matmul {
namespace {

constexpr KernelRow<Args> kRows[] = {
#define TESSERA_KERNEL(row, isa) {#row, isa, row, takes_all<Args>},
#include "kernels/bf16_matmul/table.inc"
#undef TESSERA_KERNEL
};

// vdpbf16ps makes as many products as two multiply-additions of f32. AMD's CPUs begin as many of
// the one as of the other; Intel's begin one in the time of four.
bool has_fast_pairs() {
#if defined(__x86_64__)
  return __builtin_cpu_is("amd") != 0;
#else
  return false;
#endif
}

}  // namespace

const KernelFamily<Args> kernels{"bf16_matmul", kRows};

const char* refuse_cpu() {
  if (available(Isa::kAmx)) return nullptr;
  if (!available(Isa::kAvx512Bf16)) return "this CPU multiplies no bf16";
  return has_fast_pairs() ? nullptr : "this CPU multiplies f32 faster than bf16";
}

}  // namespace tessera::bf16_matmul
