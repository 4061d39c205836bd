#include <float.h>
#include <immintrin.h>
#include <math.h>

#include "kernels/quantize_rows_u8/quantize_rows_u8.h"
#include "kernels/vector_math_avx2.h"

namespace tessera::quantize_rows_u8 {
namespace {

constexpr int64_t kLanes = 8;
constexpr int64_t kMultiple = 64;  // as kU8InputMultiple

// Zeros behind the last value.
inline __m256 load(const float* source, int64_t left) {
  if (left >= kLanes) return _mm256_loadu_ps(source);
  return _mm256_maskload_ps(source, tail_mask(left));
}

struct Row {
  const float* x;
  const float* multipliers;
  int64_t inputs;

  template <bool kMultiplied>
  inline __m256 at(int64_t k) const {
    const __m256 value = load(x + k, inputs - k);
    return kMultiplied ? _mm256_mul_ps(value, load(multipliers + k, inputs - k)) : value;
  }
};

struct Extent {
  float least, most;
  bool finite;
};

inline float reduce_max(__m256 v) {
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

// Two chains of each, because a chain waits four cycles for itself.
template <bool kMultiplied>
Extent extent_of(const Row& row) {
  const __m256 none = _mm256_setzero_ps(), sign = _mm256_set1_ps(-0.0f);
  __m256 least[2] = {none, none}, most[2] = {none, none};
  __m256 product[2] = {none, none};  // with 0: NaN where a value is not finite
  for (int64_t k = 0; k < row.inputs; k += 2 * kLanes) {
    for (int i = 0; i < 2; ++i) {
      const __m256 value = row.at<kMultiplied>(k + i * kLanes);
      least[i] = _mm256_min_ps(least[i], value);
      most[i] = _mm256_max_ps(most[i], value);
      product[i] = _mm256_fmadd_ps(value, none, product[i]);
    }
  }
  const __m256 products = _mm256_add_ps(product[0], product[1]);
  return {-reduce_max(_mm256_xor_ps(_mm256_min_ps(least[0], least[1]), sign)),
          reduce_max(_mm256_max_ps(most[0], most[1])),
          _mm256_movemask_ps(_mm256_cmp_ps(products, products, _CMP_UNORD_Q)) == 0};
}

// No value is below the least, so the sum with the zero is not negative; the padding's is the zero.
template <bool kMultiplied>
void round_row(const Row& row, float inverse, int32_t zero, uint8_t* values) {
  const __m256 factor = _mm256_set1_ps(inverse);
  const __m256i offset = _mm256_set1_epi32(zero);
  const auto rounded = [&](int64_t k) {
    const __m256i whole = _mm256_cvtps_epi32(_mm256_mul_ps(row.at<kMultiplied>(k), factor));
    return _mm256_add_epi32(whole, offset);
  };
  const int64_t padded = (row.inputs + kMultiple - 1) / kMultiple * kMultiple;
  for (int64_t k = 0; k < padded; k += 4 * kLanes) {
    const __m256i low = _mm256_packus_epi32(rounded(k), rounded(k + kLanes));
    const __m256i high = _mm256_packus_epi32(rounded(k + 2 * kLanes), rounded(k + 3 * kLanes));
    // Packing goes by halves of a vector; this puts fours of bytes back into their order.
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    _mm256_store_si256(reinterpret_cast<__m256i*>(values + k),
                       _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high), order));
  }
}

template <bool kMultiplied>
void quantize(const Args& args, Exec exec) {
  for (int64_t m = exec.begin; m < exec.end; ++m) {
    const Row row{args.x + m * args.x_stride, args.multipliers, args.inputs};
    const Extent extent = extent_of<kMultiplied>(row);
    const float high = extent.most / 255, low = extent.least / 255;
    const float scale = high - low > FLT_MIN ? high - low : FLT_MIN;
    const float inverse = 1 / scale;
    args.scales[m] = extent.finite ? scale : NAN;
    args.zeros[m] = extent.finite ? _mm_cvtss_si32(_mm_set_ss(-extent.least * inverse)) : 0;
    uint8_t* values = args.values + m * args.stride;
    if (extent.finite) {
      round_row<kMultiplied>(row, inverse, args.zeros[m], values);
    } else {
      for (int64_t k = 0; k < args.inputs; k += kMultiple) {
        _mm256_store_si256(reinterpret_cast<__m256i*>(values + k), _mm256_setzero_si256());
        _mm256_store_si256(reinterpret_cast<__m256i*>(values + k + 32), _mm256_setzero_si256());
      }
    }
  }
}

}  // namespace

void avx2(const Args& args, Exec exec) noexcept {
  if (args.multipliers == nullptr) {
    quantize<false>(args, exec);
  } else {
    quantize<true>(args, exec);
  }
}

}  // namespace tessera::quantize_rows_u8
