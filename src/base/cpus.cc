#include "base/cpus.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <thread>
#include <vector>

#include "base/control_groups.h"
#include "base/team.h"

namespace tessera {
namespace {

int rounded_up(double quota, double period) {
  if (!(quota > 0) || !(period > 0)) return kNoQuota;
  return static_cast<int>(std::clamp(std::ceil(quota / period), 1.0, double{kNoQuota}));
}

// "200000 100000", or "max 100000" where there is no quota.
int read_v2(const std::string& group) {
  std::ifstream file(group + "/cpu.max");
  std::string quota, period;
  if (!(file >> quota >> period) || quota == "max") return kNoQuota;
  return rounded_up(std::strtod(quota.c_str(), nullptr), std::strtod(period.c_str(), nullptr));
}

int read_v1(const std::string& group) {
  double quota_us = 0, period_us = 0;
  std::ifstream(group + "/cpu.cfs_quota_us") >> quota_us;
  std::ifstream(group + "/cpu.cfs_period_us") >> period_us;
  return rounded_up(quota_us, period_us);
}

}  // namespace

int quota_cpus(const std::string& membership, const std::string& mount) {
  const ControlGroups groups = control_groups(membership, mount, "cpu");
  int least = kNoQuota;
  for (const std::string& group : groups.v2) least = std::min(least, read_v2(group));
  for (const std::string& group : groups.v1) least = std::min(least, read_v1(group));
  return least;
}

int usable_cpus() {
  int cpus = static_cast<int>(std::thread::hardware_concurrency());
  // The kernel refuses a mask smaller than its own; cpu_set_t holds 1024 CPUs.
  for (size_t sets = 1; sets <= 64; sets *= 4) {
    std::vector<cpu_set_t> mask(sets);
    if (sched_getaffinity(0, sets * sizeof(cpu_set_t), mask.data()) != 0) continue;
    cpus = CPU_COUNT_S(sets * sizeof(cpu_set_t), mask.data());
    break;
  }
  static const int quota = quota_cpus("/proc/self/cgroup", "/sys/fs/cgroup");
  return std::max(1, std::min(cpus, quota));
}

}  // namespace tessera
