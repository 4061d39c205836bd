#include "base/cpus.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <thread>
#include <vector>

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

// A container may see the host's path, which its mount lacks, but always the root of its mount.
template <typename Read>
int least_upwards(const std::string& root, std::string group, Read read) {
  int least = read(root);
  while (!group.empty()) {
    least = std::min(least, read(root + group));
    group.resize(group.rfind('/') == std::string::npos ? 0 : group.rfind('/'));
  }
  return least;
}

}  // namespace

int quota_cpus(const std::string& membership, const std::string& mount) {
  int least = std::min(read_v2(mount), read_v1(mount + "/cpu"));
  std::ifstream lines(membership);
  for (std::string line; std::getline(lines, line);) {  // "<number>:<controllers>:<path>"
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    std::string controllers = ",";
    controllers.append(line, first + 1, second - first - 1).append(",");
    const std::string group = line.substr(second + 1);
    if (controllers == ",,") least = std::min(least, least_upwards(mount, group, read_v2));
    if (controllers.find(",cpu,") != std::string::npos) {
      least = std::min(least, least_upwards(mount + "/cpu", group, read_v1));
    }
  }
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
