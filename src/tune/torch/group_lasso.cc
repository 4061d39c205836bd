#include "tune/torch/group_lasso.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "compress/mask.h"
#include "tune/torch/pruning_schedule.h"
#include "tune/torch/tile_strips.h"

namespace tessera::training {
namespace {

constexpr const char* kBetas = "group_lasso.beta.";

// One strip of a matrix and its gradient, each of which is read from memory once.
template <typename T>
class StripPenalty {
 public:
  StripPenalty(const TileStrips& strips, const Strip& strip, int64_t cols)
      : strips_(strips), strip_(strip), cols_(cols) {}

  void add_squares(const T* weight) {
    for (int64_t row = strip_.row_begin; row < strip_.row_end; ++row) {
      const T* values = weight + row * cols_;
      if (strips_.tile_width() == 1) {  // tiles are what is side by side
        for (int64_t i = strip_.tile_begin; i < strip_.tile_end; ++i)
          numbers_[i - strip_.tile_begin] +=
              static_cast<double>(values[i]) * static_cast<double>(values[i]);
        continue;
      }
      for_each_tile([&](int64_t tile, int64_t begin, int64_t end) {
        double sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = begin; i < end; ++i)
          sum += static_cast<double>(values[i]) * static_cast<double>(values[i]);
        numbers_[tile] += sum;
      });
    }
  }

  // Makes factors of the gradient of the squares and gives the penalty. betas: of all tiles, or
  // null.
  double finish(double lambda, const double* betas) {
    double penalty = 0;
    for (int64_t tile = 0; tile < strip_.tile_end - strip_.tile_begin; ++tile) {
      const double norm = std::sqrt(numbers_[tile]);
      const double weight = lambda * (betas == nullptr ? 1 : betas[strip_.first_tile + tile]);
      penalty += weight * norm;
      numbers_[tile] = norm > 0 ? weight / norm : 0;
    }
    return penalty;
  }

  void add_gradient(const T* weight, T* gradient) const {
    for (int64_t row = strip_.row_begin; row < strip_.row_end; ++row) {
      const T* values = weight + row * cols_;
      T* target = gradient + row * cols_;
      if (strips_.tile_width() == 1) {
        for (int64_t i = strip_.tile_begin; i < strip_.tile_end; ++i)
          target[i] += static_cast<T>(numbers_[i - strip_.tile_begin]) * values[i];
        continue;
      }
      for_each_tile([&](int64_t tile, int64_t begin, int64_t end) {
        const T factor = static_cast<T>(numbers_[tile]);
        for (int64_t i = begin; i < end; ++i) target[i] += factor * values[i];
      });
    }
  }

 private:
  template <typename Visit>
  void for_each_tile(Visit visit) const {
    for (int64_t tile = strip_.tile_begin; tile < strip_.tile_end; ++tile)
      visit(tile - strip_.tile_begin, strips_.begin(tile), strips_.end(tile));
  }

  const TileStrips& strips_;
  const Strip& strip_;
  int64_t cols_;
  double numbers_[kStripWidth] = {};  // a tile: its square, then the factor
};

template <typename T>
double add_typed(const torch::Tensor& weight, TileShape tile, double lambda,
                 const torch::Tensor& betas, torch::Tensor& gradient) {
  const TileStrips strips(tile, weight.size(0), weight.size(1));
  const T* values = weight.data_ptr<T>();
  T* target = gradient.data_ptr<T>();
  const double* divisors = betas.defined() ? betas.data_ptr<double>() : nullptr;
  std::vector<double> penalties(static_cast<size_t>(strips.count()));
  strips.visit([&](const Strip& strip) {
    StripPenalty<T> work(strips, strip, weight.size(1));
    work.add_squares(values);
    penalties[static_cast<size_t>(strip.number)] = work.finish(lambda, divisors);
    work.add_gradient(values, target);
  });
  return std::accumulate(penalties.begin(), penalties.end(), 0.0);
}

class GroupLasso final : public Restriction {
 public:
  GroupLasso(const PruneTraining& options, int64_t steps, PruneTargets targets)
      : lambda_(options.lambda),
        steps_(steps),
        milestones_(reweighting_milestones(options, steps)),
        is_reweighted_(options.method == PruneTraining::Method::kReweighted),
        targets_(std::move(targets)),
        betas_(targets_.size()) {}

  Status begin(TrainedModel& model) override {
    if (!is_reweighted_) return {};
    reweight(model);
    for (size_t i = 0; i < targets_.size(); ++i) {
      TESSERA_ASSIGN_OR_RETURN(const torch::Tensor kept,
                               find_state(restored_, kBetas, targets_[i]));
      if (kept.defined()) betas_[i] = kept.to(at::kDouble);
    }
    restored_.clear();
    return {};
  }

  double add_gradients(TrainedModel& model, int64_t step) override {
    if (step >= steps_) return 0;
    double penalty = 0;
    for (size_t i = 0; i < targets_.size(); ++i) {
      torch::Tensor& value = targets_[i].in(model).value;
      torch::Tensor& gradient = value.mutable_grad();
      gradient = gradient.defined() ? gradient.contiguous() : at::zeros_like(value);
      penalty += add_group_lasso(value, targets_[i].tile, lambda_, betas_[i], gradient);
    }
    return penalty;
  }

  Status after_step(TrainedModel& model, int64_t step) override {
    if (std::binary_search(milestones_.begin(), milestones_.end(), step + 1)) reweight(model);
    return {};
  }

  State state() const override {
    State state;
    for (size_t i = 0; i < targets_.size(); ++i) {
      if (betas_[i].defined()) state[kBetas + targets_[i].name] = betas_[i];
    }
    return state;
  }
  Status restore(const State& state) override {
    restored_ = state;
    return {};
  }

 private:
  void reweight(const TrainedModel& model) {
    for (size_t i = 0; i < targets_.size(); ++i) {
      std::vector<double> betas = tile_scores(weight_of(targets_[i].in(model)), targets_[i].tile);
      for (double& beta : betas) beta = 1 / (beta + kReweightingEpsilon);
      betas_[i] = at::tensor(betas, at::kDouble);
    }
  }

  const double lambda_;
  const int64_t steps_;
  const std::vector<int64_t> milestones_;
  const bool is_reweighted_;
  const PruneTargets targets_;
  std::vector<torch::Tensor> betas_;  // a target: [tiles], or undefined: 1
  State restored_;
};

}  // namespace

double add_group_lasso(const torch::Tensor& weight, TileShape tile, double lambda,
                       const torch::Tensor& betas, torch::Tensor& gradient) {
  return weight.scalar_type() == at::kDouble
             ? add_typed<double>(weight, tile, lambda, betas, gradient)
             : add_typed<float>(weight, tile, lambda, betas, gradient);
}

std::unique_ptr<Restriction> make_group_lasso(const PruneTraining& options, int64_t steps,
                                              PruneTargets targets) {
  return std::make_unique<GroupLasso>(options, steps, std::move(targets));
}

}  // namespace tessera::training
