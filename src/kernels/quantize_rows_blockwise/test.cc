#include <cmath>
#include <cstring>
#include <limits>

#include "base/device.h"
#include "kernels/quantize_rows_blockwise/quantize_rows_blockwise.h"
#include "kernels/testing.h"

namespace tessera::quantize_rows_blockwise {
namespace {

// Rounded rows with the memory they stand in, which is set to a pattern first.
struct Rounded {
  Rounded(const InputBlocks& of, RowForm form, int64_t rows) : blocks(of) {
    const auto bytes = static_cast<size_t>(integer_rows_bytes(blocks, form, rows));
    memory = host_device().allocate(bytes + 64);
    std::memset(memory.data(), 0x5a, bytes + 64);
    made = integer_rows(blocks, form, rows, memory.data());
    end = memory.as<char>() + bytes;
  }
  bool wrote_behind() const {
    for (int i = 0; i < 64; ++i) {
      if (end[i] != 0x5a) return true;
    }
    return false;
  }
  // Integer `i` of a row, padding included, as it stands.
  int32_t value(int64_t row, int64_t i) const {
    const char* values = static_cast<const char*>(made.values) + row * made.row_bytes;
    const auto byte = [&](int64_t at) {
      return static_cast<int32_t>(static_cast<int8_t>(values[at]));
    };
    switch (made.form) {
      case RowForm::k8:
        return byte(i);
      case RowForm::k16:
        return reinterpret_cast<const int16_t*>(values)[i];
      case RowForm::k16Split:
        return 256 * byte(made.row_bytes / 2 + i) + byte(i);
    }
    return 0;
  }

  InputBlocks blocks;
  Buffer memory;
  IntegerRows made;
  const char* end = nullptr;
};

constexpr RowForm kForms[] = {RowForm::k8, RowForm::k16, RowForm::k16Split};
constexpr int64_t kGroups[] = {0, 1, 7, 8, 16, 32, 64, 100, 128, 200};

void check_rows(Args args, RowForm form, int64_t rows) {
  Rounded expected(args.blocks, form, rows);
  args.rows = expected.made;
  ref(args, {0, rows});
  testing::for_each_fast_row(kernels, args, [&](const KernelRow<Args>& row) {
    Rounded found(args.blocks, form, rows);
    args.rows = found.made;
    row.run(args, {1, rows});
    row.run(args, {0, 1});
    ASSERT_FALSE(found.wrote_behind());
    for (int64_t m = 0; m < rows; ++m) {
      for (int64_t i = 0; i < args.blocks.steps * kStepInputs; ++i)
        ASSERT_EQ(expected.value(m, i), found.value(m, i)) << "row " << m << " value " << i;
      for (int64_t b = 0; b < args.blocks.count; ++b) {
        const int64_t at = m * args.blocks.count + b;
        if (std::isnan(expected.made.scales[at])) {
          ASSERT_TRUE(std::isnan(found.made.scales[at])) << "row " << m << " block " << b;
        } else {
          ASSERT_EQ(expected.made.scales[at], found.made.scales[at]) << "row " << m;
        }
        ASSERT_EQ(expected.made.sums[at], found.made.sums[at]) << "row " << m << " block " << b;
      }
    }
  });
}

TEST(RoundRows, EveryRowGivesTheBitsOfRef) {
  uint32_t seed = 1;
  constexpr int64_t kRows = 3;
  for (const RowForm form : kForms) {
    for (const int64_t inputs : testing::kSizes) {
      for (const int64_t group : kGroups) {
        if (group > inputs) continue;
        SCOPED_TRACE("form " + std::to_string(static_cast<int>(form)) + ", " +
                     std::to_string(inputs) + " inputs in groups of " + std::to_string(group) +
                     ", " + testing::seed_trace(++seed));
        const int64_t stride = inputs + 3;
        std::vector<float> x = testing::random_values((kRows - 1) * stride + inputs, seed);
        const std::vector<float> multipliers = testing::random_values(inputs, seed + 1000);
        x[static_cast<size_t>(stride + inputs / 2)] = 1e-35f;
        Args args{.x = x.data(), .x_stride = stride, .blocks = input_blocks(inputs, group)};
        ASSERT_NO_FATAL_FAILURE(check_rows(args, form, kRows));
        args.multipliers = multipliers.data();
        ASSERT_NO_FATAL_FAILURE(check_rows(args, form, kRows));
      }
    }
  }
}

TEST(RoundRows, ZerosAndWhatIsNotFinite) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const RowForm form : kForms) {
    for (const float odd : {0.0f, 1e-42f, 1e-32f, 3e38f, kInfinity, std::nanf("")}) {
      std::vector<float> x(64, 0.0f);
      x[20] = odd;
      x[40] = 1;
      const Args args{.x = x.data(), .x_stride = 32, .blocks = input_blocks(32, 16)};
      ASSERT_NO_FATAL_FAILURE(check_rows(args, form, 2)) << odd;
    }
  }
}

// The reference itself: what the header says of error, order and sums.
TEST(RoundRows, RefKeepsTheHeadersWord) {
  constexpr uint32_t kSeed = 5;
  SCOPED_TRACE(testing::seed_trace(kSeed));
  constexpr int64_t kInputs = 50;
  const std::vector<float> x = testing::random_values(kInputs, kSeed);
  for (const RowForm form : kForms) {
    const InputBlocks blocks = input_blocks(kInputs, 20);
    ASSERT_EQ(blocks.count, 3);
    ASSERT_EQ(blocks.steps, 3 + 3 + 2);
    Rounded rounded(blocks, form, 1);
    ref({.x = x.data(), .x_stride = kInputs, .blocks = blocks, .rows = rounded.made}, {0, 1});
    for (int64_t k = 0; k < kInputs; ++k) {
      const int64_t within = k % 20, block = k / 20;
      const int64_t swapped = within % 4 == 1 ? within + 1 : within % 4 == 2 ? within - 1 : within;
      const int64_t at = block * 24 + (form == RowForm::k16 ? swapped : within);
      const double scale = rounded.made.scales[block];
      ASSERT_NEAR(x[static_cast<size_t>(k)], scale * rounded.value(0, at), 0.51 * scale) << k;
    }
    for (int64_t block = 0, at = 0; block < 3; ++block) {
      int32_t sum = 0;
      for (int64_t i = 0; i < (block < 2 ? 24 : 16); ++i) sum += rounded.value(0, at++);
      EXPECT_EQ(sum, rounded.made.sums[block]);
    }
  }
}

}  // namespace
}  // namespace tessera::quantize_rows_blockwise
