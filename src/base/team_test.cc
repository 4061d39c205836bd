#include "base/team.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <chrono>
#include <numeric>
#include <random>

namespace tessera {
namespace {

constexpr int kMostThreads = 8;

TEST(Slice, CoversOnceInGrainsAndEvenly) {
  for (int64_t total : {0, 1, 5, 16, 17, 64, 100, 1001}) {
    for (int64_t grain : {1, 2, 7, 16, 64, 2000}) {
      for (int parts = 1; parts <= kMostThreads; ++parts) {
        int64_t next = 0, least = total, most = 0;
        for (int rank = 0; rank < parts; ++rank) {
          const Range part = slice(total, grain, rank, parts);
          ASSERT_EQ(part.begin, next);
          ASSERT_GE(part.end, part.begin);
          ASSERT_TRUE(part.end == total || part.end % grain == 0);
          const int64_t grains = (part.size() + grain - 1) / grain;
          least = std::min(least, grains);
          most = std::max(most, grains);
          next = part.end;
        }
        ASSERT_EQ(next, total) << "grain " << grain << ", parts " << parts;
        ASSERT_LE(most - least, 1)
            << "total " << total << ", grain " << grain << ", parts " << parts;
      }
    }
  }
}

TEST(Slice, LargeTotalsDoNotOverflow) {
  const int64_t total = int64_t{1} << 40;
  EXPECT_EQ(slice(total, 64, 255, 256).end, total);
  EXPECT_EQ(slice(total, 64, 255, 256).begin, total / 256 * 255);
}

TEST(Team, EveryMemberRunsOnceWithItsRank) {
  for (int threads = 1; threads <= kMostThreads; ++threads) {
    Team team(threads);
    ASSERT_EQ(team.size(), threads);
    std::vector<int> runs(static_cast<size_t>(threads), 0);
    for (int i = 1; i <= 1000; ++i) {
      team.run([&](Team::Member& member) {
        EXPECT_EQ(member.size(), threads);
        ++runs[static_cast<size_t>(member.rank())];
      });
      for (const int count : runs) ASSERT_EQ(count, i);
    }
  }
}

// Each step writes what the others read in the next one, in memory that nothing but the barrier
// guards.
TEST(Team, BarrierOrdersWhatMembersWriteAndRead) {
  constexpr int kSteps = 50;
  for (int threads = 1; threads <= kMostThreads; ++threads) {
    Team team(threads);
    const auto size = static_cast<size_t>(threads);
    std::vector<int> step(size, 0), wrong(size, 0);
    for (int run = 0; run < 40; ++run) {
      team.run([&](Team::Member& member) {
        const auto rank = static_cast<size_t>(member.rank());
        for (int i = 0; i < kSteps; ++i) {
          ++step[rank];
          member.barrier();
          for (size_t other = 0; other < size; ++other) wrong[rank] += step[other] != step[rank];
          member.barrier();
        }
      });
    }
    EXPECT_EQ(step, std::vector<int>(size, 40 * kSteps));
    EXPECT_EQ(wrong, std::vector<int>(size, 0));
  }
}

TEST(Team, ParallelForTouchesEachIndexOnce) {
  for (int threads = 1; threads <= kMostThreads; ++threads) {
    Team team(threads);
    for (const int64_t total : {0, 1, 3, 64, 1000}) {
      for (const int64_t grain : {1, 16}) {
        std::vector<int> touched(static_cast<size_t>(total), 0);
        for (int run = 1; run <= 20; ++run) {
          team.parallel_for(total, grain, [&](Range range) {
            for (int64_t i = range.begin; i < range.end; ++i) ++touched[static_cast<size_t>(i)];
          });
          ASSERT_EQ(touched, std::vector<int>(static_cast<size_t>(total), run));
        }
      }
    }
  }
}

// Members come late on purpose, so that the others spin, sleep, and are woken.
TEST(Team, LateMembersAreWaitedFor) {
  Team team(4);
  std::mt19937 generator(7);
  for (int run = 0; run < 30; ++run) {
    const int late = static_cast<int>(generator() % 4);
    int before = 0;
    std::vector<int> after(4, 0);
    team.run([&](Team::Member& member) {
      if (member.rank() == late) {
        std::this_thread::sleep_for(std::chrono::microseconds(500));
        before = run + 1;
      }
      member.barrier();
      after[static_cast<size_t>(member.rank())] = before;
    });
    ASSERT_EQ(after, std::vector<int>(4, run + 1)) << "seed 7, late " << late;
  }
}

// One range each, of different lengths, some empty; some members come late, so that others take
// from them, or find nothing that is theirs to take.
TEST(Team, DealsEveryUnitOnceHoweverFastTheMembersAre) {
  std::mt19937 generator(11);
  for (int threads = 1; threads <= kMostThreads; ++threads) {
    Team team(threads);
    for (int run = 0; run < 30; ++run) {
      constexpr int kDeals = 3;
      std::vector<int64_t> ends{0};
      for (int i = 0; i < threads; ++i)
        ends.push_back(ends.back() + static_cast<int64_t>(generator() % 3 * (generator() % 40)));
      const auto total = static_cast<size_t>(ends.back());
      const int late = static_cast<int>(generator() % 8);
      std::vector<std::atomic<int>> touched(kDeals * total);
      team.run([&](Team::Member& member) {
        const auto rank = static_cast<size_t>(member.rank());
        // Without a barrier between them, so that members are in different deals at a time.
        for (size_t d = 0; d < kDeals; ++d) {
          member.deal({ends[rank], ends[rank + 1]}, [&](Range part) {
            if (member.rank() == late) std::this_thread::sleep_for(std::chrono::microseconds(20));
            for (int64_t i = part.begin; i < part.end; ++i)
              ++touched[d * total + static_cast<size_t>(i)];
          });
        }
      });
      for (size_t i = 0; i < touched.size(); ++i)
        ASSERT_EQ(touched[i], 1) << "seed 11, unit " << i << " of " << total << ", run " << run;
    }
  }
}

TEST(Team, OthersDoWhatALateMemberHasNotBegun) {
  Team team(2);
  std::atomic<int> done{0};
  std::atomic<bool> begun{false};
  team.run([&](Team::Member& member) {
    // Nothing can be taken from who has not come to the deal.
    while (member.rank() == 1 && !begun) std::this_thread::yield();
    member.deal(member.slice(64), [&](Range part) {
      begun = true;
      // Member 0 stays with its first part until everything else is done.
      const auto size = static_cast<int>(part.size());
      while (member.rank() == 0 && part.begin == 0 && done < 64 - size) std::this_thread::yield();
      done += size;
    });
  });
  EXPECT_EQ(done, 64);
}

TEST(Team, DealsRangesBeyondWhatItCanShare) {
  Team team(2);
  constexpr int64_t kFar = int64_t{1} << 40;
  std::atomic<int64_t> sum{0};
  team.run([&](Team::Member& member) {
    const int64_t first = kFar + 5 * member.rank();
    for (int i = 0; i < 2; ++i)
      member.deal({first, first + 5}, [&](Range part) { sum += part.begin * part.size(); });
  });
  EXPECT_EQ(sum, 2 * 5 * (kFar + kFar + 5));
}

TEST(Team, WakesUpAfterBeingIdle) {
  Team team(3);
  for (int run = 0; run < 20; ++run) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    std::atomic<int> members{0};
    team.run([&](Team::Member&) { ++members; });
    ASSERT_EQ(members, 3);
  }
}

TEST(Team, MayBeDroppedAtOnceOrAfterARun) {
  for (int i = 0; i < 200; ++i) {
    Team unused(1 + i % kMostThreads);
    Team used(1 + i % kMostThreads);
    int64_t sum = 0;
    used.run([&](Team::Member& member) {
      if (member.rank() == member.size() - 1) sum = member.size();
    });
    ASSERT_EQ(sum, used.size());
  }
}

TEST(Team, CallersMayTakeTurns) {
  Team team(4);
  int64_t total = 0;
  for (int turn = 0; turn < 50; ++turn) {
    std::thread caller([&] {
      std::vector<int64_t> parts(4, 0);
      team.run([&](Team::Member& member) {
        const Range range = member.slice(100, 8);
        parts[static_cast<size_t>(member.rank())] = range.size();
      });
      total += std::accumulate(parts.begin(), parts.end(), int64_t{0});
    });
    caller.join();
  }
  EXPECT_EQ(total, 50 * 100);
}

TEST(Team, LibrariesInsideAreToldToUseOneThread) {
  const int before = omp_get_max_threads();
  Team team(4);
  std::vector<int> inside(4, 0);
  team.run([&](Team::Member& member) {
    inside[static_cast<size_t>(member.rank())] = omp_get_max_threads();
  });
  EXPECT_EQ(inside, std::vector<int>(4, 1));
  EXPECT_EQ(omp_get_max_threads(), before);
}

TEST(Team, SizeDefaultsToTheUsableCpus) { EXPECT_EQ(Team().size(), usable_cpus()); }

}  // namespace
}  // namespace tessera
