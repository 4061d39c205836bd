#include "compress/mask.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <tuple>

namespace tessera {
namespace {

constexpr size_t at(int64_t index) { return static_cast<size_t>(index); }

// Marks `count` of the tiles in `order` that have the least scores.
void prune_first(const std::vector<double>& scores, int64_t count, std::vector<int64_t>& order,
                 TileMask& mask) {
  count = std::clamp<int64_t>(count, 0, static_cast<int64_t>(order.size()));
  std::nth_element(order.begin(), order.begin() + count, order.end(), [&](int64_t a, int64_t b) {
    return std::tuple(scores[at(a)], a) < std::tuple(scores[at(b)], b);
  });
  for (int64_t i = 0; i < count; ++i) mask.kept[at(order[at(i)])] = 0;
}

}  // namespace

std::vector<double> tile_scores(const Weight& weight, TileShape tile,
                                const std::vector<double>& input_norms) {
  const TileMask grid = TileMask::all(tile, weight.outputs, weight.inputs);
  std::vector<double> scores(at(grid.tiles()));
  std::vector<double> squares(at(weight.inputs), 1.0);
  for (size_t i = 0; i < input_norms.size(); ++i) squares[i] = input_norms[i] * input_norms[i];
  for (int64_t o = 0; o < weight.outputs; ++o) {
    const float* row = weight.row(o);
    double* target = scores.data() + o / tile.rows * grid.tile_cols();
    for (int64_t c = 0; c < grid.tile_cols(); ++c) {
      const int64_t end = std::min<int64_t>(weight.inputs, (c + 1) * tile.cols);
      double sum = 0;
      for (int64_t i = c * tile.cols; i < end; ++i)
        sum += static_cast<double>(row[i]) * row[i] * squares[at(i)];
      target[c] += sum;
    }
  }
  for (double& score : scores) score = std::sqrt(score);
  return scores;
}

int64_t pruned_count(double share, int64_t tiles) {
  return std::clamp<int64_t>(std::llround(share * static_cast<double>(tiles)), 0, tiles);
}

void prune_least(const std::vector<double>& scores, int64_t count, TileMask& mask) {
  std::vector<int64_t> order;
  for (int64_t i = 0; i < mask.tiles(); ++i) {
    if (mask.kept[at(i)] != 0) order.push_back(i);
  }
  prune_first(scores, count, order, mask);
}

void prune_balanced(const std::vector<double>& scores, int64_t count, TileMask& mask) {
  const int64_t rows = mask.tile_rows(), cols = mask.tile_cols();
  for (int64_t row = 0; row < rows; ++row) {
    std::vector<int64_t> order(at(cols));
    std::iota(order.begin(), order.end(), row * cols);
    prune_first(scores, count / rows + (row < count % rows ? 1 : 0), order, mask);
  }
}

int64_t tile_weights(const TileMask& mask, int64_t index) {
  const int64_t row = index / mask.tile_cols(), col = index % mask.tile_cols();
  return std::min<int64_t>(mask.tile.rows, mask.rows - row * mask.tile.rows) *
         std::min<int64_t>(mask.tile.cols, mask.cols - col * mask.tile.cols);
}

void prune_global(const std::vector<RankedMatrix>& matrices, int64_t weights) {
  std::vector<std::tuple<double, size_t, int64_t>> ranking;
  for (size_t m = 0; m < matrices.size(); ++m) {
    const RankedMatrix& matrix = matrices[m];
    for (int64_t i = 0; i < matrix.mask->tiles(); ++i) {
      if (matrix.mask->kept[at(i)] == 0) continue;
      const double root = std::sqrt(static_cast<double>(tile_weights(*matrix.mask, i)));
      ranking.emplace_back((*matrix.scores)[at(i)] / root, m, i);
    }
  }
  std::sort(ranking.begin(), ranking.end());
  for (const auto& [score, m, i] : ranking) {
    weights -= tile_weights(*matrices[m].mask, i);
    if (weights < 0) return;
    matrices[m].mask->kept[at(i)] = 0;
  }
}

TileMask transposed(const TileMask& mask) {
  TileMask result{{mask.tile.cols, mask.tile.rows}, mask.cols, mask.rows, {}};
  result.kept.resize(mask.kept.size());
  const int64_t rows = mask.tile_rows(), cols = mask.tile_cols();
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) result.kept[at(c * rows + r)] = mask.kept[at(r * cols + c)];
  }
  return result;
}

}  // namespace tessera
