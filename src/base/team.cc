#include "base/team.h"

#include <omp.h>
#include <sched.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <string>

namespace tessera {
namespace {

// How often a waiting member looks before it sleeps: about 20 us, several times what a barrier of a busy team
// takes and a small part of what a sleep and a wake-up cost.
constexpr int kSpins = 1000;

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

void wait_while_equal(const std::atomic<uint32_t>& value, uint32_t old) {
  for (int i = 0; i < kSpins; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    relax();
  }
  value.wait(old, std::memory_order_acquire);
}

// CPUs that the cgroup's quota pays for; a large number where there is no quota.
int quota_cpus() {
  constexpr int kNoLimit = 1 << 20;
  std::ifstream v2("/sys/fs/cgroup/cpu.max");
  std::string quota;
  double period = 0;
  if (v2 >> quota >> period && quota != "max" && period > 0) {
    return std::max(1, static_cast<int>(std::stod(quota) / period + 0.999));
  }
  std::ifstream v1_quota("/sys/fs/cgroup/cpu/cpu.cfs_quota_us");
  std::ifstream v1_period("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
  double quota_us = 0;
  if (v1_quota >> quota_us && v1_period >> period && quota_us > 0 && period > 0) {
    return std::max(1, static_cast<int>(quota_us / period + 0.999));
  }
  return kNoLimit;
}

}  // namespace

Range slice(int64_t total, int64_t grain, int rank, int parts) {
  const int64_t grains = (total + grain - 1) / grain;
  const int64_t begin = grains * rank / parts * grain;
  const int64_t end = grains * (rank + 1) / parts * grain;
  return {std::min(begin, total), std::min(end, total)};
}

int usable_cpus() {
  cpu_set_t set;
  int cpus = static_cast<int>(std::thread::hardware_concurrency());
  if (sched_getaffinity(0, sizeof(set), &set) == 0) cpus = CPU_COUNT(&set);
  return std::max(1, std::min(cpus, quota_cpus()));
}

Team::Team(int threads) : size_(threads < 1 ? usable_cpus() : threads) {
  for (int rank = 1; rank < size_; ++rank) threads_.emplace_back(&Team::worker, this, rank);
}

Team::~Team() {
  stopping_.store(true, std::memory_order_relaxed);
  job_.fetch_add(1, std::memory_order_release);
  job_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void Team::run(const std::function<void(Member&)>& work) {
  work_ = &work;
  job_.fetch_add(1, std::memory_order_release);
  if (size_ > 1) job_.notify_all();
  // oneDNN is called inside the team, on a slice, and must not start threads of its own.
  const int callers_threads = omp_get_max_threads();
  omp_set_num_threads(1);
  Member self(this, 0);
  work(self);
  barrier();
  omp_set_num_threads(callers_threads);
}

void Team::parallel_for(int64_t total, int64_t grain, const std::function<void(Range)>& work) {
  run([&](Member& member) {
    const Range part = member.slice(total, grain);
    if (part.size() > 0) work(part);
  });
}

void Team::barrier() {
  if (size_ == 1) return;
  const uint32_t phase = phase_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == static_cast<uint32_t>(size_)) {
    arrived_.store(0, std::memory_order_relaxed);
    phase_.store(phase + 1, std::memory_order_release);
    phase_.notify_all();
    return;
  }
  wait_while_equal(phase_, phase);
}

void Team::worker(int rank) {
  omp_set_num_threads(1);
  uint32_t seen = 0;
  Member self(this, rank);
  while (true) {
    wait_while_equal(job_, seen);
    seen = job_.load(std::memory_order_acquire);
    if (stopping_.load(std::memory_order_relaxed)) return;
    (*work_)(self);
    barrier();
  }
}

}  // namespace tessera
