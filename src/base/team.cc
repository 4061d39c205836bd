#include "base/team.h"

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <exception>

namespace tessera {
namespace {

// How often a waiting member looks before it sleeps. At a barrier: about 40 us, several times what
// it takes in a busy team and a small part of what a sleep and a wake-up cost; more would be taken
// from the member that is waited for where others use the CPUs too. Between two runs: as long as it
// takes to choose the next token of a text (4% of a pass that reads 600 MB).
constexpr int kSpins = 1000;
constexpr int kIdleSpins = 4000;
// A sleeper looks now and then on its own. std::atomic's wait, which cannot, was seen to sleep on
// after its value had changed (libstdc++ 12, Linux 6.18).
constexpr std::chrono::milliseconds kLongestSleep{250};

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// A range and the number of its deal in one word, so that both change at once.
constexpr int kIndexBits = 24;
constexpr uint64_t kIndexMask = (uint64_t{1} << kIndexBits) - 1;
// Parts that get smaller: this share of what is left, at least one.
constexpr uint64_t kPartOfLeft = 4;

uint64_t packed(uint64_t deal, uint64_t begin, uint64_t end) {
  return deal << 2 * kIndexBits | begin << kIndexBits | end;
}

enum class End { kFront, kBack };

// Takes a part from an end, none if the range is of another deal or empty.
Range take(std::atomic<uint64_t>& left, uint64_t deal, End from) {
  uint64_t seen = left.load(std::memory_order_relaxed);
  while (true) {
    const uint64_t begin = seen >> kIndexBits & kIndexMask, end = seen & kIndexMask;
    if (begin == end || seen != packed(deal, begin, end)) return {};
    const uint64_t count = std::max<uint64_t>(1, (end - begin) / kPartOfLeft);
    const uint64_t first = from == End::kFront ? begin : end - count;
    const uint64_t after =
        from == End::kFront ? packed(deal, begin + count, end) : packed(deal, begin, end - count);
    if (left.compare_exchange_weak(seen, after, std::memory_order_relaxed))
      return {static_cast<int64_t>(first), static_cast<int64_t>(first + count)};
  }
}

}  // namespace

Range slice(int64_t total, int64_t grain, int rank, int parts) {
  const int64_t grains = (total + grain - 1) / grain;
  const int64_t begin = grains * rank / parts * grain;
  const int64_t end = grains * (rank + 1) / parts * grain;
  return {std::min(begin, total), std::min(end, total)};
}

Team::Team(int threads)
    : size_(threads < 1 ? usable_cpus() : threads), shares_(static_cast<size_t>(size_)) {
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
  wake();
  for (std::thread& thread : threads_) thread.join();
}

void Team::run(const std::function<void(Member&)>& work) {
  work_ = &work;
  job_.fetch_add(1, std::memory_order_release);
  if (size_ > 1) wake();
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
    wake();
    return;
  }
  wait_while_equal(phase_, phase, kSpins);
}

void Team::wait_while_equal(const std::atomic<uint32_t>& value, uint32_t old, int spins) {
  for (int i = 0; i < spins; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    relax();
  }
  std::unique_lock lock(sleep_);
  while (value.load(std::memory_order_acquire) == old) changed_.wait_for(lock, kLongestSleep);
}

// Who looked at the value before it changed holds the lock until it sleeps.
void Team::wake() {
  { const std::lock_guard lock(sleep_); }
  changed_.notify_all();
}

void Team::deal(int rank, Range own, const std::function<void(Range)>& work) {
  Share& share = shares_[static_cast<size_t>(rank)];
  const uint64_t deal = ++share.deals;
  if (size_ == 1 || own.end > static_cast<int64_t>(kIndexMask)) {
    if (own.size() > 0) work(own);
    return;
  }
  share.left.store(packed(deal, static_cast<uint64_t>(own.begin), static_cast<uint64_t>(own.end)),
                   std::memory_order_relaxed);
  for (int i = 0; i < size_; ++i) {
    std::atomic<uint64_t>& left = shares_[static_cast<size_t>((rank + i) % size_)].left;
    const End end = i == 0 ? End::kFront : End::kBack;
    for (Range part; (part = take(left, deal, end)).size() > 0;) work(part);
  }
}

void Team::worker(int rank) {
  omp_set_num_threads(1);
  uint32_t seen = 0;
  Member self(this, rank);
  while (true) {
    wait_while_equal(job_, seen, kIdleSpins);
    seen = job_.load(std::memory_order_acquire);
    if (stopping_.load(std::memory_order_relaxed)) return;
    (*work_)(self);
    barrier();
  }
}

}  // namespace tessera
