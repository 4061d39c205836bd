#include "model/finite.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>

namespace tessera {
namespace {

constexpr int64_t kNone = std::numeric_limits<int64_t>::max();
constexpr int64_t kBlock = 4096;  // values between two looks at the outcome

// A value is not finite where all bits of its exponent are set.
template <typename Bits>
int64_t first_not_finite(const char* data, int64_t count, Bits exponent) {
  const auto bits_of = [&](int64_t i) {
    Bits bits;  // data may be unaligned
    std::memcpy(&bits, data + i * static_cast<int64_t>(sizeof(Bits)), sizeof(Bits));
    return bits;
  };
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t end = std::min(count, begin + kBlock);
    Bits found = 0;
    for (int64_t i = begin; i < end; ++i) {
      found |= static_cast<Bits>((bits_of(i) & exponent) == exponent);
    }
    if (found == 0) continue;
    for (int64_t i = begin; i < end; ++i) {
      if ((bits_of(i) & exponent) == exponent) return i;
    }
  }
  return kNone;
}

int64_t first_not_finite(const char* data, DType dtype, int64_t count) {
  switch (dtype) {
    case DType::kF32:
      return first_not_finite<uint32_t>(data, count, 0x7f800000);
    case DType::kF16:
      return first_not_finite<uint16_t>(data, count, 0x7c00);
    case DType::kBF16:
      return first_not_finite<uint16_t>(data, count, 0x7f80);
    default:
      return kNone;
  }
}

}  // namespace

int64_t find_not_finite(const TensorView& tensor, Team& team) {
  const auto bytes = static_cast<int64_t>(size_bytes(tensor.dtype));
  std::atomic<int64_t> first = kNone;
  const int64_t count = static_cast<int64_t>(tensor.size_bytes) / bytes;
  team.parallel_for(count, kBlock, [&](Range part) {
    const char* data = static_cast<const char*>(tensor.data) + part.begin * bytes;
    const int64_t found = first_not_finite(data, tensor.dtype, part.size());
    if (found == kNone) return;
    int64_t before = first.load();
    while (part.begin + found < before &&
           !first.compare_exchange_weak(before, part.begin + found)) {
    }
  });
  return first == kNone ? -1 : first.load();
}

}  // namespace tessera
