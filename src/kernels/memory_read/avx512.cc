#include <immintrin.h>

#include "kernels/memory_read/memory_read.h"

namespace tessera::memory_read {

void avx512(const Args& args, Exec exec) noexcept {
  const char* begin = static_cast<const char*>(args.data) + exec.begin * kLineBytes;
  const int64_t lines = exec.end - exec.begin, run = lines / args.streams;
  __m512i sums[4];
  for (auto& sum : sums) sum = _mm512_setzero_si512();
  for (int64_t i = 0; i < run; ++i) {
    for (int s = 0; s < args.streams; ++s) {
      const void* line = begin + (s * run + i) * kLineBytes;
      sums[s % 4] = _mm512_add_epi64(sums[s % 4], _mm512_load_si512(line));
    }
  }
  for (int64_t i = run * args.streams; i < lines; ++i)
    sums[0] = _mm512_add_epi64(sums[0], _mm512_load_si512(begin + i * kLineBytes));
  const __m512i all =
      _mm512_add_epi64(_mm512_add_epi64(sums[0], sums[1]), _mm512_add_epi64(sums[2], sums[3]));
  // The reduction of the intrinsics adds signed words, which may not overflow.
  uint64_t words[8];
  _mm512_storeu_si512(words, all);
  *args.sum = 0;
  for (const uint64_t word : words) *args.sum += word;
}

}  // namespace tessera::memory_read
