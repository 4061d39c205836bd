#include "tune/torch/unit_scores.h"

#include <ATen/ATen.h>

#include "compress/mask.h"
#include "tune/torch/tile_strips.h"

namespace tessera::training {
namespace {

constexpr const char* kMovement = "movement.";

class MagnitudeScores final : public UnitScores {
 public:
  explicit MagnitudeScores(const PruneTargets& targets) : targets_(targets) {}
  std::vector<double> of(const TrainedModel& model, size_t target) const override {
    return tile_scores(weight_of(targets_[target].in(model)), targets_[target].tile);
  }
  double dimension() const override { return 0.5; }

 private:
  const PruneTargets targets_;
};

class MovementScores final : public UnitScores {
 public:
  explicit MovementScores(const PruneTargets& targets) : targets_(targets) {}

  Status begin(const State& restored) override {
    sums_.clear();
    for (const PruneTarget& target : targets_) {
      TESSERA_ASSIGN_OR_RETURN(const torch::Tensor kept, find_state(restored, kMovement, target));
      sums_.push_back(kept.defined() ? kept.to(at::kDouble).clone()
                                     : at::zeros({target.tiles}, at::kDouble));
    }
    return {};
  }

  void observe(const TrainedModel& model) override {
    for (size_t i = 0; i < targets_.size(); ++i) {
      const torch::Tensor& value = targets_[i].in(model).value;
      if (value.grad().defined())
        add_movement(value, targets_[i].tile, value.grad().contiguous(), sums_[i]);
    }
  }

  std::vector<double> of(const TrainedModel&, size_t target) const override {
    const double* first = sums_[target].data_ptr<double>();
    return {first, first + sums_[target].numel()};
  }
  double dimension() const override { return 1; }

  void add_state(State& state) const override {
    for (size_t i = 0; i < targets_.size(); ++i)
      state[kMovement + targets_[i].name] = sums_[i].clone();
  }

 private:
  const PruneTargets targets_;
  std::vector<torch::Tensor> sums_;  // a target: [tiles] f64
};

template <typename T>
void add_typed(const torch::Tensor& weight, TileShape tile, const torch::Tensor& gradient,
               torch::Tensor& sums) {
  const TileStrips strips(tile, weight.size(0), weight.size(1));
  const int64_t cols = weight.size(1);
  const T* weights = weight.data_ptr<T>();
  const T* gradients = gradient.data_ptr<T>();
  double* target = sums.data_ptr<double>();
  strips.visit([&](const Strip& strip) {
    double* own = target + strip.first_tile;
    for (int64_t row = strip.row_begin; row < strip.row_end; ++row) {
      const T *w = weights + row * cols, *g = gradients + row * cols;
      for (int64_t tile_col = strip.tile_begin; tile_col < strip.tile_end; ++tile_col) {
        double sum = 0;
        const int64_t end = strips.end(tile_col);
#pragma omp simd reduction(+ : sum)
        for (int64_t i = strips.begin(tile_col); i < end; ++i)
          sum += static_cast<double>(w[i]) * static_cast<double>(g[i]);
        own[tile_col - strip.tile_begin] -= sum;
      }
    }
  });
}

}  // namespace

std::unique_ptr<UnitScores> make_magnitude_scores(const PruneTargets& targets) {
  return std::make_unique<MagnitudeScores>(targets);
}

void add_movement(const torch::Tensor& weight, TileShape tile, const torch::Tensor& gradient,
                  torch::Tensor& sums) {
  if (weight.scalar_type() == at::kDouble) {
    add_typed<double>(weight, tile, gradient, sums);
  } else {
    add_typed<float>(weight, tile, gradient, sums);
  }
}

std::unique_ptr<UnitScores> make_movement_scores(const PruneTargets& targets) {
  return std::make_unique<MovementScores>(targets);
}

}  // namespace tessera::training
