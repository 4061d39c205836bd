#include "runtime/beam_search.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

namespace tessera {
namespace {

using Ids = std::vector<int32_t>;
// The probabilities of the next token behind an output.
using Language = std::function<std::vector<double>(const Ids&)>;

std::vector<BeamResult> search(const Language& language, const BeamSearch::Options& options,
                               int* steps = nullptr) {
  BeamSearch beams(options);
  std::vector<Ids> outputs = {{}};
  while (!outputs.empty()) {
    if (steps != nullptr) ++*steps;
    std::vector<std::vector<float>> logits;
    std::vector<BeamInput> inputs;
    for (const Ids& output : outputs) {
      logits.emplace_back();
      for (double share : language(output)) logits.back().push_back(std::log(share) + 3);
    }
    for (size_t i = 0; i < outputs.size(); ++i) inputs.push_back({logits[i], outputs[i]});
    const auto next = beams.next(inputs);
    EXPECT_TRUE(next.ok()) << next.status().message();
    std::vector<Ids> grown;
    for (const BeamStep& step : *next) {
      grown.push_back(outputs[static_cast<size_t>(step.parent)]);
      grown.back().push_back(step.token);
    }
    outputs = grown;
  }
  return beams.results();
}

// Greedy takes 0 (0.5) and then at best 0.4; by 1 a better pair is reached: 0.4 * 0.9.
std::vector<double> deceptive(const Ids& output) {
  if (output.empty()) return {0.5, 0.4, 0.1};
  if (output[0] == 0) return {0.3, 0.3, 0.4};
  return {0.05, 0.9, 0.05};
}

TEST(BeamSearch, FindsWhatGreedyMisses) {
  const auto one = search(deceptive, {.beams = 1, .max_new_tokens = 2});
  ASSERT_EQ(one.size(), 1u);
  EXPECT_EQ(one[0].ids, (Ids{0, 2}));
  const auto two = search(deceptive, {.beams = 2, .max_new_tokens = 2});
  ASSERT_EQ(two.size(), 2u);
  EXPECT_EQ(two[0].ids, (Ids{1, 1}));
  EXPECT_EQ(two[1].ids, (Ids{0, 2}));
  EXPECT_NEAR(two[0].score, std::log(0.4 * 0.9) / 2, 1e-6);
  EXPECT_NEAR(two[0].log_probabilities[0], std::log(0.4), 1e-6);
  EXPECT_NEAR(two[0].log_probabilities[1], std::log(0.9), 1e-6);
  EXPECT_EQ(two[0].finished, FinishReason::kLength);
}

TEST(BeamSearch, EndTokensFinishBeams) {
  // Token 2 ends. Per token, {0, 2} is worth ln(0.5 * 0.4) / 2 = -0.80, {1, 1, 1} at most
  // ln(0.4 * 0.9 * 0.9) / 3 = -0.38.
  int steps = 0;
  const auto found = search(deceptive, {.beams = 2, .max_new_tokens = 3, .end_ids = {2}}, &steps);
  ASSERT_EQ(found.size(), 2u);
  EXPECT_EQ(found[0].ids, (Ids{1, 1, 1}));
  EXPECT_EQ(found[0].finished, FinishReason::kLength);
  EXPECT_EQ(found[1].ids, (Ids{0, 2}));
  EXPECT_EQ(found[1].finished, FinishReason::kEndToken);
  EXPECT_NEAR(found[1].score, std::log(0.5 * 0.4) / 2, 1e-6);
  EXPECT_EQ(steps, 3);
}

TEST(BeamSearch, IsOverWhenNoBeamCanBecomeBetter) {
  const auto ending = [](const Ids&) { return std::vector<double>{0.05, 0.05, 0.9}; };
  int steps = 0;
  const auto found = search(ending, {.beams = 2, .max_new_tokens = 50, .end_ids = {2}}, &steps);
  // {2} and then {0, 2}; the running {0, 0} and {1, 0} are far behind.
  ASSERT_EQ(found.size(), 2u);
  EXPECT_EQ(found[0].ids, (Ids{2}));
  EXPECT_EQ(found[1].ids, (Ids{0, 2}));
  EXPECT_EQ(steps, 2);
}

TEST(BeamSearch, EqualScoresComeInTheOrderOfBeamAndToken) {
  const auto flat = [](const Ids&) { return std::vector<double>(5, 0.2); };
  const auto found = search(flat, {.beams = 3, .max_new_tokens = 2});
  ASSERT_EQ(found.size(), 3u);
  EXPECT_EQ(found[0].ids, (Ids{0, 0}));
  EXPECT_EQ(found[1].ids, (Ids{0, 1}));
  EXPECT_EQ(found[2].ids, (Ids{0, 2}));
}

TEST(BeamSearch, PenaltyActsOnLogProbabilities) {
  // ln(0.6) * 4 = -2.04 is less than ln(0.4) = -0.92; the log-probabilities told stay the model's.
  const auto same = [](const Ids&) { return std::vector<double>{0.6, 0.4}; };
  const auto found = search(same, {.beams = 1, .max_new_tokens = 2, .repetition_penalty = 4});
  EXPECT_EQ(found[0].ids, (Ids{0, 1}));
  EXPECT_NEAR(found[0].log_probabilities[1], std::log(0.4), 1e-6);
}

TEST(BeamSearch, FewerWhenTheVocabularyFormsNoMore) {
  const auto found = search(
      [](const Ids&) {
        return std::vector<double>{0.7, 0.3};
      },
      {.beams = 8, .max_new_tokens = 1});
  ASSERT_EQ(found.size(), 2u);
  BeamSearch beams({.beams = 2, .max_new_tokens = 2});
  const std::vector<float> bad = {1, NAN};
  EXPECT_FALSE(beams.next(std::vector<BeamInput>{{bad, {}}}).ok());
}

}  // namespace
}  // namespace tessera
