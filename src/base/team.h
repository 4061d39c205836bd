#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
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
    // Calls work for all of `own` in parts, from its front, and then for parts that other members
    // have not come to, from their back. So nobody waits long for a member that memory or another
    // process keeps, and who is kept by nothing works on what it always does. Every member must
    // call this as often as the others between two barriers, with ranges that share nothing.
    void deal(Range own, const std::function<void(Range)>& work) const {
      team_->deal(rank_, own, work);
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
  // What a member has left of a range that is being dealt.
  struct alignas(64) Share {
    std::atomic<uint64_t> left{0};
    uint64_t deals = 0;  // so far, counted by the member itself
  };

  void barrier();
  void deal(int rank, Range own, const std::function<void(Range)>& work);
  void worker(int rank);
  void wait_while_equal(const std::atomic<uint32_t>& value, uint32_t old, int spins);
  void wake();

  int size_;
  std::vector<Share> shares_;
  std::vector<std::thread> threads_;
  const std::function<void(Member&)>* work_ = nullptr;
  alignas(64) std::atomic<uint32_t> job_{0};
  alignas(64) std::atomic<uint32_t> arrived_{0};
  alignas(64) std::atomic<uint32_t> phase_{0};
  std::atomic<bool> stopping_{false};
  std::mutex sleep_;
  std::condition_variable changed_;
};

}  // namespace tessera
