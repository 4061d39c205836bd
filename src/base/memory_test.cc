#include "base/memory.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <limits>

namespace tessera {
namespace {

std::string fresh_folder(const char* name) {
  const std::string path = ::testing::TempDir() + name + std::to_string(getpid());
  std::filesystem::create_directories(path + "/memory");
  return path;
}

TEST(Memory, SomeIsAvailable) { EXPECT_GT(available_memory_bytes(), 0); }

TEST(Memory, NoLimitWithoutAGroup) {
  EXPECT_EQ(group_memory_bytes("/nowhere", "/nowhere"), std::numeric_limits<int64_t>::max());
  const std::string mount = fresh_folder("memory_max");
  std::ofstream(mount + "/memory.max") << "max\n";
  std::ofstream(mount + "/memory.current") << "1000\n";
  EXPECT_EQ(group_memory_bytes(mount + "/self", mount), std::numeric_limits<int64_t>::max());
}

TEST(Memory, FileCachesOfTheGroupCountAsFree) {
  const std::string mount = fresh_folder("memory_v2");
  std::ofstream(mount + "/memory.max") << "10000\n";
  std::ofstream(mount + "/memory.current") << "7000\n";
  EXPECT_EQ(group_memory_bytes(mount + "/self", mount), 3000);
  std::ofstream(mount + "/memory.stat") << "anon 100\ninactive_file 2000\nslab 5\n";
  EXPECT_EQ(group_memory_bytes(mount + "/self", mount), 5000);
}

TEST(Memory, OlderGroups) {
  const std::string mount = fresh_folder("memory_v1");
  std::ofstream(mount + "/memory/memory.limit_in_bytes") << "5000\n";
  std::ofstream(mount + "/memory/memory.usage_in_bytes") << "6000\n";
  EXPECT_EQ(group_memory_bytes(mount + "/self", mount), 0);
}

// A service has its limit in a group of its own, or above it, not at the root.
TEST(Memory, TheLeastOfTheGroupsAbove) {
  const std::string mount = fresh_folder("memory_groups");
  std::ofstream(mount + "/self") << "3:memory:/old\n0::/a/b\n";
  std::filesystem::create_directories(mount + "/a/b");
  std::ofstream(mount + "/a/memory.max") << "4000\n";
  std::ofstream(mount + "/a/memory.current") << "1000\n";
  EXPECT_EQ(group_memory_bytes(mount + "/self", mount), 3000);
  std::ofstream(mount + "/a/b/memory.max") << "1500\n";
  std::ofstream(mount + "/a/b/memory.current") << "1000\n";
  EXPECT_EQ(group_memory_bytes(mount + "/self", mount), 500);
  std::filesystem::create_directories(mount + "/memory/old");
  std::ofstream(mount + "/memory/old/memory.limit_in_bytes") << "300\n";
  std::ofstream(mount + "/memory/old/memory.usage_in_bytes") << "100\n";
  EXPECT_EQ(group_memory_bytes(mount + "/self", mount), 200);
}

}  // namespace
}  // namespace tessera
