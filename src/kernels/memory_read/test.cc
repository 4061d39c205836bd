#include <random>

#include "kernels/memory_read/memory_read.h"
#include "kernels/testing.h"

namespace tessera::memory_read {
namespace {

TEST(Read, EveryRowReadsEveryWord) {
  const uint32_t seed = 7;
  SCOPED_TRACE(testing::seed_trace(seed));
  std::mt19937_64 random(seed);
  struct alignas(64) Line {
    uint64_t words[8];
  };
  std::vector<Line> lines(203);
  for (Line& line : lines) {
    for (uint64_t& word : line.words) word = random();
  }
  for (const int streams : {1, 2, 3, 8, kMostStreams}) {
    for (const Exec exec : {Exec{0, 0}, Exec{3, 4}, Exec{0, 15}, Exec{1, 18}, Exec{0, 203}}) {
      uint64_t expected = 1, found = 2;
      Args args{.data = lines.data(), .streams = streams, .sum = &expected};
      ref(args, exec);
      args.sum = &found;
      testing::for_each_fast_row(kernels, args, [&](const KernelRow<Args>& row) {
        row.run(args, exec);
        EXPECT_EQ(expected, found)
            << streams << " streams, lines " << exec.begin << " to " << exec.end;
      });
    }
  }
}

}  // namespace
}  // namespace tessera::memory_read
