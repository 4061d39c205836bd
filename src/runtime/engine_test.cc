#include "tessera/engine.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <numeric>
#include <set>

#include "runtime/engine_testing.h"
#include "runtime/testing.h"

namespace tessera {
namespace {

using testing::greedy_without_cache;
using testing::prompt_of;
using testing::tiny_llama;
using testing::tiny_model;

class EngineWith : public ::testing::TestWithParam<CacheType> {};
INSTANTIATE_TEST_SUITE_P(Caches, EngineWith,
                         ::testing::Values(CacheType::kF32, CacheType::kBF16, CacheType::kInt8),
                         [](const auto& info) { return std::string(name(info.param)); });

// Keys and values of a pass are rounded as those of the cache are.
TEST_P(EngineWith, CacheChangesNothing) {
  const auto model = tiny_model(1, GetParam());
  for (int32_t length : {1, 2, 63, 64, 65, 130}) {
    SCOPED_TRACE(length);
    const auto generation = generate(
        model, {.prompt_ids = prompt_of(length), .max_new_tokens = 20, .ignore_end = true});
    ASSERT_TRUE(generation.ok()) << generation.status().message();
    EXPECT_EQ(generation->ids, greedy_without_cache(*model, prompt_of(length), 20));
    EXPECT_EQ(generation->finished, FinishReason::kLength);
  }
}

// More keys than a member reads alone.
TEST_P(EngineWith, LongContextsGiveTheSameBitsOnEveryTeam) {
  const std::string folder =
      tiny_llama()
          .with("\"max_position_embeddings\": 200", "\"max_position_embeddings\": 4000")
          .write("long_context");
  std::vector<Generation> found;
  for (int threads : {1, 2, 3}) {
    const auto model = Model::load(folder, {.threads = threads, .cache = GetParam()});
    ASSERT_TRUE(model.ok()) << model.status().message();
    const auto generation = generate(*model, {.prompt_ids = prompt_of(1700),
                                              .max_new_tokens = 12,
                                              .ignore_end = true,
                                              .log_probabilities = true});
    ASSERT_TRUE(generation.ok()) << generation.status().message();
    if (threads == 1) {
      EXPECT_EQ(generation->ids, greedy_without_cache(**model, prompt_of(1700), 12));
    }
    found.push_back(*generation);
    EXPECT_EQ(found.front().ids, generation->ids);
    EXPECT_EQ(found.front().log_probabilities, generation->log_probabilities);
  }
}

TEST_P(EngineWith, BeamsShareTheCache) {
  const auto model = tiny_model(2, GetParam());
  const Request request{
      .prompt_ids = prompt_of(60), .max_new_tokens = 20, .beams = 4, .ignore_end = true};
  const auto beam = generate(model, request);
  ASSERT_TRUE(beam.ok()) << beam.status().message();
  // Teacher-forced without a cache, the continuation is as probable as the search says.
  Request scored = request;
  scored.log_probabilities = true;
  const auto found = generate(model, scored);
  ASSERT_TRUE(found.ok()) << found.status().message();
  EXPECT_EQ(found->ids, beam->ids);
  std::vector<int32_t> ids = prompt_of(60);
  ids.insert(ids.end(), found->ids.begin(), found->ids.end());
  const auto forward = model->forward({{ids, {}}});
  ASSERT_TRUE(forward.ok()) << forward.status().message();
  for (size_t i = 0; i < found->ids.size(); ++i) {
    const auto width = static_cast<size_t>(forward->logits_width);
    const float* row = forward->logits.data() + (59 + i) * width;
    const double sum = std::accumulate(
        row, row + width, 0.0, [](double all, float x) { return all + std::exp(double{x}); });
    const double expected = row[static_cast<size_t>(found->ids[i])] - std::log(sum);
    // The logarithm of the sum moves by as much as the logits.
    EXPECT_NEAR(found->log_probabilities[i], expected,
                2 * testing::regrouped_bound(static_cast<int64_t>(ids.size()), {row, width}))
        << i;
  }
}

TEST_P(EngineWith, RequestsTogetherGiveWhatTheyGiveAlone) {
  const auto model = tiny_model(2, GetParam());
  auto engine = Engine::create(model, {});
  ASSERT_TRUE(engine.ok());
  std::map<int64_t, std::vector<int32_t>> together, alone;
  const auto step = [&] {
    const auto events = (*engine)->step();
    ASSERT_TRUE(events.ok()) << events.status().message();
    for (const Event& event : *events) together[event.request].push_back(event.token);
  };
  // The third joins while the others are on their way.
  for (int32_t length : {5, 70, 12}) {
    const Request request{
        .prompt_ids = prompt_of(length), .max_new_tokens = 10 + length % 7, .ignore_end = true};
    const auto number = (*engine)->submit(request);
    ASSERT_TRUE(number.ok()) << number.status().message();
    alone[*number] = generate(model, request)->ids;
    step();
  }
  while (!(*engine)->idle()) step();
  EXPECT_EQ(together, alone);
  EXPECT_EQ((*engine)->cache_bytes_in_use(), 0);
}

TEST(Engine, ManyPromptsTakeSeveralPasses) {
  const auto model = tiny_model();
  auto engine = Engine::create(model, {.step_tokens = 4096});
  ASSERT_TRUE(engine.ok());
  std::vector<std::vector<int32_t>> together(15);
  for (int32_t i = 0; i < 15; ++i) {
    ASSERT_TRUE(
        (*engine)
            ->submit({.prompt_ids = prompt_of(180 + i), .max_new_tokens = 3, .ignore_end = true})
            .ok());
  }
  while (!(*engine)->idle()) {
    const auto events = (*engine)->step();
    ASSERT_TRUE(events.ok()) << events.status().message();
    ASSERT_EQ(events->size(), 15u);
    for (const Event& event : *events)
      together[static_cast<size_t>(event.request)].push_back(event.token);
  }
  for (int32_t i = 0; i < 15; ++i) {
    EXPECT_EQ(together[static_cast<size_t>(i)], greedy_without_cache(*model, prompt_of(180 + i), 3))
        << i;
  }
}

TEST(Engine, StopsAtAnEndToken) {
  const auto model = tiny_model();
  const auto free =
      generate(model, {.prompt_ids = {1, 2}, .max_new_tokens = 30, .ignore_end = true});
  ASSERT_TRUE(free.ok());
  const int32_t stop = free->ids[7];
  const auto stopped = generate(
      model, {.prompt_ids = {1, 2}, .max_new_tokens = 30, .stop_ids = {stop}, .ignore_end = true});
  ASSERT_TRUE(stopped.ok());
  EXPECT_EQ(stopped->finished, FinishReason::kEndToken);
  EXPECT_EQ(stopped->ids.back(), stop);
  EXPECT_LE(stopped->ids.size(), 8u);
}

TEST(Engine, CancelFreesTheCache) {
  const auto model = tiny_model();
  auto engine = Engine::create(model, {});
  ASSERT_TRUE(engine.ok());
  const auto number = (*engine)->submit(
      Request{.prompt_ids = {1, 2, 3}, .max_new_tokens = 100, .ignore_end = true});
  ASSERT_TRUE((*engine)->step().ok());
  EXPECT_GT((*engine)->cache_bytes_in_use(), 0);
  (*engine)->cancel(*number);
  const auto events = (*engine)->step();
  ASSERT_TRUE(events.ok());
  ASSERT_EQ(events->size(), 1u);
  EXPECT_EQ(events->front().finished, FinishReason::kCancelled);
  EXPECT_TRUE((*engine)->idle());
  EXPECT_EQ((*engine)->cache_bytes_in_use(), 0);
}

// A logit overflows for some prompts: their requests end, and nobody waits for events for ever.
TEST(Engine, WhoCannotGoOnEndsAndTheOthersGoOn) {
  testing::TinyCheckpoint tiny = testing::tiny_llama();
  tiny.firsts = {{"lm_head.weight", 3e38f}, {"model.norm.weight", 2.0f}};
  const auto loaded = Model::load(tiny.write("overflows"), {.threads = 1});
  ASSERT_TRUE(loaded.ok()) << loaded.status().message();
  const auto request = [](int32_t token) {
    return Request{.prompt_ids = {token}, .max_new_tokens = 1, .ignore_end = true};
  };
  std::optional<int32_t> good, bad;
  for (int32_t token = 0; token < 49; ++token)
    (generate(*loaded, request(token)).ok() ? good : bad) = token;
  ASSERT_TRUE(good && bad);
  for (const bool good_first : {true, false}) {
    auto engine = Engine::create(*loaded, {});
    ASSERT_TRUE(engine.ok());
    const auto one = (*engine)->submit(request(good_first ? *good : *bad));
    const auto other = (*engine)->submit(request(good_first ? *bad : *good));
    const auto events = (*engine)->step();
    ASSERT_TRUE(events.ok());
    EXPECT_TRUE((*engine)->idle());
    ASSERT_EQ(events->size(), 2u);
    for (const Event& event : *events) {
      const bool is_good = event.request == (good_first ? *one : *other);
      EXPECT_EQ(event.finished, is_good ? FinishReason::kLength : FinishReason::kFailed);
      EXPECT_EQ(event.status.ok(), is_good) << event.status.message();
    }
    EXPECT_EQ((*engine)->cache_bytes_in_use(), 0);
  }
}

TEST(Engine, WhoWantedNoMoreIsNotAskedAgain) {
  int calls = 0;
  const auto stopped = generate_sequences(tiny_model(),
                                          {.prompt_ids = {1, 2},
                                           .max_new_tokens = 20,
                                           .sampling = {.temperature = 1},
                                           .sequences = 4,
                                           .ignore_end = true},
                                          [&](const Event&) {
                                            ++calls;
                                            return false;
                                          });
  ASSERT_TRUE(stopped.ok());
  EXPECT_EQ(calls, 1);
  for (const Generation& each : *stopped) EXPECT_EQ(each.finished, FinishReason::kCancelled);
}

TEST(Engine, RefusesUpFrontWithBothNumbers) {
  const auto model = tiny_model();
  auto engine = Engine::create(model, {});
  ASSERT_TRUE(engine.ok());
  const auto message = [&](Request request) {
    return (*engine)->submit(std::move(request)).status().message();
  };
  const std::string context = message({.prompt_ids = prompt_of(150), .max_new_tokens = 52});
  EXPECT_NE(context.find("201"), std::string::npos) << context;
  EXPECT_NE(context.find("200"), std::string::npos) << context;
  EXPECT_TRUE((*engine)->submit({.prompt_ids = prompt_of(150), .max_new_tokens = 51}).ok());
  EXPECT_NE(message({.prompt_ids = {}, .max_new_tokens = 5}).find("none"), std::string::npos);
  EXPECT_NE(message({.prompt_ids = {50}, .max_new_tokens = 5}).find("found 50"), std::string::npos);
  EXPECT_NE(message({.prompt_ids = {1}, .max_new_tokens = 0}).find("found 0"), std::string::npos);
  EXPECT_NE(message({.prompt_ids = {1}, .sampling = {.temperature = -1}}).find("temperature"),
            std::string::npos);
  EXPECT_NE(
      message({.prompt_ids = {1}, .sampling = {.temperature = 1, .top_p = 1.5f}}).find("top_p"),
      std::string::npos);
}

TEST(Engine, RefusesWhatTheCacheCannotHold) {
  const auto model = tiny_model();
  auto engine = Engine::create(model, {.cache_bytes = 20000});
  ASSERT_TRUE(engine.ok());
  const auto refused = (*engine)->submit({.prompt_ids = {1}, .max_new_tokens = 150});
  // Waiting does not help.
  EXPECT_EQ(refused.status().code(), StatusCode::kInvalidInput);
  // It does for whatever fits alone.
  for (int i = 0; i < 20; ++i)
    EXPECT_TRUE((*engine)->submit({.prompt_ids = {1}, .max_new_tokens = 10}).ok());
}

TEST(Engine, RefusesToGenerateWithAnEncoder) {
  const auto model = Model::load(testing::tiny_bert().write("engine_bert"), {.threads = 1});
  ASSERT_TRUE(model.ok());
  auto engine = Engine::create(*model, {});
  ASSERT_TRUE(engine.ok());
  const auto refused = (*engine)->submit({.prompt_ids = {1}});
  EXPECT_EQ(refused.status().code(), StatusCode::kUnsupported);
  EXPECT_FALSE(Engine::create(*model, {.step_tokens = -1}).ok());
}

TEST(Engine, SameSeedSameTokens) {
  const auto model = tiny_model();
  const auto with_seed = [&](uint64_t seed) {
    return generate(model,
                    {.prompt_ids = {1, 2, 3},
                     .max_new_tokens = 40,
                     .sampling = {.temperature = 1, .top_k = 20, .top_p = 0.9f, .seed = seed},
                     .ignore_end = true})
        ->ids;
  };
  EXPECT_EQ(with_seed(5), with_seed(5));
  EXPECT_NE(with_seed(5), with_seed(6));
}

TEST(Engine, LogProbabilitiesAreThoseOfTheModel) {
  const auto model = tiny_model();
  Request request{.prompt_ids = prompt_of(5),
                  .max_new_tokens = 6,
                  .sampling = {.temperature = 1.5f, .top_k = 5, .repetition_penalty = 1.3f},
                  .ignore_end = true,
                  .log_probabilities = true};
  const auto generation = generate(model, request);
  ASSERT_TRUE(generation.ok()) << generation.status().message();
  ASSERT_EQ(generation->log_probabilities.size(), 6u);
  std::vector<int32_t> ids = request.prompt_ids;
  for (size_t i = 0; i < 6; ++i) {
    const auto logits = model->forward({{ids, {}}})->logits;
    const auto row = logits.end() - 50;
    double sum = 0;
    for (auto logit = row; logit != logits.end(); ++logit) sum += std::exp(double{*logit});
    const double expected = row[generation->ids[i]] - std::log(sum);
    // The logarithm of the sum moves by as much as the logits.
    EXPECT_NEAR(generation->log_probabilities[i], expected,
                2 * testing::regrouped_bound(static_cast<int64_t>(ids.size()), {&*row, 50}))
        << i;
    ids.push_back(generation->ids[i]);
  }
  request.log_probabilities = false;
  EXPECT_TRUE(generate(model, request)->log_probabilities.empty());
}

TEST(Engine, AHugePenaltyForbidsRepetition) {
  const auto generation = generate(tiny_model(), {.prompt_ids = {1, 2, 3},
                                                  .max_new_tokens = 40,
                                                  .sampling = {.repetition_penalty = 1e30f},
                                                  .ignore_end = true});
  ASSERT_TRUE(generation.ok()) << generation.status().message();
  std::set<int32_t> seen = {1, 2, 3};
  seen.insert(generation->ids.begin(), generation->ids.end());
  EXPECT_EQ(seen.size(), 43u);
}

}  // namespace
}  // namespace tessera
