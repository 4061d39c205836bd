#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "base/device.h"
#include "kernels/activation/activation.h"
#include "kernels/testing.h"

// What the tests of the products y = f(x w + bias) + residual have in common. A Problem is one such
// product with everything its arguments point at. It has
//   args; y_stride; residual: as long as y
//   outputs(); units(): how many there are to deal out
//   bound(m, n): how far an element may be from the reference's
//   scratch(args): only where kernels need some; sets args.scratch, returns its memory
namespace tessera::testing {

inline constexpr float kEpsilon = std::numeric_limits<float>::epsilon();
inline constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// The combinations of the epilogue take turns where there are too many sizes for all of them.
template <typename Args>
void vary_epilogue(Args& args, uint32_t turn) {
  if (turn % 2 != 0) args.bias = nullptr;
  if (turn % 3 != 0) args.residual = nullptr;
  args.activation = static_cast<Activation>(turn % 6);
}

inline constexpr int kEpilogues = 24;
template <typename Args>
void choose_epilogue(Args& args, int choice) {
  if (choice % 2 != 0) args.bias = nullptr;
  if (choice / 2 % 2 != 0) args.residual = nullptr;
  args.activation = static_cast<Activation>(choice / 4);
}

inline std::string activation_trace(Activation activation) {
  return ", activation " + std::to_string(static_cast<int>(activation));
}

template <typename Args>
std::string product_trace(const Args& args, uint32_t seed) {
  std::string type;
  if constexpr (requires { args.weight_type; }) type = ", " + std::string(name(args.weight_type));
  return std::to_string(args.rows) + " x " + std::to_string(args.inputs) + " -> " +
         std::to_string(args.outputs) + type + activation_trace(args.activation) + ", " +
         seed_trace(seed);
}

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// Calls check(row) for every row of the family, the reference too, that this machine has.
template <typename Args, typename Check>
void for_each_row(const KernelFamily<Args>& family, const Args& sample, Check check) {
  for (const KernelRow<Args>& row : family.rows()) {
    if (!hardware_has(row.isa)) {
      report_absent(family, row);
      continue;
    }
    if (row.refuse(sample) != nullptr) continue;
    SCOPED_TRACE(row.name);
    check(row);
  }
}

// The scratch is new each time, so that no kernel finds there what another left.
template <typename Problem, typename Args>
void run_parts(const Problem& problem, const KernelRow<Args>& row, Args args,
               std::initializer_list<Exec> parts) {
  Buffer scratch;
  if constexpr (requires { problem.scratch(args); }) scratch = problem.scratch(args);
  for (const Exec& part : parts) row.run(args, part);
}

// NaN where the kernel writes nothing.
template <typename Problem, typename Args>
std::vector<float> run_whole(const Problem& problem, const KernelRow<Args>& row, Args args) {
  std::vector<float> y(problem.residual.size(), kNaN);
  args.y = y.data();
  run_parts(problem, row, args, {{0, problem.units()}});
  return y;
}
template <typename Problem, typename Args>
std::vector<float> run_whole(const Problem& problem, const KernelRow<Args>& row) {
  return run_whole(problem, row, problem.args);
}

// Members of a team run parts of equal shape at the same time.
template <typename Problem, typename Args>
std::vector<float> run_halves_at_once(const Problem& problem, const KernelRow<Args>& row) {
  std::vector<float> y(problem.residual.size(), kNaN);
  Args args = problem.args;
  args.y = y.data();
  const int64_t half = problem.units() / 2;
  std::thread other([&] { run_parts(problem, row, args, {{half, problem.units()}}); });
  run_parts(problem, row, args, {{0, half}});
  other.join();
  return y;
}

template <typename Problem>
void check_values(const Problem& problem, const std::vector<float>& expected,
                  const std::vector<float>& found) {
  for (size_t i = 0; i < found.size(); ++i) {
    const int64_t m = static_cast<int64_t>(i) / problem.y_stride;
    const int64_t n = static_cast<int64_t>(i) % problem.y_stride;
    if (n >= problem.outputs()) {
      ASSERT_TRUE(std::isnan(found[i])) << "wrote outside, row " << m << " output " << n;
    } else if (expected[i] != found[i]) {  // a bound takes as long as the element itself
      ASSERT_NEAR(expected[i], found[i], problem.bound(m, n)) << "row " << m << " output " << n;
    }
  }
}

template <typename Problem, typename Args>
void check_rows(const KernelFamily<Args>& family, const Problem& problem) {
  const std::vector<float> expected = run_whole(problem, family.rows().back());
  for_each_fast_row(family, problem.args, [&](const KernelRow<Args>& row) {
    check_values(problem, expected, run_whole(problem, row));
  });
}

// Whether the place of the residual leaves every bit as it is, or may round differently.
enum class Agreement { kExact, kRounded };

template <typename Problem, typename Args>
void check_residual_as_output(const KernelFamily<Args>& family, const Problem& problem,
                              Agreement agreement = Agreement::kExact) {
  for_each_row(family, problem.args, [&](const KernelRow<Args>& row) {
    const std::vector<float> apart = run_whole(problem, row);
    std::vector<float> within = problem.residual;
    Args args = problem.args;
    args.y = within.data();
    args.residual = within.data();
    run_parts(problem, row, args, {{0, problem.units()}});
    for (size_t i = 0; i < within.size(); ++i) {
      const bool inside = static_cast<int64_t>(i) % problem.y_stride < problem.outputs();
      const float expected = inside ? apart[i] : problem.residual[i];
      if (agreement == Agreement::kExact) {
        ASSERT_EQ(expected, within[i]) << i;
      } else {
        ASSERT_FLOAT_EQ(expected, within[i]) << i;
      }
    }
  });
}

template <typename Args>
void skip_rows(Args& args, int64_t rows) {
  if constexpr (requires { args.x_stride; }) {
    args.x += rows * args.x_stride;
  } else {
    args.x.values += rows * args.x.stride;
    args.x.scales += rows;
    args.x.zeros += rows;
  }
  args.residual += rows * args.residual_stride;
  args.y += rows * args.y_stride;
}

// However a product is dealt, by units and by rows: the same bits.
template <typename Problem, typename Args>
void check_parts(const Problem& problem, const KernelRow<Args>& row,
                 std::initializer_list<int64_t> row_counts, std::initializer_list<Exec> parts) {
  const std::vector<float> whole = run_whole(problem, row);
  std::vector<float> dealt(whole.size(), kNaN);
  int64_t first = 0;
  for (const int64_t rows : row_counts) {
    Args args = problem.args;
    args.y = dealt.data();
    args.rows = rows;
    skip_rows(args, first);
    run_parts(problem, row, args, parts);
    first += rows;
  }
  ASSERT_EQ(first, problem.args.rows);
  EXPECT_TRUE(same_bits(whole, dealt));
}

}  // namespace tessera::testing
