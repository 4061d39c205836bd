#pragma once

#include <chrono>
#include <cstdint>
#include <set>
#include <string_view>

namespace tessera {

// The time that CPUs spent on anything, from /proc/stat's text, in its ticks; those of the set.
int64_t busy_ticks(std::string_view stat, const std::set<int>& cpus);

// Whether others than this process were on its CPUs since the watch was made. The kernel counts in
// ticks of 10 ms, so that short times say little.
class Watch {
 public:
  Watch();
  // The share of the CPUs' time; 0 where the system does not tell.
  double others() const;
  // More than kOthersAllowed, and more than the ticks' rounding.
  static constexpr double kOthersAllowed = 0.03;
  bool is_disturbed() const;

 private:
  double others_seconds() const;
  double wall_seconds() const;

  std::set<int> cpus_;
  std::chrono::steady_clock::time_point begin_;
  int64_t busy_ = 0;
  double own_seconds_ = 0;
};

}  // namespace tessera
