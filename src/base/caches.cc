#include "base/caches.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>

namespace tessera {
namespace {

std::string word_of(const std::string& path) {
  std::string word;
  std::ifstream(path) >> word;
  return word;
}

// "2048K" or "1M"; 0 of anything else.
int64_t size_of(const std::string& text) {
  char* unit = nullptr;
  const int64_t number = std::strtoll(text.c_str(), &unit, 10);
  if (unit == text.c_str() || number < 0 || number > int64_t{1} << 30) return 0;
  return number << (*unit == 'K' ? 10 : *unit == 'M' ? 20 : 0);
}

// How many CPUs a list such as "0-3,8" names; at least 1.
int64_t count_of(const std::string& list) {
  int64_t count = 0;
  std::stringstream parts(list);
  for (std::string part; std::getline(parts, part, ',');) {
    int64_t first = 0, last = 0;
    const int found = std::sscanf(part.c_str(), "%ld-%ld", &first, &last);
    if (found > 0) count += found == 2 ? std::max<int64_t>(last - first, 0) + 1 : 1;
  }
  return std::max<int64_t>(count, 1);
}

}  // namespace

int64_t core_l2_bytes(const char* cpu_folder) {
  constexpr int kMostCaches = 16;
  for (int i = 0; i < kMostCaches; ++i) {
    const std::string folder = cpu_folder, cache = folder + "/cache/index" + std::to_string(i);
    if (word_of(cache + "/level") != "2" || word_of(cache + "/type") == "Instruction") continue;
    const int64_t sharing = count_of(word_of(cache + "/shared_cpu_list"));
    const int64_t of_core = count_of(word_of(folder + "/topology/thread_siblings_list"));
    return size_of(word_of(cache + "/size")) * std::min(of_core, sharing) / sharing;
  }
  return 0;
}

int64_t l2_bytes() {
  static const int64_t bytes = [] {
    int64_t found = core_l2_bytes("/sys/devices/system/cpu/cpu0");
    if (found == 0) found = sysconf(_SC_LEVEL2_CACHE_SIZE);
    if (found <= 0) found = kUsualL2Bytes;
    return std::clamp(found, int64_t{256} << 10, int64_t{4} << 20);
  }();
  return bytes;
}

}  // namespace tessera
