#include "compress/sweep.h"

#include <algorithm>
#include <atomic>

#include "compress/cholesky.h"

namespace tessera {
namespace {

constexpr size_t at(int64_t index) { return static_cast<size_t>(index); }

constexpr int64_t kOutputs = 32;  // of a chunk: f64 of them and 4096 inputs are half an L2
constexpr int64_t kInputs = 64;   // of a block: its square of R lies in L1

// R with H^-1 = R R^T: of H with its inputs reversed, L L^T, L^-T turned about both its axes.
bool find_root(Hessian& hessian, Team& team) {
  const int64_t n = hessian.inputs;
  std::vector<double> reversed(hessian.values.rbegin(), hessian.values.rend());
  if (!factor_cholesky(reversed.data(), n, &team)) return false;
  hessian.root.resize(reversed.size());
  invert_factor(reversed.data(), n, hessian.root.data(), &team);
  std::reverse(hessian.root.begin(), hessian.root.end());
  return true;
}

// Some outputs of a matrix.
class Chunk {
 public:
  Chunk(const double* root, int64_t group, const Stay& stay, Weight& weight)
      : root_(root), group_(group), stay_(stay), weight_(weight), n_(weight.inputs) {
    rows_.resize(at(kOutputs * n_));
    errors_.resize(at(kOutputs * kInputs));
    square_.resize(at(kInputs * kInputs));
  }

  void run(Range outputs) {
    outputs_ = outputs;
    const float* source = weight_.row(outputs.begin);
    std::copy_n(source, outputs.size() * n_, rows_.begin());
    for (int64_t begin = 0, end = 0; begin < n_; begin = end) {
      end = block_end(begin);
      run_block({begin, end});
      if (root_ != nullptr && end < n_) spread_behind({begin, end});
    }
    std::transform(rows_.begin(), rows_.begin() + outputs.size() * n_, weight_.row(outputs.begin),
                   [](double value) { return static_cast<float>(value); });
  }

 private:
  // A group that a block begins may reach beyond it; whoever begins within a block ends there.
  int64_t block_end(int64_t begin) const {
    int64_t end = begin + kInputs;
    if (group_ > kInputs) end = std::min(end, (begin / group_ + 1) * group_);
    if (group_ > 0 && group_ <= kInputs) end = begin + kInputs / group_ * group_;
    return std::min(end, n_);
  }

  void run_block(Range inputs) {
    const int64_t width = inputs.size();
    if (root_ != nullptr) {
      for (int64_t j = 0; j < width; ++j) {
        for (int64_t k = j; k < width; ++k)
          square_[at(j * kInputs + k)] = root_[(inputs.begin + k) * n_ + inputs.begin + j];
      }
    }
    for (int64_t o = 0; o < outputs_.size(); ++o) {
      double* row = rows_.data() + o * n_;
      for (int64_t j = 0; j < width; ++j) {
        const double stays = stay_(outputs_.begin + o, inputs.begin + j, row);
        double* values = row + inputs.begin;
        if (root_ != nullptr) {
          const double* line = square_.data() + j * kInputs;
          const double error = (values[j] - stays) / line[j];
          for (int64_t k = j + 1; k < width; ++k) values[k] -= error * line[k];
          errors_[at(o * kInputs + j)] = error;
        }
        values[j] = stays;
      }
    }
  }

  void spread_behind(Range inputs) {
    subtract_product({.a = errors_.data(),
                      .a_stride = kInputs,
                      .m = outputs_.size(),
                      .b = root_ + inputs.end * n_ + inputs.begin,
                      .b_stride = n_,
                      .n = n_ - inputs.end,
                      .depth = inputs.size(),
                      .c = rows_.data() + inputs.end,
                      .c_stride = n_});
  }

  const double* root_;
  int64_t group_;
  const Stay& stay_;
  Weight& weight_;
  int64_t n_;
  Range outputs_;
  std::vector<double> rows_, errors_, square_;
};

}  // namespace

Status sweep(Hessian* hessian, int64_t group, const Stay& stay, Weight& weight, Team& team) {
  if (hessian != nullptr && hessian->root.empty() && !find_root(*hessian, team))
    return not_definite();
  const double* root = hessian == nullptr ? nullptr : hessian->root.data();
  std::atomic<int64_t> next{0};
  team.run([&](Team::Member&) {
    Chunk chunk(root, group, stay, weight);
    for (int64_t begin = next.fetch_add(kOutputs); begin < weight.outputs;
         begin = next.fetch_add(kOutputs)) {
      chunk.run({begin, std::min(begin + kOutputs, weight.outputs)});
    }
  });
  return {};
}

}  // namespace tessera
