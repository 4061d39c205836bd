#include "base/device.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <vector>

namespace tessera {
namespace {

constexpr size_t kAlignment = 64;

constexpr size_t round_up(size_t size, size_t multiple) {
  return (size + multiple - 1) / multiple * multiple;
}

// Null when there is not enough.
void* map_memory(size_t size_bytes) {
  void* data =
      mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) return nullptr;
  madvise(data, size_bytes, MADV_HUGEPAGE);
  return data;
}

// Large blocks come straight from the kernel in whole pages: they go back to it when released, and
// huge pages spare the TLB, which a product that streams a gigabyte of weights otherwise misses on.
constexpr size_t kLargeBytes = size_t{4} << 20;

class HostDevice : public Device {
 public:
  Buffer allocate(size_t size_bytes) override {
    if (size_bytes == 0) size_bytes = kAlignment;
    // Rounded before the choice: release, which sees the rounded size, must choose alike.
    if (size_bytes < kLargeBytes) size_bytes = round_up(size_bytes, kAlignment);
    void* data = size_bytes >= kLargeBytes ? map_memory(size_bytes)
                                           : std::aligned_alloc(kAlignment, size_bytes);
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

class WeightsDevice final : public HostDevice {
 public:
  Buffer allocate(size_t size_bytes) override {
    if (size_bytes > kMostBytes) return {};
    size_bytes = round_up(std::max(size_bytes, kAlignment), kAlignment);
    const std::lock_guard lock(mutex_);
    if (mappings_.empty() || size_bytes > mappings_.back().free()) {
      if (!map(size_bytes)) return {};
    }
    Mapping& last = mappings_.back();
    void* data = last.data + last.used;
    last.used += size_bytes;
    ++last.blocks;
    return {this, data, size_bytes};
  }

 private:
  // Pages that no one has written to take no memory.
  static constexpr size_t kMappingBytes = size_t{256} << 20;
  static constexpr size_t kHugeBytes = size_t{2} << 20;
  static constexpr size_t kMostBytes = size_t{1} << 62;  // so that sums do not overflow

  struct Mapping {
    void* begin = nullptr;
    size_t mapped = 0;
    char* data = nullptr;  // whole huge pages of it
    size_t size = 0;
    size_t used = 0;
    int64_t blocks = 0;  // that have not been released

    size_t free() const { return size - used; }
    bool holds(const void* block) const { return block >= data && block < data + size; }
  };

  bool map(size_t size_bytes) {
    Mapping mapping;
    mapping.size = round_up(std::max(size_bytes, kMappingBytes), kHugeBytes);
    mapping.mapped = mapping.size + kHugeBytes;
    mapping.begin = map_memory(mapping.mapped);
    if (mapping.begin == nullptr) return false;
    mapping.data =
        reinterpret_cast<char*>(round_up(reinterpret_cast<size_t>(mapping.begin), kHugeBytes));
    mappings_.push_back(mapping);
    return true;
  }
  void release(void* data, size_t /*size_bytes*/) override {
    const std::lock_guard lock(mutex_);
    const auto found = std::find_if(mappings_.begin(), mappings_.end(),
                                    [&](const Mapping& one) { return one.holds(data); });
    if (--found->blocks > 0) return;
    munmap(found->begin, found->mapped);
    mappings_.erase(found);
  }

  std::mutex mutex_;
  std::vector<Mapping> mappings_;
};

}  // namespace

Device& host_device() {
  static HostDevice device;
  return device;
}

Device& weights_device() {
  static WeightsDevice device;
  return device;
}

}  // namespace tessera
