#include "base/device.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <limits>
#include <thread>
#include <vector>

namespace tessera {
namespace {

bool aligned(const Buffer& buffer) { return reinterpret_cast<uintptr_t>(buffer.data()) % 64 == 0; }

TEST(Device, BlocksOfEverySizeAreAlignedAndApart) {
  for (Device* device : {&host_device(), &weights_device()}) {
    std::vector<Buffer> blocks;
    for (const size_t size : {size_t{0}, size_t{1}, size_t{63}, size_t{64}, size_t{65},
                              size_t{5} << 20, size_t{300} << 20, size_t{1000}}) {
      blocks.push_back(device->allocate(size));
      ASSERT_FALSE(blocks.back().empty()) << size;
      EXPECT_TRUE(aligned(blocks.back())) << size;
      EXPECT_GE(blocks.back().size_bytes(), size);
    }
    for (size_t i = 0; i < blocks.size(); ++i) {
      if (blocks[i].size_bytes() < 10000) {
        std::memset(blocks[i].data(), static_cast<int>(i), blocks[i].size_bytes());
      }
    }
    for (size_t i = 0; i < blocks.size(); ++i) {
      if (blocks[i].size_bytes() < 10000) {
        EXPECT_EQ(blocks[i].as<char>()[blocks[i].size_bytes() - 1], static_cast<char>(i));
      }
    }
  }
}

TEST(Device, MoreThanThereIsGivesAnEmptyBuffer) {
  for (Device* device : {&host_device(), &weights_device()}) {
    EXPECT_TRUE(device->allocate(size_t{1} << 60).empty());
    EXPECT_TRUE(device->allocate(std::numeric_limits<size_t>::max() - 100).empty());
    EXPECT_FALSE(device->allocate(100).empty());
  }
}

TEST(WeightsDevice, BlocksLieOneBehindTheOtherAndGoInAnyOrder) {
  Buffer first = weights_device().allocate(100);
  Buffer second = weights_device().allocate(200);
  EXPECT_EQ(first.as<char>() + 128, second.as<char>());
  first = Buffer();
  std::memset(second.data(), 1, 200);
  Buffer third = weights_device().allocate(10);
  second = Buffer();
  std::memset(third.data(), 1, 10);
}

TEST(WeightsDevice, ThreadsMayAllocateAtTheSameTime) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([t] {
      for (int i = 0; i < 100; ++i) {
        std::vector<Buffer> own;
        for (int k = 0; k < 5; ++k) {
          own.push_back(weights_device().allocate(1000));
          std::memset(own.back().data(), t, 1000);
        }
        for (const Buffer& buffer : own) ASSERT_EQ(buffer.as<char>()[999], t);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace tessera
