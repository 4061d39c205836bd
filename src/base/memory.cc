#include "base/memory.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <limits>

#include "base/control_groups.h"

namespace tessera {
namespace {

constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();

// The number after `key` in lines of keys and numbers; the fallback where it is absent.
int64_t read_key(const std::string& path, const std::string& key, int64_t fallback) {
  std::ifstream file(path);
  std::string name;
  int64_t value = 0;
  while (file >> name >> value) {
    if (name == key) return value;
    file.ignore(64, '\n');
  }
  return fallback;
}

// A file that holds one number; "max" and absent files have none.
int64_t read_number(const std::string& path) {
  int64_t value = 0;
  return std::ifstream(path) >> value ? value : kNoLimit;
}

int64_t left(int64_t limit, int64_t used, int64_t file_cache) {
  if (limit == kNoLimit || used == kNoLimit) return kNoLimit;
  return std::max<int64_t>(limit - std::max<int64_t>(used - file_cache, 0), 0);
}

}  // namespace

int64_t group_memory_bytes(const std::string& membership, const std::string& mount) {
  const ControlGroups groups = control_groups(membership, mount, "memory");
  int64_t least = kNoLimit;
  for (const std::string& group : groups.v2) {
    least = std::min(
        least, left(read_number(group + "/memory.max"), read_number(group + "/memory.current"),
                    read_key(group + "/memory.stat", "inactive_file", 0)));
  }
  for (const std::string& group : groups.v1) {
    least = std::min(least, left(read_number(group + "/memory.limit_in_bytes"),
                                 read_number(group + "/memory.usage_in_bytes"),
                                 read_key(group + "/memory.stat", "total_inactive_file", 0)));
  }
  return least;
}

int64_t available_memory_bytes() {
  const int64_t physical = int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
  const int64_t kilobytes = read_key("/proc/meminfo", "MemAvailable:", physical / 1024);
  return std::min(kilobytes * 1024, group_memory_bytes("/proc/self/cgroup", "/sys/fs/cgroup"));
}

}  // namespace tessera
