#include "base/cpus.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <thread>

#include "base/team.h"
#include "base/testing.h"

namespace tessera {
namespace {

// A made-up mount of cgroups.
class QuotaTest : public testing::MadeUpFolder {
 protected:
  int quota() { return quota_cpus(root_ / "self", root_ / "mount"); }
};

TEST_F(QuotaTest, NoneWithoutCgroups) { EXPECT_EQ(quota(), kNoQuota); }

TEST_F(QuotaTest, SecondVersionAtTheRoot) {
  put("mount/cpu.max", "max 100000\n");
  EXPECT_EQ(quota(), kNoQuota);
  put("mount/cpu.max", "200000 100000\n");
  EXPECT_EQ(quota(), 2);
  put("mount/cpu.max", "250000 100000\n");
  EXPECT_EQ(quota(), 3);
  put("mount/cpu.max", "1000 100000\n");
  EXPECT_EQ(quota(), 1);
}

TEST_F(QuotaTest, SecondVersionTakesTheLeastOfTheGroupsAbove) {
  put("self", "0::/a/b\n");
  put("mount/a/b/cpu.max", "400000 100000\n");
  EXPECT_EQ(quota(), 4);
  put("mount/a/cpu.max", "300000 100000\n");
  EXPECT_EQ(quota(), 3);
  put("mount/a/b/cpu.max", "max 100000\n");
  EXPECT_EQ(quota(), 3);
}

TEST_F(QuotaTest, FirstVersion) {
  put("self", "5:memory:/m\n4:cpu,cpuacct:/c\n");
  put("mount/cpu/c/cpu.cfs_quota_us", "150000\n");
  put("mount/cpu/c/cpu.cfs_period_us", "100000\n");
  put("mount/cpu/m/cpu.cfs_quota_us", "100000\n");
  put("mount/cpu/m/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(quota(), 2);
  put("mount/cpu/c/cpu.cfs_quota_us", "-1\n");
  EXPECT_EQ(quota(), kNoQuota);
}

TEST_F(QuotaTest, NonsenseIsNoQuota) {
  put("self", "nonsense\n0::relative\n::\n");
  put("mount/cpu.max", "abc def\n");
  EXPECT_EQ(quota(), kNoQuota);
  put("mount/cpu.max", "100000 0\n");
  EXPECT_EQ(quota(), kNoQuota);
  put("mount/cpu.max", "1e300 1\n");
  EXPECT_EQ(quota(), kNoQuota);
}

TEST(UsableCpus, FollowsTheAffinity) {
  cpu_set_t all;
  ASSERT_EQ(sched_getaffinity(0, sizeof(all), &all), 0);
  EXPECT_GE(usable_cpus(), 1);
  EXPECT_LE(usable_cpus(), CPU_COUNT(&all));
  int pinned = 0, team = 0;
  std::thread thread([&] {  // the mask belongs to a thread
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (!CPU_ISSET(cpu, &all)) continue;
      cpu_set_t one;
      CPU_ZERO(&one);
      CPU_SET(cpu, &one);
      if (sched_setaffinity(0, sizeof(one), &one) == 0) break;
    }
    pinned = usable_cpus();
    team = Team().size();
  });
  thread.join();
  EXPECT_EQ(pinned, 1);
  EXPECT_EQ(team, 1);
}

}  // namespace
}  // namespace tessera
