#include <gtest/gtest.h>

#include <fstream>
#include <map>

#include "runtime/beam_search.h"
#include "runtime/engine_testing.h"
#include "runtime/testing.h"
#include "tessera/engine.h"

namespace tessera {
namespace {

using testing::greedy_without_cache;
using testing::prompt_of;
using testing::tiny_llama;
using testing::tiny_model;

// Token i is the character 'A' + i.
std::shared_ptr<Model> tiny_model_with_text() {
  static const std::string folder = [] {
    std::string vocabulary;
    for (int i = 0; i < 50; ++i) {
      // Neither quotation mark nor backslash from here on.
      const std::string character(1, static_cast<char>(i < 27 ? 'A' + i : 'B' + i));
      vocabulary += (i > 0 ? "," : "") + ("\"" + character + "\":") + std::to_string(i);
    }
    std::string made = tiny_llama().write("engine_text");
    std::ofstream(made + "/tokenizer.json")
        << R"({"version": "1.0", "added_tokens": [], "normalizer": null, "post_processor": null,
              "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false},
              "decoder": {"type": "ByteLevel"},
              "model": {"type": "BPE", "merges": [], "vocab": {)"
        << vocabulary << "}}}";
    return made;
  }();
  auto model = Model::load(folder, {.threads = 1});
  EXPECT_TRUE(model.ok()) << model.status().message();
  return *model;
}

TEST(Engine, StopStringsEndTheTextBeforeThem) {
  const auto model = tiny_model_with_text();
  const Request free{.prompt_ids = {1, 2}, .max_new_tokens = 30, .ignore_end = true};
  const auto whole = generate(model, free);
  ASSERT_TRUE(whole.ok()) << whole.status().message();
  ASSERT_EQ(whole->text.size(), 30u);
  for (size_t at : {0u, 7u, 27u}) {
    SCOPED_TRACE(at);
    Request request = free;
    request.stop_strings = {"no such text", whole->text.substr(at, 3)};
    const size_t first = whole->text.find(request.stop_strings[1]);
    std::string streamed;
    const auto stopped = generate(model, request, [&](const Event& event) {
      streamed += event.text;
      // Nothing that would have to be taken back.
      EXPECT_EQ(whole->text.substr(0, first).substr(0, streamed.size()), streamed);
      return true;
    });
    ASSERT_TRUE(stopped.ok()) << stopped.status().message();
    EXPECT_EQ(stopped->text, whole->text.substr(0, first));
    EXPECT_EQ(streamed, stopped->text);
    EXPECT_EQ(stopped->ids.size(), first + 3);
    EXPECT_EQ(stopped->finished, FinishReason::kStopString);
  }
  // What only began is text after all.
  Request request = free;
  request.stop_strings = {whole->text.substr(28) + "?"};
  const auto unstopped = generate(model, request);
  EXPECT_EQ(unstopped->text, whole->text);
  EXPECT_EQ(unstopped->finished, FinishReason::kLength);
}

TEST(Engine, SequencesShareThePromptAndDrawAsAlone) {
  const auto model = tiny_model();
  for (int32_t length : {3, 64, 100}) {
    SCOPED_TRACE(length);
    Request request{.prompt_ids = prompt_of(length),
                    .max_new_tokens = 40,
                    .sampling = {.temperature = 1, .top_p = 0.95f, .seed = 11},
                    .sequences = 3,
                    .stop_ids = {4, 9},
                    .ignore_end = true};
    const auto together = generate_sequences(model, request);
    ASSERT_TRUE(together.ok()) << together.status().message();
    ASSERT_EQ(together->size(), 3u);
    request.sequences = 1;
    for (const Generation& generation : *together) {
      const auto alone = generate(model, request);
      EXPECT_EQ(generation.ids, alone->ids);
      EXPECT_EQ(generation.finished, alone->finished);
      ++request.sampling.seed;
    }
    EXPECT_NE((*together)[0].ids, (*together)[1].ids);
  }
}

TEST(Engine, SequencesHoldThePromptOnce) {
  const auto model = tiny_model();
  auto engine = Engine::create(model, {});
  ASSERT_TRUE(engine.ok());
  const auto one = (*engine)->submit({.prompt_ids = prompt_of(130), .max_new_tokens = 9});
  ASSERT_TRUE(one.ok() && (*engine)->step().ok());
  const int64_t three_pages = (*engine)->cache_bytes_in_use();
  (*engine)->cancel(*one);
  ASSERT_TRUE((*engine)->step().ok());
  const auto four = (*engine)->submit({.prompt_ids = prompt_of(130),
                                       .max_new_tokens = 9,
                                       .sampling = {.temperature = 1},
                                       .sequences = 4,
                                       .ignore_end = true});
  ASSERT_TRUE(four.ok() && (*engine)->step().ok());
  EXPECT_EQ((*engine)->cache_bytes_in_use(), three_pages);
  ASSERT_TRUE((*engine)->step().ok());
  EXPECT_EQ((*engine)->cache_bytes_in_use(), three_pages / 3 * (2 + 4));
  (*engine)->cancel(*four);
  const auto events = (*engine)->step();
  ASSERT_TRUE(events.ok());
  ASSERT_EQ(events->size(), 4u);
  for (int32_t i = 0; i < 4; ++i) {
    EXPECT_EQ((*events)[static_cast<size_t>(i)].sequence, i);
    EXPECT_EQ((*events)[static_cast<size_t>(i)].finished, FinishReason::kCancelled);
  }
  EXPECT_EQ((*engine)->cache_bytes_in_use(), 0);
}

// A beam search without a cache: every beam anew in every step.
std::vector<BeamResult> beams_without_cache(Model& model, const std::vector<int32_t>& prompt,
                                            const BeamSearch::Options& options) {
  BeamSearch search(options);
  std::vector<std::vector<int32_t>> beams = {prompt};
  while (!beams.empty()) {
    std::vector<std::vector<float>> logits;
    for (const auto& beam : beams) {
      const auto all = model.forward({{beam, {}}})->logits;
      logits.emplace_back(all.end() - 50, all.end());
    }
    std::vector<BeamInput> inputs;
    for (size_t i = 0; i < beams.size(); ++i) inputs.push_back({logits[i], beams[i]});
    std::vector<std::vector<int32_t>> next;
    const auto steps = search.next(inputs);
    for (const BeamStep& step : *steps) {
      next.push_back(beams[static_cast<size_t>(step.parent)]);
      next.back().push_back(step.token);
    }
    beams = next;
  }
  return search.results();
}

TEST(Engine, BeamsAreThoseOfASearchWithoutCache) {
  const auto model = tiny_model(2);
  auto engine = Engine::create(model, {});
  ASSERT_TRUE(engine.ok());
  std::map<std::pair<int64_t, int32_t>, std::vector<int32_t>> expected, found;
  std::map<std::pair<int64_t, int32_t>, FinishReason> expected_end, found_end;
  for (int32_t length : {1, 62, 64, 65, 120}) {
    const Request request{.prompt_ids = prompt_of(length),
                          .max_new_tokens = 12,
                          .sampling = {.repetition_penalty = 1.2f},
                          .sequences = 2,
                          .beams = 4,
                          .stop_ids = {7, 30},
                          .ignore_end = true};
    const auto number = (*engine)->submit(request);
    ASSERT_TRUE(number.ok()) << number.status().message();
    const auto results = beams_without_cache(
        *model, request.prompt_ids,
        {.beams = 4, .max_new_tokens = 12, .repetition_penalty = 1.2f, .end_ids = {7, 30}});
    for (int32_t rank = 0; rank < 2; ++rank) {
      expected[{*number, rank}] = results[static_cast<size_t>(rank)].ids;
      expected_end[{*number, rank}] = results[static_cast<size_t>(rank)].finished;
    }
  }
  const auto greedy =
      (*engine)->submit({.prompt_ids = {5, 6}, .max_new_tokens = 9, .ignore_end = true});
  expected[{*greedy, 0}] = greedy_without_cache(*model, {5, 6}, 9);
  expected_end[{*greedy, 0}] = FinishReason::kLength;
  while (!(*engine)->idle()) {
    const auto events = (*engine)->step();
    ASSERT_TRUE(events.ok()) << events.status().message();
    for (const Event& event : *events) {
      found[{event.request, event.sequence}].push_back(event.token);
      found_end[{event.request, event.sequence}] = event.finished;
    }
  }
  EXPECT_EQ(found, expected);
  EXPECT_EQ(found_end, expected_end);
  EXPECT_EQ((*engine)->cache_bytes_in_use(), 0);
}

TEST(Engine, ACancelledSearchGivesItsCacheBack) {
  const auto model = tiny_model();
  auto engine = Engine::create(model, {});
  ASSERT_TRUE(engine.ok());
  const auto number =
      (*engine)->submit({.prompt_ids = {1}, .sequences = 2, .beams = 3, .ignore_end = true});
  ASSERT_TRUE(number.ok());
  for (int i = 0; i < 3; ++i) EXPECT_TRUE((*engine)->step()->empty());
  (*engine)->cancel(*number);
  EXPECT_EQ((*engine)->step()->size(), 2u);
  EXPECT_TRUE((*engine)->idle());
  EXPECT_EQ((*engine)->cache_bytes_in_use(), 0);
}

TEST(Engine, RefusesOptionsThatDoNotGoTogether) {
  const auto model = tiny_model();
  const auto message = [&](const Request& request) {
    return generate_sequences(model, request).status().message();
  };
  EXPECT_EQ(message({.prompt_ids = {1}, .beams = 0}), "beams: expected 1 to 1024, found 0");
  EXPECT_EQ(message({.prompt_ids = {1}, .sequences = 2000000000}),
            "sequences: expected 1 to 1024, found 2000000000");
  EXPECT_EQ(message({.prompt_ids = {1}, .sequences = 2}),
            "sequences: expected 1, since greedy ones would be equal, found 2");
  EXPECT_EQ(message({.prompt_ids = {1}, .sequences = 3, .beams = 2}),
            "sequences: expected at most 2, one a beam, found 3");
  EXPECT_NE(
      message({.prompt_ids = {1}, .sampling = {.temperature = 1}, .beams = 2}).find("2 beams at 1"),
      std::string::npos);
  EXPECT_NE(message({.prompt_ids = {1}, .beams = 2, .stop_strings = {"a"}}).find("stop strings"),
            std::string::npos);
  EXPECT_NE(message({.prompt_ids = {1}, .stop_strings = {"a"}}).find("no tokenizer"),
            std::string::npos);
  EXPECT_NE(message({.prompt_ids = {1}, .stop_strings = {""}}).find("empty"), std::string::npos);
  EXPECT_NE(generate(model, {.prompt_ids = {1}, .sampling = {.temperature = 1}, .sequences = 2})
                .status()
                .message()
                .find("generate_sequences"),
            std::string::npos);
}

TEST(Engine, CountsTheCacheOfEverySequence) {
  const auto model = tiny_model();
  auto engine = Engine::create(model, {.cache_bytes = 20000});
  ASSERT_TRUE(engine.ok());
  Request request{.prompt_ids = {1}, .max_new_tokens = 10, .beams = 64};
  EXPECT_EQ((*engine)->submit(request).status().code(), StatusCode::kInvalidInput);
  request.beams = 1;
  EXPECT_TRUE((*engine)->submit(request).ok());
}

}  // namespace
}  // namespace tessera
