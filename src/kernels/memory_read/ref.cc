#include "kernels/memory_read/memory_read.h"

namespace tessera::memory_read {

void ref(const Args& args, Exec exec) noexcept {
  const auto* words = static_cast<const uint64_t*>(args.data);
  uint64_t sum = 0;
  for (int64_t i = exec.begin * 8; i < exec.end * 8; ++i) sum += words[i];
  *args.sum = sum;
}

}  // namespace tessera::memory_read
