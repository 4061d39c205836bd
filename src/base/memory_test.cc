#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>

#include "base/arena.h"
#include "base/device.h"

namespace tessera {
namespace {

bool is_aligned(const void* data) { return reinterpret_cast<uintptr_t>(data) % 64 == 0; }

TEST(HostDevice, SizesAroundTheOnesThatMatter) {
  const size_t large = size_t{4} << 20;
  for (const size_t bytes : {size_t{0}, size_t{1}, size_t{63}, size_t{64}, size_t{65}, large - 65,
                             large - 64, large - 63, large - 1, large, large + 1, large + 4097}) {
    Buffer buffer = host_device().allocate(bytes);
    ASSERT_FALSE(buffer.empty()) << bytes;
    ASSERT_GE(buffer.size_bytes(), bytes);
    ASSERT_TRUE(is_aligned(buffer.data())) << bytes;
    std::memset(buffer.data(), 0x5a, buffer.size_bytes());
  }
}

TEST(HostDevice, TooMuchIsAnEmptyBuffer) {
  EXPECT_TRUE(host_device().allocate(SIZE_MAX / 2).empty());
  EXPECT_TRUE(host_device().allocate(SIZE_MAX).empty());
}

TEST(Buffer, MovesItsMemory) {
  Buffer first = host_device().allocate(100);
  void* data = first.data();
  Buffer second = std::move(first);
  EXPECT_EQ(second.data(), data);
  EXPECT_TRUE(first.empty());  // NOLINT: what a moved-from buffer is
  Buffer third;
  third = std::move(second);
  EXPECT_EQ(third.data(), data);
  third = {};
  EXPECT_TRUE(third.empty());
}

TEST(Arena, PiecesAreAlignedAndApart) {
  Arena arena;
  ASSERT_TRUE(
      arena.reset(Arena::rounded(10) + Arena::rounded(70 * sizeof(float)) + Arena::rounded(1))
          .ok());
  char* a = arena.take<char>(10);
  float* b = arena.take<float>(70);
  char* c = arena.take<char>(1);
  EXPECT_TRUE(is_aligned(a) && is_aligned(b) && is_aligned(c));
  std::memset(a, 1, 10);
  std::memset(b, 2, 70 * sizeof(float));
  std::memset(c, 3, 1);
  EXPECT_EQ(a[9], 1);
  EXPECT_EQ(reinterpret_cast<char*>(b + 70)[-1], 2);
  EXPECT_EQ(c[0], 3);
}

TEST(Arena, ResetKeepsWhatItHasAndGrows) {
  Arena arena;
  EXPECT_EQ(arena.capacity_bytes(), 0u);
  ASSERT_TRUE(arena.reset(1000).ok());
  char* first = arena.take<char>(1000);
  ASSERT_TRUE(arena.reset(500).ok());
  EXPECT_EQ(arena.take<char>(500), first);
  ASSERT_TRUE(arena.reset(size_t{5} << 20).ok());
  std::memset(arena.take<char>(5 << 20), 4, size_t{5} << 20);
  EXPECT_GE(arena.capacity_bytes(), size_t{5} << 20);
}

TEST(Arena, SaysWhenThereIsNotEnoughAndCanBeUsedAgain) {
  Arena arena;
  const Status status = arena.reset(SIZE_MAX / 2);
  EXPECT_EQ(status.code(), StatusCode::kOutOfMemory);
  EXPECT_NE(status.message().find(std::to_string(SIZE_MAX / 2)), std::string::npos)
      << status.message();
  ASSERT_TRUE(arena.reset(64).ok());
  std::memset(arena.take<char>(64), 5, 64);
}

TEST(Arena, EmptyPiecesCostNothing) {
  Arena arena;
  ASSERT_TRUE(arena.reset(0).ok());
  arena.take<float>(0);
  ASSERT_TRUE(arena.reset(64).ok());
  const char* a = arena.take<char>(0);
  const char* b = arena.take<char>(64);
  EXPECT_EQ(a, b);
}

}  // namespace
}  // namespace tessera
