#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

namespace tessera {

struct Range {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
};

// Part `rank` of [0, total) dealt to `parts` in runs that are multiples of `grain` (but the last)
// and differ by at most one grain.
Range slice(int64_t total, int64_t grain, int rank, int parts);

// The CPUs this process may use: the affinity mask, clamped by the cgroup's quota (rounded up), at
// least 1.
int usable_cpus();

// A team of threads that runs one function together, the caller as member 0. Waiting members spin
// briefly and then sleep, so that a pass with many short steps keeps its pace and an idle team
// costs nothing.
class Team {
 public:
  class Member {
   public:
    int rank() const { return rank_; }
    int size() const { return team_->size(); }
    // Returns when every member has come here.
    void barrier() { team_->barrier(); }
    Range slice(int64_t total, int64_t grain = 1) const {
      return tessera::slice(total, grain, rank_, size());
    }

   private:
    friend class Team;
    Member(Team* team, int rank) : team_(team), rank_(rank) {}
    Team* team_;
    int rank_;
  };

  // threads < 1 means usable_cpus(). Fewer where the system refuses more threads; size() tells.
  explicit Team(int threads = 0);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int size() const { return size_; }
  // Runs work on every member and returns when all are done. One caller at a time; not reentrant;
  // work must not throw.
  void run(const std::function<void(Member&)>& work);
  // Deals [0, total) over the members.
  void parallel_for(int64_t total, int64_t grain, const std::function<void(Range)>& work);

 private:
  void barrier();
  void worker(int rank);

  int size_;
  std::vector<std::thread> threads_;
  const std::function<void(Member&)>* work_ = nullptr;
  alignas(64) std::atomic<uint32_t> job_{0};
  alignas(64) std::atomic<uint32_t> arrived_{0};
  alignas(64) std::atomic<uint32_t> phase_{0};
  std::atomic<bool> stopping_{false};
};

}  // namespace tessera
