#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/line_sums/line_sums.h"
#include "kernels/testing.h"

namespace tessera::line_sums {
namespace {

constexpr float kEpsilon = std::numeric_limits<float>::epsilon();

enum class Places { kInOrder, kAnywhere };

struct Problem {
  Problem(int64_t count, Places of_lines, Places of_sums)
      : fixed(testing::random_values(15 * kStride + kLine, 1)),
        lines(testing::random_values(2 * count * kLine, 2)),
        before(testing::random_values(2 * count * kLine, 3)),
        line_places(places(2 * count)),
        sum_places(places(2 * count)) {
    args = {.fixed = fixed.data(),
            .fixed_stride = kStride,
            .lines = lines.data(),
            .line_of = of_lines == Places::kAnywhere ? line_places.data() : nullptr,
            .sum_of = of_sums == Places::kAnywhere ? sum_places.data() : nullptr};
  }

  static std::vector<int32_t> places(int64_t count) {
    std::vector<int32_t> places(static_cast<size_t>(count));
    std::iota(places.begin(), places.end(), 0);
    std::shuffle(places.begin(), places.end(), std::mt19937(4));
    return places;
  }

  std::vector<float> run(const KernelRow<Args>& row, Exec exec) const {
    std::vector<float> sums = before;
    Args with = args;
    with.sums = sums.data();
    row.run(with, exec);
    return sums;
  }

  static constexpr int64_t kStride = 19;
  std::vector<float> fixed, lines, before;
  std::vector<int32_t> line_places, sum_places;
  Args args;
};

template <typename Visit>
void for_each_problem(Visit visit) {
  for (const int64_t count : {1, 2, 7, 40}) {
    for (const Places lines : {Places::kInOrder, Places::kAnywhere}) {
      for (const Places sums : {Places::kInOrder, Places::kAnywhere}) {
        visit(Problem(count, lines, sums), Exec{count / 2, count});
      }
    }
  }
}

TEST(LineSums, RefIsThePlainSum) {
  for_each_problem([](const Problem& problem, Exec exec) {
    const std::vector<float> found = problem.run(kernels.rows().back(), exec);
    std::vector<double> expected(problem.before.begin(), problem.before.end());
    for (int64_t i = exec.begin; i < exec.end; ++i) {
      const int64_t line = problem.args.line_of != nullptr ? problem.args.line_of[i] : i;
      const int64_t sum = problem.args.sum_of != nullptr ? problem.args.sum_of[i] : i;
      for (int64_t lane = 0; lane < kLine; ++lane) {
        for (int64_t j = 0; j < kLine; ++j) {
          expected[static_cast<size_t>(sum * kLine + lane)] +=
              double{problem.lines[static_cast<size_t>(line * kLine + j)]} *
              problem.fixed[static_cast<size_t>(j * Problem::kStride + lane)];
        }
      }
    }
    for (size_t at = 0; at < found.size(); ++at) {
      ASSERT_NEAR(expected[at], found[at], kEpsilon * std::abs(expected[at])) << at;
    }
  });
}

TEST(LineSums, FastRowsEqualRef) {
  for_each_problem([](const Problem& problem, Exec exec) {
    const std::vector<float> expected = problem.run(kernels.rows().back(), exec);
    testing::for_each_fast_row(kernels, problem.args, [&](const KernelRow<Args>& row) {
      const std::vector<float> found = problem.run(row, exec);
      // The header's bound for normal values: no factor or row is larger than 5.
      const double bound = 10 * kEpsilon * (5 + kLine * 25);
      for (size_t at = 0; at < found.size(); ++at) {
        if (expected[at] == problem.before[at]) {
          ASSERT_EQ(expected[at], found[at]) << at;
        } else {
          ASSERT_NEAR(expected[at], found[at], bound) << at;
        }
      }
    });
  });
}

}  // namespace
}  // namespace tessera::line_sums
