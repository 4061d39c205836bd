#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <utility>

#include "tessera/pruning.h"

namespace tessera {

// Whom a model tells what its layers kept. Sequences get their numbers from any thread; records are
// given by one at a time, under ModelState::in_use.
class PruningObserver {
 public:
  using Take = std::function<void(const PruningRecord&)>;
  explicit PruningObserver(Take take) : take_(std::move(take)) {}

  // The first of so many numbers in a row.
  int64_t number(int64_t sequences) { return next_.fetch_add(sequences); }
  // Must not throw.
  void take(const PruningRecord& record) const { take_(record); }

 private:
  Take take_;
  std::atomic<int64_t> next_ = 0;
};

}  // namespace tessera
