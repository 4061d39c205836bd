#include "tune/torch/pruner.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "compress/mask.h"
#include "compress/matrix.h"
#include "formats/tiles.h"
#include "tune/torch/prune_testing.h"

namespace tessera::training {
namespace {

using Method = PruneTraining::Method;

constexpr Method kMethods[] = {Method::kReweighted, Method::kGroupLasso, Method::kOneShot,
                               Method::kGradual, Method::kMovement};

int64_t pruned_tiles(const TileMask& mask) { return mask.tiles() - mask.kept_tiles(); }

// How far weights are from 0 that the mask does not keep.
float largest_pruned(const Parameter& parameter) {
  const TileMask& mask = *parameter.mask;
  const at::Tensor value = parameter.value.detach();
  float largest = 0;
  for (int64_t r = 0; r < mask.rows; ++r) {
    for (int64_t c = 0; c < mask.cols; ++c) {
      if (!mask.keeps(r / mask.tile.rows, c / mask.tile.cols))
        largest = std::max(largest, std::abs(value[r][c].item<float>()));
    }
  }
  return largest;
}

std::vector<TileMask> masks_of_equal_norms(PruneScope scope, double share) {
  TrainedModel model = toy_model();
  for (Parameter& parameter : model.parameters) parameter.value.detach().fill_(0.5f);
  PruneTraining options;
  options.units = {.share = share, .tile_rows = 4, .tile_cols = 4, .scope = scope};
  const auto targets = list_targets(options, model);
  EXPECT_TRUE(targets.ok());
  return choose_masks(options.units, *targets, model, *make_magnitude_scores(*targets), share);
}

TEST(ChooseMasks, TiesLoseExactCountsByIndex) {
  for (const double share : {0.0, 0.3, 0.5, 0.97}) {
    for (const TileMask& mask : masks_of_equal_norms(PruneScope::kMatrix, share)) {
      const int64_t count = std::llround(share * static_cast<double>(mask.tiles()));
      EXPECT_EQ(pruned_tiles(mask), count);
      EXPECT_EQ(std::count(mask.kept.begin(), mask.kept.begin() + count, 0), count);
    }
    for (const TileMask& mask : masks_of_equal_norms(PruneScope::kBalanced, share)) {
      EXPECT_EQ(pruned_tiles(mask), std::llround(share * static_cast<double>(mask.tiles())));
      const int64_t least = pruned_tiles(mask) / mask.tile_rows();
      for (int64_t row = 0; row < mask.tile_rows(); ++row) {
        const auto first = mask.kept.begin() + row * mask.tile_cols();
        const int64_t gone = std::count(first, first + mask.tile_cols(), 0);
        EXPECT_TRUE(gone == least || gone == least + 1) << gone;
      }
    }
  }
}

TEST(ChooseMasks, OneRankingLosesTheShareOfAllWeights) {
  int64_t gone = 0, weights = 0;
  for (const TileMask& mask : masks_of_equal_norms(PruneScope::kGlobal, 0.37)) {
    gone += mask.rows * mask.cols - mask.kept_weights();
    weights += mask.rows * mask.cols;
  }
  // All tiles of this model have 16 weights.
  EXPECT_EQ(gone, std::llround(0.37 * static_cast<double>(weights)) / 16 * 16);
}

class EveryMethod : public testing::TestWithParam<Method> {};
INSTANTIATE_TEST_SUITE_P(Pruner, EveryMethod, testing::ValuesIn(kMethods),
                         [](const auto& info) { return std::string(name(info.param)); });

TEST_P(EveryMethod, PrunesExactlyAndKeepsItAtZero) {
  TuneOptions options = pruning_options(GetParam(), 0.5, 12);
  options.prune->units.tile_rows = options.prune->units.tile_cols = 4;
  ToyTraining training(options);
  training.begin();
  training.run(0, 6);
  std::map<std::string, std::vector<uint8_t>> masks;
  for (const auto& [matrix, weight, bias] : training.model.matrices) {
    const Parameter& parameter = *weight;
    ASSERT_TRUE(parameter.mask.has_value());
    EXPECT_EQ(matrix.removed, Removed::kTiles);
    EXPECT_EQ(pruned_tiles(*parameter.mask), (parameter.mask->tiles() + 1) / 2);
    masks[parameter.name] = parameter.mask->kept;
  }
  const auto before = training.save();
  for (int64_t step = 6; step < 12; ++step) {
    training.step(step);
    for (const Parameter& parameter : training.model.parameters) {
      if (!parameter.mask.has_value()) continue;
      ASSERT_EQ(largest_pruned(parameter), 0) << parameter.name << " in step " << step;
      ASSERT_EQ(parameter.mask->kept, masks[parameter.name]);
    }
  }
  for (const Parameter& parameter : training.model.parameters)
    EXPECT_FALSE(at::equal(parameter.value, before.at("value." + parameter.name)));
}

TEST_P(EveryMethod, GoesOnBitForBit) {
  TuneOptions options = pruning_options(GetParam(), 0.5, 12);
  options.prune->units.tile_rows = 4;
  options.prune->units.tile_cols = 5;
  options.prune->cuts = 4;
  ToyTraining whole(options);
  whole.begin();
  std::vector<ToyTraining::State> states;
  for (int64_t step = 0; step < 12; ++step) {
    whole.step(step);
    states.push_back(whole.save());
  }
  for (size_t done = 1; done < states.size(); ++done) {
    ToyTraining taken_up(options, /*seed=*/2);  // whose own weights do not matter
    taken_up.take_up(states[done - 1]);
    ASSERT_TRUE(equal_bits(taken_up.save(), states[done - 1])) << done;
    taken_up.run(static_cast<int64_t>(done), 12);
    ASSERT_TRUE(equal_bits(taken_up.save(), states.back())) << done;
  }
}

TEST_P(EveryMethod, IsWrittenAsTiles) {
  TuneOptions options = pruning_options(GetParam(), 0.9, 4);  // smaller than dense
  options.prune->units.tile_rows = options.prune->units.tile_cols = 4;
  ToyTraining training(options);
  training.begin();
  training.run(0, 4);
  for (auto& [matrix, weight, bias] : training.model.matrices) {
    const Parameter& parameter = *weight;
    matrix.mask = parameter.mask;
    matrix.pruned = weight_of(parameter);
    const auto packed = pack(matrix);
    ASSERT_TRUE(packed.ok());
    const auto tiles = as<TileMatrix>(packed->matrix);
    ASSERT_TRUE(tiles.has_value()) << parameter.name;
    EXPECT_EQ(tiles->offsets[parameter.mask->tile_rows()], parameter.mask->kept_tiles());
  }
}

TEST(Pruner, CutsGrowByTheCubicSchedule) {
  ToyTraining training([] {
    TuneOptions options = pruning_options(Method::kGradual, 0.8, 20);
    options.prune->units.tile_rows = options.prune->units.tile_cols = 1;
    options.prune->cuts = 5;
    return options;
  }());
  training.begin();
  Parameter& parameter = find(training.model, "0.up");
  for (int64_t step = 0; step < 10; ++step) {
    training.step(step);
    const auto cut = static_cast<double>((step + 1) / 2);
    const double share = 0.8 * (1 - std::pow(1 - cut / 5, 3));
    EXPECT_EQ(parameter.mask.has_value() ? pruned_tiles(*parameter.mask) : 0,
              std::llround(share * 36 * 20))
        << step;
  }
}

TEST(Pruner, MovementIsTheSumOfWeightsTimesGradients) {
  at::manual_seed(8);
  const at::Tensor weight = at::randn({19, 83}), gradient = at::randn({19, 83});
  for (const TileShape tile : {TileShape{16, 16}, {16, 1}, {1, 83}, {19, 1}, {1, 1}}) {
    const TileMask grid = TileMask::all(tile, 19, 83);
    std::vector<double> expected(static_cast<size_t>(grid.tiles()), 0.25);
    double largest = 0;
    for (int64_t r = 0; r < 19; ++r) {
      for (int64_t c = 0; c < 83; ++c) {
        const double moved = weight[r][c].item<double>() * gradient[r][c].item<double>();
        expected[static_cast<size_t>(r / tile.rows * grid.tile_cols() + c / tile.cols)] -= moved;
        largest = std::max(largest, std::abs(moved));
      }
    }
    at::Tensor sums = at::full({grid.tiles()}, 0.25, at::kDouble);
    add_movement(weight, tile, gradient, sums);
    for (size_t i = 0; i < expected.size(); ++i)
      EXPECT_NEAR(sums.data_ptr<double>()[i], expected[i], 256 * 256 * 2.3e-16 * (largest + 1));
  }
}

TEST(Pruner, MovementPrunesWhatTheLossMovesTowardsZero) {
  TuneOptions options = pruning_options(Method::kMovement, 0.5, 2);
  options.prune->units.unit = PruneUnit::kOutputs;
  options.prune->matrices = {"ffn"};
  TrainedModel model = toy_model();
  const auto made = make_restrictions(options, model);
  ASSERT_TRUE(made.ok());
  Restriction& pruner = *made->front();
  ASSERT_TRUE(pruner.begin(model).ok());
  Parameter& up = find(model, "0.up");
  up.value.detach().fill_(1);
  up.value.detach().slice(0, 18, 36).fill_(0.1f);
  // Large rows shrink, small ones grow.
  up.value.mutable_grad() = at::ones({36, 20});
  up.value.mutable_grad().slice(0, 18, 36).fill_(-1);
  pruner.add_gradients(model, 0);
  ASSERT_TRUE(pruner.after_step(model, 0).ok());
  ASSERT_TRUE(up.mask.has_value());
  for (int64_t row = 0; row < 36; ++row) EXPECT_EQ(up.mask->keeps(row, 0), row >= 18) << row;
}

TuneOptions attention_aware(PruneOptions::PrecomputeVo precompute) {
  TuneOptions options = pruning_options(Method::kReweighted, 0.5, 4);
  options.prune->units.unit = PruneUnit::kAttentionAware;
  options.prune->units.precompute_vo = precompute;
  options.prune->units.tile_rows = options.prune->units.tile_cols = 4;
  return options;
}

TEST(Pruner, ValuesLoseFeaturesWithTheInputsThatReadThem) {
  ToyTraining training(attention_aware(PruneOptions::PrecomputeVo::kNo));
  training.begin();
  training.run(0, 2);
  TrainedModel& model = training.model;
  const TileMask& values = *find(model, "1.v").mask;
  const TileMask& output = *find(model, "1.o").mask;
  for (int64_t head = 0; head < 2; ++head)
    EXPECT_EQ(std::count(values.kept.begin() + head * 6, values.kept.begin() + head * 6 + 6, 0), 3);
  // Heads 0 and 1 read KV head 0, heads 2 and 3 the other one.
  for (int64_t i = 0; i < 24; ++i)
    EXPECT_EQ(output.keeps(0, i), values.keeps(i / 12 * 6 + i % 6, 0)) << i;
  EXPECT_EQ(find(model, "1.q").mask->tile.rows, 4);
  EXPECT_EQ(pruned_tiles(*find(model, "1.q").mask), 15);
  training.run(2, 4);
  EXPECT_EQ(largest_pruned(find(model, "1.v")), 0);
  EXPECT_EQ(largest_pruned(find(model, "1.o")), 0);
}

TEST(Pruner, BiasesOfLostFeaturesGoOnInTheOutput) {
  TuneOptions options = attention_aware(PruneOptions::PrecomputeVo::kNo);
  options.prune->method = Method::kOneShot;
  ToyTraining training(options);
  const auto whole = training.save();
  training.begin();
  const TileMask& kept = *find(training.model, "0.o").mask;
  const at::Tensor bias = find(training.model, "0.o.bias").value;
  const at::Tensor weight = whole.at("value.0.o"), from = whole.at("value.0.v.bias");
  for (int64_t o = 0; o < 20; ++o) {
    double expected = whole.at("value.0.o.bias")[o].item<double>(), size = std::abs(expected);
    for (int64_t i = 0; i < 24; ++i) {
      const double term = weight[o][i].item<double>() * from[i / 12 * 6 + i % 6].item<double>();
      if (!kept.keeps(0, i)) expected += term;
      size += std::abs(term);
    }
    EXPECT_NEAR(bias[o].item<double>(), expected, 2 * 6e-8 * size) << o;
  }
}

TEST(Pruner, PrecomputedValuesStayAndOutputsGo) {
  ToyTraining training(attention_aware(PruneOptions::PrecomputeVo::kYes));
  training.begin();
  training.run(0, 4);
  EXPECT_FALSE(find(training.model, "0.v").mask.has_value());
  const TileMask& output = *find(training.model, "0.o").mask;
  EXPECT_EQ(output.tile.rows, 1);
  EXPECT_EQ(output.tile.cols, 24);
  EXPECT_EQ(pruned_tiles(output), 10);
  EXPECT_EQ(find(training.model, "0.k").mask->tile.cols, 4);
  for (const auto& [matrix, weight, bias] : training.model.matrices) {
    const Role role = matrix.item.role;
    EXPECT_EQ(matrix.removed, role == Role::kValue             ? Removed::kNothing
                              : role == Role::kAttentionOutput ? Removed::kOutputs
                                                               : Removed::kTiles);
  }
}

TEST(Pruner, WhatWasPrunedStaysPruned) {
  TuneOptions options = pruning_options(Method::kOneShot, 0.25, 4);
  options.prune->units.tile_rows = options.prune->units.tile_cols = 4;
  TrainedModel model = toy_model();
  Parameter& up = find(model, "0.up");
  up.mask = TileMask::all({4, 4}, 36, 20);
  std::fill(up.mask->kept.end() - 15, up.mask->kept.end(), uint8_t{0});
  const TileMask before = *up.mask;
  const auto made = make_restrictions(options, model);
  ASSERT_TRUE(made.ok()) << made.status().message();
  ASSERT_TRUE(made->front()->begin(model).ok());
  EXPECT_EQ(up.mask->kept, before.kept);  // a third: more than is asked for
  EXPECT_EQ(pruned_tiles(*find(model, "1.up").mask), 11);
}

struct Wrong {
  const char* what;
  void (*spoil)(PruneTraining& options, TrainedModel& model);
  const char* found;
};
constexpr Wrong kWrong[] = {
    {"share", [](PruneTraining& o, TrainedModel&) { o.units.share = 1; }, "share"},
    {"lambda", [](PruneTraining& o, TrainedModel&) { o.lambda = -1; }, "lambda"},
    {"phase", [](PruneTraining& o, TrainedModel&) { o.phase = 1.5; }, "phase"},
    {"cuts", [](PruneTraining& o, TrainedModel&) { o.cuts = 0; }, "cuts"},
    {"order",
     [](PruneTraining& o, TrainedModel&) {
       o.milestones = {3, 3};
     },
     "ascending"},
    {"outside",
     [](PruneTraining& o, TrainedModel&) {
       o.milestones = {3, 10};
     },
     "from 1 to 9"},
    {"method",
     [](PruneTraining& o, TrainedModel&) {
       o.milestones = {3};
       o.method = Method::kGradual;
     },
     "found them with gradual"},
    {"unseen",
     [](PruneTraining& o, TrainedModel&) {
       o.method = Method::kMovement;
       o.phase = 0;
     },
     "at least one step"},
    {"score", [](PruneTraining& o, TrainedModel&) { o.units.score = PruneScore::kCalibrated; },
     "magnitude"},
    {"allocated", [](PruneTraining& o, TrainedModel&) { o.units.scope = PruneScope::kAllocated; },
     "allocated"},
    {"tile", [](PruneTraining& o, TrainedModel&) { o.units.tile_rows = 0; }, "tile"},
    {"pair",
     [](PruneTraining& o, TrainedModel&) {
       o.units.unit = PruneUnit::kAttentionAware;
       o.matrices = {"value"};
     },
     "both value and attention_output"},
    {"matrices", [](PruneTraining& o, TrainedModel&) { o.matrices = {"head"}; }, "matrices"},
    {"layers", [](PruneTraining& o, TrainedModel&) { o.layers = {2}; }, "layers"},
    {"nothing",
     [](PruneTraining& o, TrainedModel&) {
       o.units.unit = PruneUnit::kAttentionAware;
       o.units.precompute_vo = PruneOptions::PrecomputeVo::kYes;
       o.matrices = {"value"};
     },
     "found none"},
    {"untrained",
     [](PruneTraining&, TrainedModel& model) { find(model, "1.o").value.set_requires_grad(false); },
     "\"1.o\": expected a matrix that is trained"},
    {"mask",
     [](PruneTraining&, TrainedModel& model) {
       find(model, "0.q").mask = TileMask::all({1, 1}, 24, 20);
     },
     "found one that has lost some of 1 x 1"},
};

TEST(Pruner, OptionsThatMakeNoSenseAreNamed) {
  for (const Wrong& wrong : kWrong) {
    TrainedModel model = toy_model();
    TuneOptions options = pruning_options(Method::kReweighted, 0.5, 20);
    wrong.spoil(*options.prune, model);
    const auto made = make_restrictions(options, model);
    ASSERT_FALSE(made.ok()) << wrong.what;
    EXPECT_NE(made.status().message().find(wrong.found), std::string::npos)
        << made.status().message();
  }
}

TEST(Pruner, StateOfAnotherModelIsRefused) {
  TuneOptions options = pruning_options(Method::kOneShot, 0.5, 4);
  ToyTraining training(options);
  training.begin();
  auto state = training.save();
  state["pruning.mask.0.up"] = at::ones({1}, at::kByte);
  ToyTraining other(options);
  ASSERT_TRUE(other.restrictions[0]->restore(state).ok());
  const Status status = other.restrictions[0]->begin(other.model);
  ASSERT_FALSE(status.ok());
  EXPECT_NE(status.message().find("one a tile, found 1"), std::string::npos) << status.message();
}

}  // namespace
}  // namespace tessera::training
