#pragma once

#include <stdint.h>

#include "kernels/peak/peak.h"

// The loop of the vector rows. Included by files compiled for different instruction sets, so
// everything has internal linkage.
namespace tessera::peak {
namespace {

// Vectors gives kChains, more than the latency of both multipliers needs; kProducts of an
// instruction; the types Value and Sum; and value(float), zero(), multiply(value, sum) and
// total(sum).
template <typename Vectors>
void sum_products(const Args& args, Exec exec) {
  constexpr int64_t kRepeats = kProductsPerStep / (Vectors::kChains * Vectors::kProducts);
  const typename Vectors::Value value = Vectors::value(args.value);
  // Every loop over them is unrolled whole, or they would live in memory.
  typename Vectors::Sum chains[Vectors::kChains];
#pragma GCC unroll 24
  for (auto& chain : chains) chain = Vectors::zero();
  for (int64_t left = (exec.end - exec.begin) * kRepeats; left > 0; --left) {
#pragma GCC unroll 24
    for (auto& chain : chains) {
      chain = Vectors::multiply(value, chain);
      asm volatile("" : "+v"(chain));  // or equal chains may be computed once
    }
  }
  double sum = 0;
#pragma GCC unroll 24
  for (const auto& chain : chains) sum += Vectors::total(chain);
  *args.sum = sum;
}

}  // namespace
}  // namespace tessera::peak
