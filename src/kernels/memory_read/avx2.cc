#include <immintrin.h>

#include "kernels/memory_read/memory_read.h"

namespace tessera::memory_read {
namespace {

__m256i line_sum(const char* line) {
  const auto* halves = reinterpret_cast<const __m256i*>(line);
  return _mm256_add_epi64(_mm256_load_si256(halves), _mm256_load_si256(halves + 1));
}

}  // namespace

void avx2(const Args& args, Exec exec) noexcept {
  const char* begin = static_cast<const char*>(args.data) + exec.begin * kLineBytes;
  const int64_t lines = exec.end - exec.begin, run = lines / args.streams;
  __m256i sums[4];
  for (auto& sum : sums) sum = _mm256_setzero_si256();
  for (int64_t i = 0; i < run; ++i) {
    for (int s = 0; s < args.streams; ++s)
      sums[s % 4] = _mm256_add_epi64(sums[s % 4], line_sum(begin + (s * run + i) * kLineBytes));
  }
  for (int64_t i = run * args.streams; i < lines; ++i)
    sums[0] = _mm256_add_epi64(sums[0], line_sum(begin + i * kLineBytes));
  uint64_t words[4];
  _mm256_storeu_si256(
      reinterpret_cast<__m256i*>(words),
      _mm256_add_epi64(_mm256_add_epi64(sums[0], sums[1]), _mm256_add_epi64(sums[2], sums[3])));
  *args.sum = words[0] + words[1] + words[2] + words[3];
}

}  // namespace tessera::memory_read
