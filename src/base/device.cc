#include "base/device.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>

namespace tessera {
namespace {

// Large blocks come straight from the kernel in whole pages: they go back to it when released, and
// huge pages spare the TLB, which a product that streams a gigabyte of weights otherwise misses on.
constexpr size_t kLargeBytes = size_t{4} << 20;
constexpr size_t kAlignment = 64;

class HostDevice final : public Device {
 public:
  Buffer allocate(size_t size_bytes) override {
    if (size_bytes == 0) size_bytes = kAlignment;
    // Rounded before the choice: release, which sees the rounded size, must choose alike.
    if (size_bytes < kLargeBytes)
      size_bytes = (size_bytes + kAlignment - 1) / kAlignment * kAlignment;
    if (size_bytes >= kLargeBytes) {
      void* data =
          mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (data == MAP_FAILED) return {};
      madvise(data, size_bytes, MADV_HUGEPAGE);
      return {this, data, size_bytes};
    }
    void* data = std::aligned_alloc(kAlignment, size_bytes);
    if (data == nullptr) return {};
    return {this, data, size_bytes};
  }
  void copy_to_host(void* target, const void* source, size_t size_bytes) override {
    std::memcpy(target, source, size_bytes);
  }
  void copy_from_host(void* target, const void* source, size_t size_bytes) override {
    std::memcpy(target, source, size_bytes);
  }
  void synchronize() override {}

 private:
  void release(void* data, size_t size_bytes) override {
    if (size_bytes >= kLargeBytes) {
      munmap(data, size_bytes);
    } else {
      std::free(data);
    }
  }
};

}  // namespace

Device& host_device() {
  static HostDevice device;
  return device;
}

}  // namespace tessera
