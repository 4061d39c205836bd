#pragma once

#include <cstddef>
#include <cstdint>

namespace tessera::attention {

// Hands out pieces of a workspace, whole cache lines each.
class Carver {
 public:
  explicit Carver(void* memory) : next_(static_cast<std::byte*>(memory)) {}

  template <typename T>
  T* take(int64_t count) {
    T* piece = reinterpret_cast<T*>(next_);
    next_ += (count * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
    return piece;
  }

 private:
  std::byte* next_;
};

}  // namespace tessera::attention
