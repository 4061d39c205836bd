#pragma once

#include <cstdint>

#include "kernels/family.h"

// Memory read as fast as a core can: what decoding, which meets every weight once a token, is held
// against.
namespace tessera::memory_read {

inline constexpr int64_t kLineBytes = 64;
inline constexpr int kMostStreams = 16;

// The sum of the 64-bit words, modulo 2^64, of the lines that Exec names (a unit is a line of 64
// bytes), read as `streams` runs side by side; lines that do not divide evenly are read last.
struct Args {
  const void* data = nullptr;  // aligned to a line, caller-owned
  int streams = 1;             // 1 to kMostStreams
  uint64_t* sum = nullptr;
};

#define TESSERA_KERNEL(row, isa) void row(const Args& args, Exec exec) noexcept;
#include "kernels/memory_read/table.inc"
#undef TESSERA_KERNEL

extern const KernelFamily<Args> kernels;

}  // namespace tessera::memory_read
