#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdio>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "kernels/family.h"

namespace tessera::testing {

// Sizes around the vector widths.
inline const std::vector<int64_t> kSizes = {1,  2,  7,  8,  9,  15,  16,  17,
                                            31, 33, 63, 64, 65, 127, 130, 257};

// Normal values; the seed is printed with a failure by SCOPED_TRACE(seed_trace(seed)).
inline std::vector<float> random_values(int64_t count, uint32_t seed, float scale = 1.0f) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(generator);
  return values;
}

inline std::string seed_trace(uint32_t seed) { return "seed " + std::to_string(seed); }

// Forces kernels while it lives.
class Forced {
 public:
  explicit Forced(const std::string& kernels) : before_(forced_kernels()) { force_kernel(kernels); }
  ~Forced() { force_kernel(before_); }

 private:
  std::string before_;
};

// Says once a test which rows it could not run; ./test counts these lines.
template <typename Args>
void report_absent(const KernelFamily<Args>& family, const KernelRow<Args>& row) {
  const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
  static std::set<std::string> reported;
  const std::string line = std::string("without ") + std::string(name(row.isa)) + ": skips " +
                           family.name() + ":" + row.name;
  if (reported.insert(line + test->test_suite_name() + test->name()).second)
    std::printf("%s\n", line.c_str());
}

// Calls check(row) for every row of the family but the reference that this machine has; says what
// it skips.
template <typename Args, typename Check>
void for_each_fast_row(const KernelFamily<Args>& family, const Args& sample, Check check) {
  for (const KernelRow<Args>& row : family.rows()) {
    if (&row == &family.rows().back()) continue;
    if (!hardware_has(row.isa)) {
      report_absent(family, row);
      continue;
    }
    if (row.refuse(sample) != nullptr) continue;
    SCOPED_TRACE(std::string(family.name()) + ":" + row.name);
    check(row);
  }
}

}  // namespace tessera::testing
