#include "tune/options.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tune/learning_rate.h"

namespace tessera {
namespace {

TuneOptions distil() {
  TuneOptions options{.data = {"a.txt"}};
  options.distil.teacher = "dense";
  return options;
}

std::string wrong_with(const TuneOptions& options) { return check(options).message(); }

TEST(TuneOptions, DefaultsAreRight) {
  EXPECT_EQ(wrong_with(distil()), "");
  EXPECT_EQ(wrong_with({.task = TuneTask::kCausalLm, .data = {"a.txt"}}), "");
}

TEST(TuneOptions, WhatIsWrongIsNamed) {
  const auto expect = [](auto change, const std::string& what) {
    TuneOptions options = distil();
    change(options);
    EXPECT_NE(wrong_with(options).find(what), std::string::npos) << wrong_with(options);
  };
  expect([](TuneOptions& o) { o.data = {}; }, "data file");
  expect([](TuneOptions& o) { o.lora = LoraOptions{.rank = 0}; }, "lora rank");
  expect([](TuneOptions& o) { o.lora = LoraOptions{.alpha = -1}; }, "lora alpha");
  expect([](TuneOptions& o) { o.lora = LoraOptions{.dropout = 1}; }, "lora dropout");
  expect(
      [](TuneOptions& o) {
        o.lora.emplace();
        o.prune.emplace();
      },
      "lora: expected a training that prunes nothing");
  expect(
      [](TuneOptions& o) {
        o.lora.emplace();
        o.train = {"query", "norm"};
      },
      "found norm");
  expect([](TuneOptions& o) { o.distil.teacher = ""; }, "teacher");
  expect([](TuneOptions& o) { o.task = TuneTask::kRegression; }, "found regression");
  expect([](TuneOptions& o) { o.steps = 0; }, "steps: expected a number from 1, found 0");
  expect([](TuneOptions& o) { o.accumulate = 0; }, "accumulate");
  expect([](TuneOptions& o) { o.checkpoint_every = 0; }, "checkpoint every");
  expect([](TuneOptions& o) { o.optimizer.learning_rate = std::nan(""); }, "learning rate");
  expect([](TuneOptions& o) { o.optimizer.learning_rate = -1; }, "learning rate");
  expect([](TuneOptions& o) { o.optimizer.warmup = 1.5; }, "warmup: expected a number from 0 to 1");
  expect([](TuneOptions& o) { o.optimizer.beta2 = 1; }, "beta2");
  expect([](TuneOptions& o) { o.dropout = 1; }, "dropout");
  expect([](TuneOptions& o) { o.masked_share = 0; }, "masked share");
  expect([](TuneOptions& o) { o.distil.temperature = 0; }, "temperature");
  expect([](TuneOptions& o) { o.patience = 1; }, "validate");
  expect(
      [](TuneOptions& o) {
        o.validate = {"b.txt"};
        o.prune = PruneTraining{};
      },
      "without pruning");
}

TEST(TuneOptions, ARunIsWhatItsResultDependsOn) {
  const TuneInputs inputs{.source = {{"model.safetensors", "1"}}, .data = {{"a.txt", "2"}}};
  const std::string run = run_text(distil(), inputs);
  const auto expect_equal = [&](auto change) {
    TuneOptions options = distil();
    change(options);
    EXPECT_EQ(run_text(options, inputs), run);
  };
  expect_equal([](TuneOptions& o) { o.threads = 7; });
  expect_equal([](TuneOptions& o) { o.checkpoint_every = 1; });
  expect_equal([](TuneOptions& o) { o.command = {"tessera"}; });
  expect_equal([](TuneOptions& o) { o.optimizer.learning_rate = 1e-3; });  // the usual one
  const auto expect_other = [&](auto change) {
    TuneOptions options = distil();
    change(options);
    EXPECT_NE(run_text(options, inputs), run);
  };
  expect_other([](TuneOptions& o) { o.seed = 1; });
  expect_other([](TuneOptions& o) { o.steps = 1; });
  expect_other([](TuneOptions& o) { o.dropout = 0.1; });
  expect_other([](TuneOptions& o) { o.train = {"ffn"}; });
  expect_other([](TuneOptions& o) { o.distil.hidden = 0; });
  expect_other([](TuneOptions& o) { o.prune = PruneTraining{}; });
  expect_other([](TuneOptions& o) { o.optimizer.decay = OptimizerOptions::Decay::kCosine; });
  EXPECT_NE(run_text(distil(), {.source = {{"model.safetensors", "3"}}, .data = inputs.data}), run);
  EXPECT_NE(run_text(distil(), {.source = inputs.source, .data = {{"a.txt", "3"}}}), run);
}

TEST(LearningRate, RisesAndFalls) {
  TuneOptions options{.steps = 100};
  options.optimizer = {.learning_rate = 2, .warmup = 0.1};
  EXPECT_DOUBLE_EQ(learning_rate(options, 0), 0.2);
  EXPECT_DOUBLE_EQ(learning_rate(options, 9), 2);
  EXPECT_DOUBLE_EQ(learning_rate(options, 10), 2);
  EXPECT_DOUBLE_EQ(learning_rate(options, 55), 1);
  EXPECT_NEAR(learning_rate(options, 99), 2.0 / 90, 1e-15);
  options.optimizer.decay = OptimizerOptions::Decay::kCosine;
  EXPECT_DOUBLE_EQ(learning_rate(options, 10), 2);
  EXPECT_DOUBLE_EQ(learning_rate(options, 55), 1);
  options.optimizer.decay = OptimizerOptions::Decay::kNone;
  EXPECT_DOUBLE_EQ(learning_rate(options, 99), 2);
  options.optimizer.warmup = 1;
  EXPECT_DOUBLE_EQ(learning_rate(options, 99), 2);
  options.optimizer.warmup = 0;
  EXPECT_DOUBLE_EQ(learning_rate(options, 0), 2);
}

TEST(LearningRate, ATaskHasAUsualOne) {
  TuneOptions options;
  EXPECT_EQ(peak_learning_rate(options), 1e-3);
  options.task = TuneTask::kClassification;
  EXPECT_EQ(peak_learning_rate(options), 3e-5);
  options.lora.emplace();
  EXPECT_EQ(peak_learning_rate(options), 5e-4);
  options.task = TuneTask::kDistil;
  EXPECT_EQ(peak_learning_rate(options), 1e-3);
  options.optimizer.learning_rate = 1;
  EXPECT_EQ(peak_learning_rate(options), 1);
}

}  // namespace
}  // namespace tessera
