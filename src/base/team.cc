#include "base/team.h"

#include <omp.h>

#include <algorithm>
#include <exception>

namespace tessera {
namespace {

// How often a waiting member looks before it sleeps: about 20 us, several times what a barrier of a
// busy team takes and a small part of what a sleep and a wake-up cost.
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

}  // namespace

Range slice(int64_t total, int64_t grain, int rank, int parts) {
  const int64_t grains = (total + grain - 1) / grain;
  const int64_t begin = grains * rank / parts * grain;
  const int64_t end = grains * (rank + 1) / parts * grain;
  return {std::min(begin, total), std::min(end, total)};
}

Team::Team(int threads) : size_(threads < 1 ? usable_cpus() : threads) {
  // Members look at size_ only after the first run has begun, so a team that cannot be whole can
  // still be smaller.
  try {
    threads_.reserve(static_cast<size_t>(size_) - 1);
    for (int rank = 1; rank < size_; ++rank) threads_.emplace_back(&Team::worker, this, rank);
  } catch (const std::exception&) {
    size_ = 1 + static_cast<int>(threads_.size());
  }
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
