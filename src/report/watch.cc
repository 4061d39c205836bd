#include "report/watch.h"

#include <sched.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <iterator>
#include <string>

namespace tessera {
namespace {

// Not read_text_file: files of /proc have no size.
std::string stat_text() {
  std::ifstream file("/proc/stat");
  return {std::istreambuf_iterator<char>(file), {}};
}

std::set<int> allowed_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::set<int> cpus;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) cpus.insert(cpu);
  }
  return cpus;
}

// CPU time of all threads of this process.
double own_seconds() {
  timespec time{};
  if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time) != 0) return 0;
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// The next run of digits behind at; -1 at the end of the line.
int64_t next_number(std::string_view line, size_t& at) {
  while (at < line.size() && line[at] == ' ') ++at;
  int64_t value = -1;
  const auto [end, error] = std::from_chars(line.data() + at, line.data() + line.size(), value);
  if (error != std::errc()) return -1;
  at = static_cast<size_t>(end - line.data());
  return value;
}

// user nice system idle iowait irq softirq steal; guests are counted as user.
int64_t busy_of_line(std::string_view line, size_t at) {
  constexpr int kFields = 8, kIdle = 3, kWaiting = 4;
  int64_t sum = 0;
  for (int field = 0; field < kFields; ++field) {
    const int64_t ticks = next_number(line, at);
    if (ticks < 0) break;
    if (field != kIdle && field != kWaiting) sum += ticks;
  }
  return sum;
}

}  // namespace

int64_t busy_ticks(std::string_view stat, const std::set<int>& cpus) {
  int64_t sum = 0;
  while (!stat.empty()) {
    const std::string_view line = stat.substr(0, stat.find('\n'));
    stat.remove_prefix(std::min(stat.size(), line.size() + 1));
    if (!line.starts_with("cpu") || line.starts_with("cpu ")) continue;
    size_t at = 3;
    const int64_t cpu = next_number(line, at);
    if (cpu >= 0 && cpu < CPU_SETSIZE && cpus.contains(static_cast<int>(cpu)))
      sum += busy_of_line(line, at);
  }
  return sum;
}

Watch::Watch()
    : cpus_(allowed_cpus()),
      begin_(std::chrono::steady_clock::now()),
      busy_(busy_ticks(stat_text(), cpus_)),
      own_seconds_(own_seconds()) {}

double Watch::wall_seconds() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
}

double Watch::others_seconds() const {
  const double per_second = static_cast<double>(sysconf(_SC_CLK_TCK));
  const double own = own_seconds() - own_seconds_;
  const auto busy = static_cast<double>(busy_ticks(stat_text(), cpus_) - busy_);
  return std::max(0.0, busy / per_second - own);
}

double Watch::others() const {
  const double all = wall_seconds() * static_cast<double>(cpus_.size());
  return all > 0 ? others_seconds() / all : 0;
}

bool Watch::is_disturbed() const {
  // Each CPU's count may be wrong by a tick at either end.
  const double rounding =
      static_cast<double>(cpus_.size()) / static_cast<double>(sysconf(_SC_CLK_TCK));
  const double all = wall_seconds() * static_cast<double>(cpus_.size());
  return others_seconds() > kOthersAllowed * all + rounding;
}

}  // namespace tessera
