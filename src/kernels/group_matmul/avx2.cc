#include <immintrin.h>

#include "kernels/group_matmul/blocked.h"
#include "kernels/group_matmul/group_matmul.h"
#include "kernels/matmul/finish_avx2.h"

namespace tessera::group_matmul {
namespace {

struct Avx2 : matmul::Epilogue {
  using Int = __m256i;
  using Float = __m256;
  typedef int Sums __attribute__((vector_size(32)));
  static constexpr int kLanes = 8;
  static constexpr int kChains = 1;
  static constexpr int64_t kDirectRows = 1;
  // Sixteen registers hold 12 sums, two vectors of weights, a broadcast and a product; one row
  // alone takes the panel's whole width, so that it streams.
  static constexpr int vectors(int rows) { return rows == 1 ? 8 : rows == 2 ? 4 : 2; }

  static inline Int load(const char* at) {
    return _mm256_load_si256(reinterpret_cast<const __m256i*>(at));
  }
  static inline void store(char* at, Int x) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(at), x);
  }
  static inline Int set(int32_t x) { return _mm256_set1_epi32(x); }
  static inline Sums start(int32_t x) { return Sums(_mm256_set1_epi32(x)); }
  static inline Int mask(Int x, int32_t lane) {
    return _mm256_and_si256(x, _mm256_set1_epi32(lane));
  }
  template <int kBits>
  static inline Int shift(Int x) {
    return _mm256_srli_epi16(x, kBits);
  }
  template <int kBits>
  static inline Sums dot(Sums sums, Int weights, Int x) {
    static_assert(kBits == 16);
    sums += Sums(_mm256_madd_epi16(weights, x));
    // Else GCC takes all sums of a step last, and has no registers for so many products.
    __asm__("" : "+x"(sums));
    return sums;
  }

  static inline Float load_floats(const float* at) { return _mm256_load_ps(at); }
  static inline void store_floats(float* at, Float x) { _mm256_store_ps(at, x); }
  static inline Float set_float(float x) { return _mm256_set1_ps(x); }
  static inline Float to_float(Sums x) { return _mm256_cvtepi32_ps(__m256i(x)); }
  static inline Float multiply(Float a, Float b) { return _mm256_mul_ps(a, b); }
  static inline Float multiply_add(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }
  static inline Float load_scales(const char* at, int v, DType type) {
    if (type == DType::kF32) {
      return _mm256_load_ps(reinterpret_cast<const float*>(at) + v * kLanes);
    }
    return _mm256_cvtph_ps(_mm_load_si128(reinterpret_cast<const __m128i*>(at) + v));
  }
};

}  // namespace

void avx2(const Args& args, Exec exec) noexcept { product<Avx2, RowForm::k16>(args, exec); }

}  // namespace tessera::group_matmul
