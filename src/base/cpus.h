#pragma once

#include <string>

namespace tessera {

inline constexpr int kNoQuota = 1 << 20;

// The CPUs that the cgroup's quota pays for, rounded up: the least of the process's group and all
// above it, in either version of cgroups; kNoQuota where none is set. membership is
// /proc/self/cgroup, mount is /sys/fs/cgroup.
int quota_cpus(const std::string& membership, const std::string& mount);

}  // namespace tessera
