#pragma once

#include <cstdint>
#include <vector>

#include "base/device.h"
#include "base/status.h"

namespace tessera {

// Scratch memory of one forward pass: reserve once, take pieces, reset. Pieces are aligned to 64
// bytes and live until reset; nothing is initialised.
class Arena {
 public:
  explicit Arena(Device& device = host_device()) : device_(&device) {}

  // Makes at least size_bytes available and forgets all pieces.
  Status reset(size_t size_bytes);
  // The next piece; the sum of all pieces, each rounded up to 64 bytes, must fit what was reserved.
  template <typename T>
  T* take(int64_t count) {
    return static_cast<T*>(take_bytes(static_cast<size_t>(count) * sizeof(T)));
  }
  static size_t rounded(size_t size_bytes) { return (size_bytes + 63) / 64 * 64; }

 private:
  void* take_bytes(size_t size_bytes);

  Device* device_;
  Buffer buffer_;
  size_t used_bytes_ = 0;
};

}  // namespace tessera
