#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "tokenizer/components.h"

namespace tessera::tokenizer {

// Scratch memory for as many calls as run at the same time. Must outlive what it lends.
class ScratchPool {
 public:
  struct GiveBack {
    ScratchPool* pool;
    void operator()(Scratch* scratch) const { pool->give_back(std::unique_ptr<Scratch>(scratch)); }
  };
  using Lease = std::unique_ptr<Scratch, GiveBack>;

  Lease take() {
    {
      const std::lock_guard lock(mutex_);
      if (!free_.empty()) {
        std::unique_ptr<Scratch> scratch = std::move(free_.back());
        free_.pop_back();
        return Lease(scratch.release(), GiveBack{this});
      }
    }
    return Lease(new Scratch, GiveBack{this});
  }

 private:
  static constexpr size_t kKept = 64;
  static constexpr size_t kKeptTextBytes = 1 << 22;

  void give_back(std::unique_ptr<Scratch> scratch) {
    // What one huge text needed is not kept for ever.
    if (scratch->segment.text.capacity() > kKeptTextBytes) return;
    const std::lock_guard lock(mutex_);
    if (free_.size() < kKept && free_.capacity() >= kKept) free_.push_back(std::move(scratch));
  }

  std::mutex mutex_;
  std::vector<std::unique_ptr<Scratch>> free_ = [] {
    std::vector<std::unique_ptr<Scratch>> empty;
    empty.reserve(kKept);  // so that give_back, which runs in a destructor, cannot throw
    return empty;
  }();
};

}  // namespace tessera::tokenizer
