#include <float.h>
#include <immintrin.h>
#include <math.h>

#include "kernels/quantize_rows_u8/quantize_rows_u8.h"
#include "kernels/vector_math_avx512.h"

namespace tessera::quantize_rows_u8 {
namespace {

constexpr int64_t kLanes = 16;
constexpr int64_t kMultiple = 64;  // as kU8InputMultiple

struct Row {
  const float* x;
  const float* multipliers;
  int64_t inputs;

  // kWhole: there are 16 inputs from k on. Making a mask takes as long as using it.
  template <bool kMultiplied, bool kWhole>
  inline __m512 at(int64_t k) const {
    const __mmask16 mask = kWhole       ? __mmask16(0xffff)
                           : k < inputs ? tail_mask(inputs - k)
                                        : __mmask16(0);
    const __m512 value = _mm512_maskz_loadu_ps(mask, x + k);
    return kMultiplied ? _mm512_mul_ps(value, _mm512_maskz_loadu_ps(mask, multipliers + k)) : value;
  }
};

struct Extent {
  float least, most;
  bool finite;
};

// Two chains of each, because a chain waits four cycles for itself.
struct Extents {
  __m512 least[2], most[2];
  __m512 product[2];  // with 0: NaN where a value is not finite

  template <bool kMultiplied, bool kWhole>
  inline void add(const Row& row, int64_t k) {
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      const __m512 value = row.at<kMultiplied, kWhole>(k + i * kLanes);
      least[i] = _mm512_min_ps(least[i], value);
      most[i] = _mm512_max_ps(most[i], value);
      product[i] = _mm512_fmadd_ps(value, _mm512_setzero_ps(), product[i]);
    }
  }
};

template <bool kMultiplied>
Extent extent_of(const Row& row) {
  const __m512 none = _mm512_setzero_ps();
  Extents all{{none, none}, {none, none}, {none, none}};
  int64_t k = 0;
  for (; k + 2 * kLanes <= row.inputs; k += 2 * kLanes) all.add<kMultiplied, true>(row, k);
  if (k < row.inputs) all.add<kMultiplied, false>(row, k);
  const __m512 products = _mm512_add_ps(all.product[0], all.product[1]);
  return {_mm512_reduce_min_ps(_mm512_min_ps(all.least[0], all.least[1])),
          _mm512_reduce_max_ps(_mm512_max_ps(all.most[0], all.most[1])),
          _mm512_cmp_ps_mask(products, products, _CMP_UNORD_Q) == 0};
}

// No value is below the least, so the sum with the zero is not negative; the padding's is the zero.
template <bool kMultiplied, bool kWhole>
inline void round_part(const Row& row, int64_t begin, float inverse, int32_t zero,
                       uint8_t* values) {
  const __m512 factor = _mm512_set1_ps(inverse);
  const __m512i offset = _mm512_set1_epi32(zero);
#pragma GCC unroll 4
  for (int64_t i = begin; i < begin + kMultiple; i += kLanes) {
    const __m512i rounded =
        _mm512_cvt_roundps_epi32(_mm512_mul_ps(row.at<kMultiplied, kWhole>(i), factor),
                                 _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm_store_si128(reinterpret_cast<__m128i*>(values + i),
                    _mm512_cvtusepi32_epi8(_mm512_add_epi32(rounded, offset)));
  }
}

template <bool kMultiplied>
void round_row(const Row& row, float inverse, int32_t zero, uint8_t* values) {
  int64_t k = 0;
  for (; k + kMultiple <= row.inputs; k += kMultiple)
    round_part<kMultiplied, true>(row, k, inverse, zero, values);
  if (k < row.inputs) round_part<kMultiplied, false>(row, k, inverse, zero, values);
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
        _mm512_store_si512(values + k, _mm512_setzero_si512());
      }
    }
  }
}

}  // namespace

void avx512(const Args& args, Exec exec) noexcept {
  if (args.multipliers == nullptr) {
    quantize<false>(args, exec);
  } else {
    quantize<true>(args, exec);
  }
}

}  // namespace tessera::quantize_rows_u8
