#include "compress/repair.h"

#include <algorithm>
#include <atomic>

#include "compress/cholesky.h"
#include "compress/sweep.h"

namespace tessera {
namespace {

constexpr size_t at(int64_t index) { return static_cast<size_t>(index); }

// The inverse of a symmetric matrix.
bool invert(const std::vector<double>& matrix, int64_t n, std::vector<double>& inverse,
            Team& team) {
  std::vector<double> factor = matrix, root(matrix.size());
  inverse.resize(matrix.size());
  if (!factor_cholesky(factor.data(), n, &team)) return false;
  invert_factor(factor.data(), n, root.data(), &team);
  multiply_by_transpose(root.data(), n, inverse.data(), &team);
  return true;
}

// The inputs that a row of tiles keeps, and the others.
struct Split {
  std::vector<int64_t> kept, pruned;
};
Split split_inputs(const TileMask& mask, int64_t tile_row) {
  Split split;
  for (int64_t i = 0; i < mask.cols; ++i)
    (mask.keeps(tile_row, i / mask.tile.cols) ? split.kept : split.pruned).push_back(i);
  return split;
}

// Rows and columns of a symmetric matrix.
void gather(const double* matrix, int64_t n, const std::vector<int64_t>& chosen,
            std::vector<double>& target) {
  const int64_t size = static_cast<int64_t>(chosen.size());
  target.resize(at(size * size));
  for (int64_t r = 0; r < size; ++r) {
    const double* row = matrix + chosen[at(r)] * n;
    for (int64_t c = 0; c <= r; ++c) target[at(r * size + c)] = row[chosen[at(c)]];
  }
}

class TileRowRepair {
 public:
  TileRowRepair(const TileMask& mask, const Hessian& hessian, Weight& weight)
      : mask_(mask), hessian_(hessian), weight_(weight) {}

  bool repair(int64_t tile_row) {
    split_ = split_inputs(mask_, tile_row);
    first_ = tile_row * mask_.tile.rows;
    height_ = std::min<int64_t>(mask_.tile.rows, mask_.rows - first_);
    if (split_.pruned.empty()) return true;
    const bool fits = split_.kept.empty() || (uses_inverse(split_) ? by_pruned() : by_kept());
    for (int64_t r = 0; r < height_; ++r) {
      for (const int64_t p : split_.pruned) weight_.row(first_ + r)[p] = 0;
    }
    return fits;
  }

  static bool uses_inverse(const Split& split) { return split.pruned.size() < split.kept.size(); }

 private:
  // rows[r] = W_from matrix_from,to
  void project(const double* matrix, const std::vector<int64_t>& from,
               const std::vector<int64_t>& to) {
    const size_t width = to.size();
    rows_.assign(at(height_) * width, 0.0);
    for (const int64_t i : from) {
      const double* line = matrix + i * hessian_.inputs;
      for (int64_t r = 0; r < height_; ++r) {
        const double value = coefficients_[at(r * hessian_.inputs + i)];
        double* target = rows_.data() + at(r) * width;
        for (size_t c = 0; c < width; ++c) target[c] += value * line[to[c]];
      }
    }
  }

  void load_coefficients() {
    coefficients_.assign(at(height_ * hessian_.inputs), 0.0);
    for (int64_t r = 0; r < height_; ++r)
      std::copy_n(weight_.row(first_ + r), hessian_.inputs,
                  coefficients_.data() + r * hessian_.inputs);
  }

  bool by_kept() {
    const auto size = static_cast<int64_t>(split_.kept.size());
    load_coefficients();
    project(hessian_.values.data(), split_.pruned, split_.kept);
    gather(hessian_.values.data(), hessian_.inputs, split_.kept, factor_);
    if (!factor_cholesky(factor_.data(), size, nullptr)) return false;
    solve_cholesky(factor_.data(), size, rows_.data(), height_);
    add_to_kept(1.0);
    return true;
  }

  bool by_pruned() {
    const auto size = static_cast<int64_t>(split_.pruned.size());
    rows_.resize(at(height_ * size));
    for (int64_t r = 0; r < height_; ++r) {
      for (int64_t p = 0; p < size; ++p)
        rows_[at(r * size + p)] = weight_.row(first_ + r)[split_.pruned[at(p)]];
    }
    gather(hessian_.inverse.data(), hessian_.inputs, split_.pruned, factor_);
    if (!factor_cholesky(factor_.data(), size, nullptr)) return false;
    solve_cholesky(factor_.data(), size, rows_.data(), height_);
    coefficients_.assign(at(height_ * hessian_.inputs), 0.0);
    for (int64_t r = 0; r < height_; ++r) {
      for (int64_t p = 0; p < size; ++p)
        coefficients_[at(r * hessian_.inputs + split_.pruned[at(p)])] = rows_[at(r * size + p)];
    }
    project(hessian_.inverse.data(), split_.pruned, split_.kept);
    add_to_kept(-1.0);
    return true;
  }

  void add_to_kept(double sign) {
    const size_t width = split_.kept.size();
    for (int64_t r = 0; r < height_; ++r) {
      float* row = weight_.row(first_ + r);
      for (size_t c = 0; c < width; ++c) {
        float& value = row[split_.kept[c]];
        value = static_cast<float>(value + sign * rows_[at(r) * width + c]);
      }
    }
  }

  const TileMask& mask_;
  const Hessian& hessian_;
  Weight& weight_;
  Split split_;
  int64_t first_ = 0, height_ = 0;
  std::vector<double> factor_, rows_, coefficients_;
};

bool needs_inverse(const TileMask& mask) {
  for (int64_t row = 0; row < mask.tile_rows(); ++row) {
    const Split split = split_inputs(mask, row);
    if (!split.pruned.empty() && TileRowRepair::uses_inverse(split)) return true;
  }
  return false;
}

}  // namespace

Status repair_tiles(const TileMask& mask, Hessian& hessian, Weight& weight, Team& team) {
  if (hessian.inverse.empty() && needs_inverse(mask) &&
      !invert(hessian.values, hessian.inputs, hessian.inverse, team)) {
    return not_definite();
  }
  std::atomic<bool> fits{true};
  std::atomic<int64_t> next{0};
  team.run([&](Team::Member&) {
    TileRowRepair rows(mask, hessian, weight);
    for (int64_t row = next++; row < mask.tile_rows(); row = next++) {
      if (!rows.repair(row)) fits = false;
    }
  });
  return fits ? Status() : not_definite();
}

Status repair_elements(const TileMask& mask, Hessian& hessian, Weight& weight, Team& team) {
  const auto stay = [&](int64_t output, int64_t input, const double* row) {
    return mask.keeps(output, input) ? row[input] : 0.0;
  };
  return sweep(&hessian, 1, stay, weight, team);
}

}  // namespace tessera
