#pragma once

#include <immintrin.h>
#include <stdint.h>

#include "kernels/csr_matmul/csr_matmul.h"

// The loops of the vector rows. Included by files compiled for different instruction sets, so
// everything has internal linkage.
namespace tessera::csr_matmul {
namespace {

// A block of transposed rows times some groups of outputs: the sums of kBlockOutputs outputs and
// kChunk inputs of 64 rows take 40 KB, so that both stay in an L1 cache of 48 KB.
constexpr int64_t kBlockOutputs = 64;
constexpr int64_t kChunk = 96;
constexpr int64_t kMaxRows = 64;

// Outputs whose elements are fetched ahead: a chunk takes a short run of each output's, which no
// hardware prefetcher follows.
constexpr int64_t kAheadOutputs = 8;

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// The elements of one output whose inputs are below `limit`, from `begin` on.
struct Segment {
  const float* x;  // transposed, of the block's first row
  int64_t begin;
  int64_t end;    // of the output
  int64_t limit;  // of the inputs
  float* sums;    // [rows of the block]
};

// Vectors gives kWidth (floats of a vector), kMostVectors, add<vectors, wide>(args, segment), which
// returns where the segment ends, and finish(args, target).
struct Target {
  int64_t row;
  int64_t rows;
  int64_t output;
  int64_t outputs;    // at most 16
  const float* sums;  // [outputs][stride]
  int64_t stride;
};

// The first elements of a run, as many as a chunk has of them at some 30% kept.
template <bool kWide>
inline void fetch(const Args& args, int64_t begin) {
  constexpr int64_t kLineBytes = 64;
  const char* values = static_cast<const char*>(args.values) + begin * (kWide ? 4 : 2);
  const char* columns = reinterpret_cast<const char*>(args.columns + begin);
  _mm_prefetch(values, _MM_HINT_T0);
  _mm_prefetch(values + kLineBytes, _MM_HINT_T0);
  _mm_prefetch(columns, _MM_HINT_T0);
}

template <typename Vectors, int kVectors, bool kWide>
void block_times_outputs(const Args& args, int64_t row, int64_t output, int64_t outputs) {
  constexpr int64_t kRows = kVectors * Vectors::kWidth;
  // Whole groups of 16, whose last outputs may be none.
  alignas(64) float sums[kBlockOutputs * kRows] = {};
  int32_t next[kBlockOutputs];
  for (int64_t n = 0; n < outputs; ++n) next[n] = args.offsets[output + n];
  for (int64_t k = 0; k < args.inputs; k += kChunk) {
    for (int64_t n = 0; n < outputs; ++n) {
      fetch<kWide>(args, next[(n + kAheadOutputs) % outputs]);
      const Segment segment{args.x + row, next[n], args.offsets[output + n + 1], k + kChunk,
                            sums + n * kRows};
      next[n] = int32_t(Vectors::template add<kVectors, kWide>(args, segment));
    }
  }
  for (int64_t n = 0; n < outputs; n += kGroupOutputs) {
    Vectors::finish(args, {row, least(kRows, args.rows - row), output + n,
                           least(kGroupOutputs, outputs - n), sums + n * kRows, kRows});
  }
}

template <typename Vectors, bool kWide, int kVectors = 1>
void block(const Args& args, int64_t row, int64_t output, int64_t outputs) {
  if constexpr (kVectors < Vectors::kMostVectors) {
    if (args.rows - row > kVectors * Vectors::kWidth) {
      return block<Vectors, kWide, kVectors + 1>(args, row, output, outputs);
    }
  }
  block_times_outputs<Vectors, kVectors, kWide>(args, row, output, outputs);
}

template <typename Vectors, bool kWide>
void many_rows(const Args& args, Exec exec) {
  constexpr int64_t kRows = Vectors::kMostVectors * Vectors::kWidth;
  const int64_t end = least(exec.end * kGroupOutputs, args.outputs);
  for (int64_t row = 0; row < args.rows; row += kRows) {
    for (int64_t n = exec.begin * kGroupOutputs; n < end; n += kBlockOutputs) {
      block<Vectors, kWide>(args, row, n, least(kBlockOutputs, end - n));
    }
  }
}

template <typename Vectors, bool kWide>
void one_row(const Args& args, Exec exec) {
  const int64_t end = least(exec.end * kGroupOutputs, args.outputs);
  for (int64_t n = exec.begin * kGroupOutputs; n < end; n += kGroupOutputs) {
    // As one column of the sums of 16 rows of which the first is wanted.
    alignas(64) float sums[kGroupOutputs * kLanes] = {};
    const int64_t outputs = least(kGroupOutputs, end - n);
    for (int64_t i = 0; i < outputs; ++i) {
      sums[i * kLanes] =
          Vectors::template dot<kWide>(args, args.offsets[n + i], args.offsets[n + i + 1]);
    }
    Vectors::finish(args, {0, 1, n, outputs, sums, kLanes});
  }
}

template <typename Vectors>
void product(const Args& args, Exec exec) {
  if (args.rows < 1) return;
  const bool wide = args.weight_type == DType::kF32;
  if (args.rows == 1) {
    return wide ? one_row<Vectors, true>(args, exec) : one_row<Vectors, false>(args, exec);
  }
  return wide ? many_rows<Vectors, true>(args, exec) : many_rows<Vectors, false>(args, exec);
}

inline float widen(uint16_t bits) {
  const uint32_t wide = uint32_t(bits) << 16;
  float value;
  __builtin_memcpy(&value, &wide, sizeof(value));
  return value;
}

template <bool kWide>
inline float weight_at(const Args& args, int64_t i) {
  if constexpr (kWide) {
    return static_cast<const float*>(args.values)[i];
  } else {
    return widen(static_cast<const uint16_t*>(args.values)[i]);
  }
}

}  // namespace
}  // namespace tessera::csr_matmul
