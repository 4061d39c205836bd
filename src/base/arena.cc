#include "base/arena.h"

#include <fmt/format.h>

#include <cassert>

namespace tessera {

Status Arena::reset(size_t size_bytes) {
  used_bytes_ = 0;
  if (size_bytes <= buffer_.size_bytes()) return {};
  buffer_ = {};
  buffer_ = device_->allocate(size_bytes);
  if (buffer_.empty()) {
    return out_of_memory(fmt::format("cannot get {} bytes of scratch memory", size_bytes));
  }
  return {};
}

void* Arena::take_bytes(size_t size_bytes) {
  char* piece = buffer_.as<char>() + used_bytes_;
  used_bytes_ += rounded(size_bytes);
  assert(used_bytes_ <= buffer_.size_bytes());
  return piece;
}

}  // namespace tessera
