#pragma once

#include <chrono>

#include "tessera/compress.h"

namespace tessera {

// Adds the time that it lives to what a pass took.
class Stopwatch {
 public:
  explicit Stopwatch(PassReport& report) : report_(report) {}
  ~Stopwatch() { report_.seconds += std::chrono::duration<double>(Clock::now() - begin_).count(); }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

 private:
  using Clock = std::chrono::steady_clock;
  PassReport& report_;
  Clock::time_point begin_ = Clock::now();
};

}  // namespace tessera
