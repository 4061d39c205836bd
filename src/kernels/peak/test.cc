#include "kernels/peak/peak.h"
#include "kernels/testing.h"

namespace tessera::peak {
namespace {

// Few enough steps that every chain's sum is exact.
TEST(Peak, EveryRowCountsEveryProduct) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kI8}) {
    for (const float value : {0.0f, 1.0f, 3.0f, 11.0f}) {
      for (const int64_t steps : {0, 1, 7}) {
        SCOPED_TRACE(std::string(name(dtype)) + " value " + std::to_string(value));
        double expected = -1, found = -1;
        Args args{.dtype = dtype, .value = value, .sum = &expected};
        ref(args, {0, steps});
        EXPECT_EQ(expected, static_cast<double>(value * value) *
                                static_cast<double>(steps * kProductsPerStep));
        args.sum = &found;
        testing::for_each_fast_row(kernels, args, [&](const KernelRow<Args>& row) {
          row.run(args, {5, 5 + steps});
          EXPECT_EQ(expected, found);
        });
      }
    }
  }
}

}  // namespace
}  // namespace tessera::peak
