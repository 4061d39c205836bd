#include "base/caches.h"

#include <gtest/gtest.h>

#include <string>

#include "base/testing.h"

namespace tessera {
namespace {

// A made-up folder of a CPU.
class L2Test : public testing::MadeUpFolder {
 protected:
  struct Cache {
    std::string level, type, size, shared;
  };
  void put_cache(int index, const Cache& cache) {
    const std::string folder = "cache/index" + std::to_string(index);
    put(folder + "/level", cache.level + "\n");
    put(folder + "/type", cache.type + "\n");
    put(folder + "/size", cache.size + "\n");
    put(folder + "/shared_cpu_list", cache.shared + "\n");
  }
  int64_t found() { return core_l2_bytes(root_.c_str()); }
};

TEST_F(L2Test, UnknownWithoutFiles) { EXPECT_EQ(found(), 0); }

TEST_F(L2Test, OfACoreAlone) {
  put_cache(0, {"1", "Data", "48K", "0"});
  put_cache(1, {"1", "Instruction", "32K", "0"});
  put_cache(2, {"2", "Unified", "2048K", "0"});
  put_cache(3, {"3", "Unified", "260M", "0-1"});
  EXPECT_EQ(found(), 2 << 20);
}

TEST_F(L2Test, ThreadsOfACoreHaveItWhole) {
  put_cache(2, {"2", "Unified", "1M", "0,64"});
  put("topology/thread_siblings_list", "0,64\n");
  EXPECT_EQ(found(), 1 << 20);
}

TEST_F(L2Test, CoresShareIt) {
  put_cache(2, {"2", "Unified", "4096K", "16-19"});
  put("topology/thread_siblings_list", "16\n");
  EXPECT_EQ(found(), 1 << 20);
  put_cache(2, {"2", "Unified", "4096K", "0-3,8-11"});
  put("topology/thread_siblings_list", "0,8\n");
  EXPECT_EQ(found(), 1 << 20);
}

TEST_F(L2Test, NonsenseIsUnknown) {
  put_cache(2, {"2", "Unified", "much", "all"});
  EXPECT_EQ(found(), 0);
  put_cache(2, {"2", "Unified", "-4K", "3-1"});
  EXPECT_EQ(found(), 0);
  put_cache(2, {"2", "Unified", "99999999999999999999999K", "0"});
  EXPECT_EQ(found(), 0);
}

TEST(L2, OfThisMachineIsOneThatACoreCanHave) {
  EXPECT_GE(l2_bytes(), 256 << 10);
  EXPECT_LE(l2_bytes(), 4 << 20);
}

}  // namespace
}  // namespace tessera
