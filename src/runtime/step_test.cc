// What an engine does when there is more than it can do at once.
#include <gtest/gtest.h>

#include <map>
#include <thread>

#include "runtime/engine_state.h"
#include "runtime/model_testing.h"
#include "runtime/testing.h"

namespace tessera {
namespace {

using testing::engine_of;
using testing::tiny_llama;

using Outputs = std::map<std::pair<int64_t, int32_t>, std::vector<int32_t>>;

std::string long_llama() {
  static const std::string folder =
      tiny_llama()
          .with("\"max_position_embeddings\": 200", "\"max_position_embeddings\": 4000")
          .write("step");
  return folder;
}

std::shared_ptr<Model> load(const std::string& folder, int threads = 1) {
  return testing::load(folder, {.threads = threads});
}

Request request_of(int32_t length, int32_t tokens, int32_t first = 3) {
  Request request{.max_new_tokens = tokens, .ignore_end = true};
  for (int32_t i = 0; i < length; ++i) request.prompt_ids.push_back((11 * i + first) % 49);
  return request;
}

void add(const std::vector<Event>& events, Outputs& outputs) {
  for (const Event& event : events) {
    EXPECT_TRUE(event.status.ok()) << event.status.message();
    outputs[{event.request, event.sequence}].push_back(event.token);
  }
}

Outputs run(Engine& engine, const std::vector<Request>& requests) {
  for (const Request& request : requests) EXPECT_TRUE(engine.submit(request).ok());
  Outputs outputs;
  while (!engine.idle()) {
    const auto events = engine.step();
    EXPECT_TRUE(events.ok()) << events.status().message();
    if (!events.ok()) break;
    add(*events, outputs);
  }
  EXPECT_EQ(engine.cache_bytes_in_use(), 0);
  return outputs;
}

// Counts the rows of every pass of an engine.
std::shared_ptr<std::vector<int64_t>> watch(Engine& engine) {
  auto rows = std::make_shared<std::vector<int64_t>>();
  EngineState& state = EngineAccess::state(engine);
  state.forward = [rows, run = state.forward](const ForwardInput& input, ForwardOutput& output) {
    rows->push_back(input.layout->rows());
    return run(input, output);
  };
  return rows;
}

TEST(Step, ALongPromptStopsNobody) {
  const auto model = load(long_llama());
  const auto engine = engine_of(model);
  const auto rows = watch(*engine);
  const auto stream = engine->submit(request_of(5, 400));
  ASSERT_TRUE(stream.ok() && engine->step().ok());
  const auto prompt = engine->submit(request_of(2000, 1));
  ASSERT_TRUE(prompt.ok());
  rows->clear();
  int steps = 0;
  while (engine->prompt_tokens_left(*prompt) > 0 || steps == 0) {
    const auto events = engine->step();
    ASSERT_TRUE(events.ok());
    ASSERT_FALSE(events->empty());
    // A token of the stream in every step.
    EXPECT_EQ(events->front().request, *stream);
    ++steps;
  }
  EXPECT_EQ(steps, (2000 + Engine::kStepTokens - 2) / (Engine::kStepTokens - 1));
  for (const int64_t each : *rows) EXPECT_LE(each, Engine::kStepTokens);
}

TEST(Step, PiecesOfAPromptGiveWhatTheWholeGives) {
  const auto model = load(long_llama());
  const std::vector<Request> requests = {request_of(70, 60), request_of(700, 8),
                                         request_of(300, 8, 5)};
  const Outputs whole = run(*engine_of(model, {.step_tokens = 4096}), requests);
  for (const int32_t tokens : {1, 7, 64})
    EXPECT_EQ(run(*engine_of(model, {.step_tokens = tokens}), requests), whole) << tokens;
}

TEST(Step, CancelDuringALongPromptAndInTheQueue) {
  const auto engine = engine_of(load(long_llama()), {.running_requests = 1});
  const auto prompt = engine->submit(request_of(2000, 5));
  const auto queued = engine->submit(request_of(5, 5));
  ASSERT_TRUE(engine->step().ok());
  EXPECT_EQ(engine->prompt_tokens_left(*prompt), 2000 - 512);
  EXPECT_EQ(engine->prompt_tokens_left(*queued), 5);
  EXPECT_GT(engine->cache_bytes_in_use(), 0);
  engine->cancel(*prompt);
  engine->cancel(*queued);
  const auto events = engine->step();
  ASSERT_TRUE(events.ok());
  ASSERT_EQ(events->size(), 2u);
  for (const Event& event : *events) EXPECT_EQ(event.finished, FinishReason::kCancelled);
  EXPECT_TRUE(engine->idle());
  EXPECT_EQ(engine->cache_bytes_in_use(), 0);
}

TEST(Step, WhoIsPreemptedGivesTheSame) {
  const auto model = load(long_llama(), 2);
  std::vector<Request> requests;
  for (int32_t i = 0; i < 6; ++i) {
    requests.push_back(request_of(20 + 9 * i, 150 - 11 * i, i));
    requests.back().log_probabilities = true;
    if (i % 2 == 1) requests.back().sampling = {.temperature = 1, .seed = static_cast<uint64_t>(i)};
    if (i == 3) requests.back().sequences = 3;
    if (i == 4) requests.back().beams = 3;
  }
  const auto roomy = engine_of(model);
  const auto roomy_rows = watch(*roomy);
  const Outputs expected = run(*roomy, requests);
  // What the largest needs alone, and a little more.
  const int64_t page = EngineAccess::state(*roomy).pool.page_bytes();
  for (const int64_t pages : {2 * 9, 2 * 12}) {
    const auto tight = engine_of(model, {.cache_bytes = pages * page});
    const auto rows = watch(*tight);
    EXPECT_EQ(run(*tight, requests), expected);
    const auto sum = [](const auto& all) {
      int64_t total = 0;
      for (const int64_t each : *all) total += each;
      return total;
    };
    EXPECT_GT(sum(rows), sum(roomy_rows)) << "nobody was preempted";
  }
}

TEST(Step, APassThatFailsEndsItsRequestAndTheOthersGoOn) {
  const auto model = load(long_llama());
  const std::vector<Request> requests = {request_of(5, 20), request_of(600, 3, 1),
                                         request_of(30, 20, 7)};
  const Outputs expected = run(*engine_of(model), requests);
  const auto engine = engine_of(model);
  EngineState& state = EngineAccess::state(*engine);
  // Fails where the second one's prompt comes to position 512, having entered some positions.
  state.forward = [run = state.forward](const ForwardInput& input, ForwardOutput& output) {
    const auto& positions = input.layout->positions;
    if (std::find(positions.begin(), positions.end(), 512) == positions.end())
      return run(input, output);
    for (PageTable* table : input.tables) table->positions.push_back(512);
    return out_of_memory("no room for position 512");
  };
  for (const Request& request : requests) ASSERT_TRUE(engine->submit(request).ok());
  Outputs found;
  int failed = 0;
  while (!engine->idle()) {
    const auto events = engine->step();
    ASSERT_TRUE(events.ok()) << events.status().message();
    for (const Event& event : *events) {
      if (event.finished != FinishReason::kFailed) {
        found[{event.request, event.sequence}].push_back(event.token);
        continue;
      }
      ++failed;
      EXPECT_EQ(event.request, 1);
      EXPECT_EQ(event.status.code(), StatusCode::kOutOfMemory);
      EXPECT_EQ(event.status.message(), "no room for position 512");
    }
  }
  EXPECT_EQ(failed, 1);
  EXPECT_EQ(found.at({0, 0}), expected.at({0, 0}));
  EXPECT_EQ(found.at({2, 0}), expected.at({2, 0}));
  EXPECT_FALSE(found.contains({1, 0}));
  EXPECT_EQ(engine->cache_bytes_in_use(), 0);
}

TEST(Step, TwoEnginesShareAModel) {
  const auto model = load(long_llama(), 2);
  std::vector<Request> requests = {request_of(90, 30), request_of(40, 40, 9)};
  requests[1].sampling = {.temperature = 1, .seed = 4};
  requests[1].sequences = 3;
  const Outputs expected = run(*engine_of(model), requests);
  Outputs found[2];
  std::vector<std::thread> threads;
  for (Outputs& each : found)
    threads.emplace_back([&] { each = run(*engine_of(model), requests); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(found[0], expected);
  EXPECT_EQ(found[1], expected);
}

TEST(Step, SubmitAndCancelFromSeveralThreads) {
  const auto model = load(long_llama());
  const Outputs expected = run(*engine_of(model), {request_of(9, 6)});
  const auto engine = engine_of(model);
  constexpr int kThreads = 4, kEach = 10;
  std::atomic<int> left = kThreads;
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      for (int j = 0; j < kEach; ++j) {
        const auto number = engine->submit(request_of(9, 6));
        ASSERT_TRUE(number.ok());
        if (i == 0) engine->cancel(*number);
      }
      --left;
    });
  }
  Outputs found;
  int ended = 0, cancelled = 0;
  while (left > 0 || !engine->idle()) {
    const auto events = engine->step();
    ASSERT_TRUE(events.ok());
    for (const Event& event : *events) {
      ended += event.finished != FinishReason::kNone ? 1 : 0;
      if (event.finished == FinishReason::kCancelled) {
        ++cancelled;
      } else {
        found[{event.request, 0}].push_back(event.token);
      }
    }
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(ended, kThreads * kEach);
  EXPECT_LE(cancelled, kEach);
  int whole = 0;
  for (const auto& [key, ids] : found) whole += ids == expected.at({0, 0}) ? 1 : 0;
  EXPECT_EQ(whole, kThreads * kEach - cancelled);
}

// Draws are dealt over the team.
TEST(Step, DrawsDependOnNobodysThread) {
  std::vector<Request> requests;
  for (int32_t i = 0; i < 5; ++i) {
    requests.push_back(request_of(10, 30, i));
    requests.back().sampling = {.temperature = 1, .top_p = 0.9f, .seed = static_cast<uint64_t>(i)};
    requests.back().sequences = 1 + i;
  }
  const Outputs expected = run(*engine_of(load(long_llama(), 1)), requests);
  for (const int threads : {2, 3})
    EXPECT_EQ(run(*engine_of(load(long_llama(), threads)), requests), expected) << threads;
}

TEST(Step, WindowsGivePagesBack) {
  const std::string folder =
      tiny_llama()
          .with("\"model_type\": \"llama\"", "\"model_type\": \"mistral\", \"sliding_window\": 100")
          .with("LlamaForCausalLM", "MistralForCausalLM")
          .with("\"max_position_embeddings\": 200", "\"max_position_embeddings\": 4000")
          .write("step_windows");
  const auto model = load(folder);
  const Request request = request_of(1500, 300);
  // Nothing is given back in a pass without a cache.
  std::vector<int32_t> ids = request.prompt_ids;
  const auto engine = engine_of(model);
  ASSERT_TRUE(engine->submit(request).ok());
  const int64_t pages_of_layer = 2;
  const int64_t page = EngineAccess::state(*engine).pool.page_bytes();
  int64_t most_in_prompt = 0, most_in_decoding = 0;
  while (!engine->idle()) {
    const auto events = engine->step();
    ASSERT_TRUE(events.ok());
    add(*events, *std::make_unique<Outputs>());
    for (const Event& event : *events) ids.push_back(event.token);
    const bool decodes = ids.size() > request.prompt_ids.size();
    int64_t& most = decodes ? most_in_decoding : most_in_prompt;
    most = std::max(most, engine->cache_bytes_in_use() / page / pages_of_layer);
  }
  // 99 keys and the one to come lie in three pages at most.
  EXPECT_LE(most_in_prompt, 3);
  EXPECT_EQ(most_in_decoding, 3);
  const auto forward = model->forward({{ids, {}}});
  ASSERT_TRUE(forward.ok());
  for (size_t i = request.prompt_ids.size(); i < ids.size(); ++i) {
    const float* row = forward->logits.data() + (i - 1) * 50;
    EXPECT_EQ(std::max_element(row, row + 50) - row, ids[i]) << i;
  }
  // So a cache that could never hold all tokens is enough.
  EXPECT_TRUE(engine_of(model, {.cache_bytes = 2 * 12 * page})->submit(request).ok());
  EXPECT_FALSE(engine_of(model, {.cache_bytes = 2 * 10 * page})->submit(request).ok());
}

TEST(Step, AWindowOfOneHoldsNothingBetweenPages) {
  const std::string folder =
      tiny_llama()
          .with("\"model_type\": \"llama\"", "\"model_type\": \"mistral\", \"sliding_window\": 1")
          .with("LlamaForCausalLM", "MistralForCausalLM")
          .write("step_window_of_one");
  const Outputs found = run(*engine_of(load(folder)), {request_of(60, 80)});
  EXPECT_EQ(found.at({0, 0}).size(), 80u);
}

TEST(Step, EncodingsRunBesideStreams) {
  const auto model = load(long_llama());
  const auto engine = engine_of(model);
  const Outputs expected = run(*engine_of(model), {request_of(20, 30)});
  ASSERT_TRUE(engine->submit(request_of(20, 30)).ok());
  std::map<int64_t, EncodeRequest> encodings;
  for (int32_t length : {100, 7, 1, 30}) {
    for (const EncodeOutput output : {EncodeOutput::kEmbedding, EncodeOutput::kHead}) {
      const EncodeRequest request{{request_of(length, 1).prompt_ids, {}}, output};
      encodings[*engine->submit(request)] = request;
    }
  }
  Outputs found;
  size_t encoded = 0;
  while (!engine->idle()) {
    const auto events = engine->step();
    ASSERT_TRUE(events.ok());
    for (const Event& event : *events) {
      if (event.finished != FinishReason::kEncoded) {
        found[{event.request, 0}].push_back(event.token);
        continue;
      }
      ++encoded;
      const EncodeRequest& request = encodings.at(event.request);
      const auto alone = request.output == EncodeOutput::kHead
                             ? model->forward({request.sequence})->logits
                             : *model->embed({request.sequence});
      // Sequences are rounded otherwise beside others, in 2 layers of sums of at most 24 products.
      ASSERT_EQ(event.values.size(), alone.size());
      for (size_t i = 0; i < alone.size(); ++i) EXPECT_NEAR(event.values[i], alone[i], 1e-4);
    }
  }
  EXPECT_EQ(encoded, encodings.size());
  EXPECT_EQ(found, expected);
}

TEST(Step, AnEncoderEncodesInPassesOfManySequences) {
  const auto model = load(testing::tiny_bert().write("step_bert"), 2);
  const auto engine = engine_of(model);
  const auto rows = watch(*engine);
  std::vector<TokenSequence> batch;
  for (int32_t i = 0; i < 300; ++i) batch.push_back({request_of(1 + i % 40, 1, i).prompt_ids, {}});
  for (const TokenSequence& each : batch)
    ASSERT_TRUE(engine->submit(EncodeRequest{each, EncodeOutput::kEmbedding}).ok());
  ASSERT_FALSE(engine->submit(EncodeRequest{{{50}, {}}}).ok());
  const auto expected = model->embed(batch);
  ASSERT_TRUE(expected.ok());
  std::vector<float> found;
  while (!engine->idle()) {
    const auto events = engine->step();
    ASSERT_TRUE(events.ok());
    for (const Event& event : *events)
      found.insert(found.end(), event.values.begin(), event.values.end());
  }
  // The same passes, and so the same bits.
  EXPECT_EQ(found, *expected);
  EXPECT_EQ(rows->size(), 2u);
}

TEST(Step, OnlyTheEncodingThatFailsFails) {
  const auto model = load(testing::tiny_bert().write("step_bert_fails"));
  const auto engine = engine_of(model);
  EngineState& state = EngineAccess::state(*engine);
  state.forward = [run = state.forward](const ForwardInput& input, ForwardOutput& output) {
    if (std::find(input.ids.begin(), input.ids.end(), 13) != input.ids.end())
      return out_of_memory("thirteen");
    return run(input, output);
  };
  for (const int32_t id : {12, 13, 14})
    ASSERT_TRUE(engine->submit(EncodeRequest{{{id}, {}}, EncodeOutput::kHead}).ok());
  const auto events = engine->step();
  ASSERT_TRUE(events.ok());
  ASSERT_EQ(events->size(), 3u);
  for (const Event& event : *events) {
    const bool fails = event.request == 1;
    EXPECT_EQ(event.finished, fails ? FinishReason::kFailed : FinishReason::kEncoded);
    EXPECT_EQ(event.values.size(), fails ? 0u : 50u);
  }
  EXPECT_TRUE(engine->idle());
}

}  // namespace
}  // namespace tessera
