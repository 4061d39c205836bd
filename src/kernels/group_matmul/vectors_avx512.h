#pragma once

#include <immintrin.h>
#include <stdint.h>

#include "kernels/group_matmul/blocked.h"
#include "kernels/matmul/finish_avx512.h"

// What blocked.h is made of, on vectors of 16 numbers, without `dot`. Included by files compiled
// for different instruction sets, so everything has internal linkage.
namespace tessera::group_matmul {
namespace {

struct Vectors512 : matmul::Epilogue {
  using Int = __m512i;
  using Float = __m512;
  // Sums of 32 bits. __m512i are integers of 64 bits to GCC, which would move each sum between
  // registers for every product.
  typedef int Sums __attribute__((vector_size(64)));
  static constexpr int kLanes = 16;
  static constexpr int64_t kDirectRows = 4;
  // 24 sums, the weights and one broadcast in 32 registers.
  static constexpr int vectors(int /*rows*/) { return 4; }

  static inline Int load(const char* at) { return _mm512_load_si512(at); }
  static inline void store(char* at, Int x) { _mm512_store_si512(at, x); }
  static inline Int set(int32_t x) { return _mm512_set1_epi32(x); }
  static inline Sums start(int32_t x) { return Sums(_mm512_set1_epi32(x)); }
  static inline Int mask(Int x, int32_t lane) {
    return _mm512_and_si512(x, _mm512_set1_epi32(lane));
  }
  template <int kBits>
  static inline Int shift(Int x) {
    return _mm512_srli_epi16(x, kBits);
  }

  static inline Float load_floats(const float* at) { return _mm512_load_ps(at); }
  static inline void store_floats(float* at, Float x) { _mm512_store_ps(at, x); }
  static inline Float set_float(float x) { return _mm512_set1_ps(x); }
  static inline Float to_float(Sums x) { return _mm512_cvtepi32_ps(__m512i(x)); }
  static inline Float multiply(Float a, Float b) { return _mm512_mul_ps(a, b); }
  static inline Float multiply_add(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
  static inline Float load_scales(const char* at, int v, DType type) {
    if (type == DType::kF32) {
      return _mm512_load_ps(reinterpret_cast<const float*>(at) + v * kLanes);
    }
    return _mm512_cvtph_ps(_mm256_load_si256(reinterpret_cast<const __m256i*>(at) + v));
  }
};

}  // namespace
}  // namespace tessera::group_matmul
