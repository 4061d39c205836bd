// The cascade of tokens while a text is generated, against layers that run one by one over gathered
// rows and keys.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "runtime/engine_state.h"
#include "runtime/model_testing.h"
#include "runtime/pruned_steps_testing.h"
#include "runtime/request_check.h"
#include "runtime/sequence_pass.h"
#include "runtime/testing.h"

namespace tessera {
namespace {

using testing::engine_of;
using testing::load;
using testing::Positions;
using testing::Stepwise;
using testing::TinyCheckpoint;

constexpr int32_t kLayers = testing::kStepLayers;
constexpr double kHeads = testing::kStepHeads;

std::string llama() {
  static const std::string folder =
      testing::deep(testing::tiny_llama(), "layers.")
          .with("\"max_position_embeddings\": 200", "\"max_position_embeddings\": 1000")
          .write("steps_llama");
  return folder;
}

std::string windowed() {
  static const std::string folder =
      testing::deep(testing::tiny_llama(), "layers.")
          .with("\"model_type\": \"llama\"", "\"model_type\": \"mistral\", \"sliding_window\": 40")
          .with("LlamaForCausalLM", "MistralForCausalLM")
          .write("steps_windowed");
  return folder;
}

std::string gpt2() {
  TinyCheckpoint tiny;
  tiny.config = R"({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": 50,
    "n_embd": 16, "n_head": 4, "n_layer": 4, "n_positions": 200})";
  tiny.shapes = {{"transformer.wte.weight", {50, 16}},
                 {"transformer.wpe.weight", {200, 16}},
                 {"transformer.ln_f.weight", {16}},
                 {"transformer.ln_f.bias", {16}}};
  for (int i = 0; i < kLayers; ++i) {
    const std::string layer = "transformer.h." + std::to_string(i) + ".";
    tiny.shapes.insert({{layer + "attn.c_attn.weight", {16, 48}},
                        {layer + "attn.c_attn.bias", {48}},
                        {layer + "attn.c_proj.weight", {16, 16}},
                        {layer + "attn.c_proj.bias", {16}},
                        {layer + "mlp.c_fc.weight", {16, 64}},
                        {layer + "mlp.c_fc.bias", {64}},
                        {layer + "mlp.c_proj.weight", {64, 16}},
                        {layer + "mlp.c_proj.bias", {16}}});
    for (const char* norm : {"ln_1", "ln_2"}) {
      tiny.shapes[layer + norm + ".weight"] = {16};
      tiny.shapes[layer + norm + ".bias"] = {16};
    }
  }
  static const std::string folder = tiny.write("steps_gpt2");
  return folder;
}

Request request_of(int32_t length, int32_t tokens, const std::string& pruning) {
  Request request{.max_new_tokens = tokens, .pruning = pruning, .ignore_end = true};
  request.log_probabilities = true;
  for (int32_t i = 0; i < length; ++i) request.prompt_ids.push_back((11 * i + i * i % 7) % 49);
  return request;
}

// What an engine's pass of a single sequence left behind.
struct Pass {
  std::vector<float> logits;
  std::vector<Positions> keys;  // [layer]
};

std::vector<Pass> watched(Engine& engine, const Request& request, std::vector<int32_t>& ids,
                          const std::function<void(Running&)>& after_step = {}) {
  auto passes = std::make_shared<std::vector<Pass>>();
  EngineState& state = EngineAccess::state(engine);
  state.forward = [passes, run = state.forward](const ForwardInput& input, ForwardOutput& output) {
    const Status status = run(input, output);
    Pass pass{.logits = {output.logits.begin(), output.logits.end()}, .keys = {}};
    for (const PageTable* table : input.tables) pass.keys.push_back(table->positions);
    passes->push_back(std::move(pass));
    return status;
  };
  ids = request.prompt_ids;
  EXPECT_TRUE(engine.submit(request).ok());
  while (!engine.idle()) {
    const auto events = engine.step();
    EXPECT_TRUE(events.ok());
    if (!events.ok()) break;
    for (const Event& event : *events) {
      EXPECT_TRUE(event.status.ok()) << event.status.message();
      ids.push_back(event.token);
    }
    if (after_step && !state.jobs.empty()) after_step(*state.jobs.front().running());
  }
  return *passes;
}

double largest_of(const std::vector<float>& x) {
  double largest = 0;
  for (const float each : x) largest = std::max(largest, std::abs(double{each}));
  return largest;
}

// A table has what is alive; beyond a window it need not.
void expect_keys(const Positions& alive, Positions keys, int32_t window) {
  std::sort(keys.begin(), keys.end());
  EXPECT_TRUE(std::includes(alive.begin(), alive.end(), keys.begin(), keys.end()));
  Positions seen = alive;
  if (window > 0)
    std::erase_if(seen, [&](int32_t position) { return position <= alive.back() - window; });
  EXPECT_TRUE(std::includes(keys.begin(), keys.end(), seen.begin(), seen.end()));
}

void expect_the_definition(const std::shared_ptr<Model>& model, const Request& request) {
  ModelState& state = state_of(*model);
  std::vector<int32_t> ids;
  const std::vector<Pass> passes = watched(*engine_of(model), request, ids);
  const auto schedule = pruning_of(state, request);
  ASSERT_TRUE(schedule.ok()) << schedule.status().message();
  ASSERT_EQ(passes.size(), ids.size() - request.prompt_ids.size());
  Stepwise reference(state, *schedule->schedule);
  std::vector<int32_t> next = request.prompt_ids;
  for (size_t step = 0; step < passes.size(); ++step) {
    SCOPED_TRACE("step " + std::to_string(step));
    const std::vector<float> logits = reference.step(next);
    for (int32_t layer = 0; layer < kLayers; ++layer) {
      SCOPED_TRACE("layer " + std::to_string(layer));
      expect_keys(reference.alive(layer), passes[step].keys[static_cast<size_t>(layer)],
                  state.architecture.layer(layer).window);
    }
    ASSERT_EQ(logits.size(), passes[step].logits.size());
    const double bound = 1e-4 * largest_of(logits);
    for (size_t i = 0; i < logits.size(); ++i)
      ASSERT_NEAR(logits[i], passes[step].logits[i], bound);
    next = {ids[request.prompt_ids.size() + step]};
  }
}

constexpr const char* kSchedules[] = {
    R"({"tokens": [0.9, 0.6, 0.6, 0.3]})",
    R"({"tokens": [24, 20, 20, 12], "protect": {"first": 2, "newest": 5}, "decay": 0.9})",
    R"({"tokens": [1, 0.5, 0.4, 0.2], "base": "prompt", "prefill": "score", "protect": {"ids": [7]}})",
    R"({"tokens": [0.8, 0.8, 0.5, 0.5], "prefill": "skip", "scale": "queries", "minimum": 3})"};

TEST(PrunedSteps, AreTheCascadeRunLayerByLayer) {
  for (const CacheType cache : {CacheType::kF32, CacheType::kBF16, CacheType::kInt8}) {
    for (const std::string& folder : {llama(), gpt2()}) {
      const auto model = load(folder, {.threads = 2, .cache = cache});
      for (const char* schedule : kSchedules) {
        SCOPED_TRACE(::testing::Message() << folder << " " << name(cache) << " " << schedule);
        expect_the_definition(model, request_of(70, 12, schedule));
      }
      expect_the_definition(model, request_of(1, 40, kSchedules[0]));
    }
  }
}

// Keys in planes and values of the largest probabilities are the model's, and leave likewise.
TEST(PrunedSteps, AlsoOfKeysInPlanesAndWithFewValues) {
  for (const char* rest : {R"("key_bits": "8+4", "value_bits": 8, "refetch": {"below": 2})",
                           R"("key_bits": "4", "value_bits": 4)", R"("values": 0.5)"}) {
    const std::string schedule = R"({"tokens": [0.9, 0.6, 0.6, 0.3], )" + std::string(rest) + "}";
    SCOPED_TRACE(schedule);
    const auto model = load(llama(), {.threads = 2, .pruning = schedule});
    expect_the_definition(model, request_of(70, 12, ""));
  }
}

TEST(PrunedSteps, WindowsAreOfOriginalPositions) {
  const auto model = load(windowed(), {.threads = 2});
  for (const char* schedule : kSchedules) {
    SCOPED_TRACE(schedule);
    expect_the_definition(model, request_of(130, 60, schedule));
  }
}

TEST(PrunedSteps, KeepingAllIsTheDenseRun) {
  const auto model = load(llama(), {.threads = 2});
  std::vector<int32_t> dense_ids, ids;
  const std::vector<Pass> dense = watched(*engine_of(model), request_of(50, 30, ""), dense_ids);
  for (const char* all : {R"({"tokens": 1})", R"({"tokens": [512, 512, 512, 512]})"}) {
    const std::vector<Pass> kept = watched(*engine_of(model), request_of(50, 30, all), ids);
    EXPECT_EQ(dense_ids, ids);
    ASSERT_EQ(dense.size(), kept.size());
    for (size_t step = 0; step < dense.size(); ++step)
      EXPECT_EQ(dense[step].logits, kept[step].logits) << step;
  }
}

// What stays in a layer stays in those before it, and was there a step earlier; the importance of
// all adds up to a probability of 1 for each head and query; a table holds no page too many.
TEST(PrunedSteps, SetsAreNestedAndPagesGoBack) {
  const auto model = load(llama());
  const auto engine = engine_of(model);
  const int64_t page = EngineAccess::state(*engine).pool.page_bytes();
  double queries = 0;
  std::vector<std::set<int32_t>> before;
  size_t steps = 0;
  std::vector<int32_t> ids;
  watched(*engine, request_of(150, 100, kSchedules[0]), ids, [&](Running& running) {
    const Sequence& sequence = running.sequences().front();
    const TokenCascade& cascade = *sequence.cascade;
    std::vector<std::set<int32_t>> now;
    size_t pages = 0;
    for (const PageTable& table : sequence.tables) {
      now.emplace_back(table.positions.begin(), table.positions.end());
      EXPECT_EQ(table.pages.size(), static_cast<size_t>(pages_for(table.tokens())));
      pages += table.pages.size();
      queries += steps == 0 ? table.tokens() : 1;
    }
    EXPECT_EQ(engine->cache_bytes_in_use(), static_cast<int64_t>(pages) * page);
    const auto holds = [](const std::set<int32_t>& all, const std::set<int32_t>& part) {
      return std::includes(all.begin(), all.end(), part.begin(), part.end());
    };
    for (size_t layer = 0; layer < now.size(); ++layer) {
      EXPECT_TRUE(layer == 0 || holds(now[layer - 1], now[layer]));
      if (steps == 0) continue;
      before[layer].insert(sequence.done - 1);
      EXPECT_TRUE(holds(before[layer], now[layer]));
    }
    before = now;
    double sum = 0;
    for (int32_t position = 0; position < cascade.tokens(); ++position)
      sum += double{cascade.importance(position)};
    // A float of each head and layer is off by half an epsilon in each step.
    EXPECT_NEAR(kHeads * queries, sum, kHeads * queries * (100 + kLayers * kHeads) * 6e-8);
    ++steps;
  });
  EXPECT_EQ(steps, 99u);
}

TEST(PrunedSteps, ABudgetHoldsForALongText) {
  for (const CacheType cache : {CacheType::kF32, CacheType::kInt8}) {
    const auto model = load(llama(), {.cache = cache});
    const auto engine = engine_of(model);
    const int64_t page = EngineAccess::state(*engine).pool.page_bytes();
    size_t steps = 0;
    std::vector<int32_t> ids;
    watched(*engine,
            request_of(200, 300,
                       R"({"tokens": [64, 64, 64, 64], "protect": {"first": 4, "newest": 16}})"),
            ids, [&](Running& running) {
              for (const PageTable& table : running.sequences().front().tables) {
                const std::set<int32_t> keys(table.positions.begin(), table.positions.end());
                // The prompt's first layer has it all.
                EXPECT_TRUE(++steps == 1 || keys.size() == 64u) << steps;
                for (int32_t i = 0; i < 4; ++i) EXPECT_TRUE(keys.contains(i));
                for (int32_t i = 1; i <= 16; ++i)
                  EXPECT_TRUE(keys.contains(running.sequences().front().done - i));
              }
              EXPECT_TRUE(steps == kLayers || engine->cache_bytes_in_use() == kLayers * page);
            });
    EXPECT_EQ(ids.size(), 500u);
  }
}

using Outputs = std::map<std::pair<int64_t, int32_t>, std::vector<Event>>;

Outputs run(Engine& engine, const std::vector<Request>& requests,
            const std::function<void(int)>& between = {}) {
  for (const Request& request : requests) {
    const auto number = engine.submit(request);
    EXPECT_TRUE(number.ok()) << number.status().message();
  }
  Outputs outputs;
  for (int step = 0; !engine.idle(); ++step) {
    const auto events = engine.step();
    EXPECT_TRUE(events.ok()) << events.status().message();
    if (!events.ok()) break;
    for (const Event& event : *events) {
      EXPECT_TRUE(event.status.ok()) << event.status.message();
      outputs[{event.request, event.sequence}].push_back(event);
    }
    if (between) between(step);
  }
  EXPECT_EQ(engine.cache_bytes_in_use(), 0);
  return outputs;
}

std::vector<int32_t> tokens_of(const std::vector<Event>& events) {
  std::vector<int32_t> tokens;
  for (const Event& event : events) tokens.push_back(event.token);
  return tokens;
}

void expect_equal(const std::vector<Event>& expected, const std::vector<Event>& found,
                  double bound) {
  ASSERT_EQ(tokens_of(expected), tokens_of(found));
  for (size_t i = 0; i < expected.size(); ++i)
    EXPECT_NEAR(*expected[i].log_probability, *found[i].log_probability, bound) << i;
}

// A beam's tokens have the probabilities that the definition gives them one after another, though
// beams share pages and leave each other.
TEST(PrunedSteps, ABeamIsASequenceOfItsOwn) {
  const auto model = load(llama(), {.threads = 2});
  for (const char* schedule : kSchedules) {
    SCOPED_TRACE(schedule);
    Request request = request_of(90, 20, schedule);
    request.beams = request.sequences = 3;
    const Outputs beams = run(*engine_of(model), {request});
    ASSERT_EQ(beams.size(), 3u);
    const auto parsed =
        parse_schedule(schedule, scheduled_model(state_of(*model).architecture), "schedule");
    for (const auto& [key, events] : beams) {
      Stepwise reference(state_of(*model), *parsed);
      std::vector<int32_t> next = request.prompt_ids;
      for (const Event& event : events) {
        const std::vector<float> logits = reference.step(next);
        double sum = 0;
        for (const float logit : logits) sum += std::exp(double{logit});
        const double expected = logits[static_cast<size_t>(event.token)] - std::log(sum);
        EXPECT_NEAR(expected, *event.log_probability, 1e-4 * largest_of(logits));
        next = {event.token};
      }
    }
  }
}

TEST(PrunedSteps, ContinuationsBatchMatesAndThreadsChangeNothing) {
  std::vector<Request> requests;
  for (const char* schedule : kSchedules) {
    requests.push_back(request_of(60 + 10 * static_cast<int32_t>(requests.size()), 25, schedule));
    requests.back().sampling = {.temperature = 1, .seed = requests.size()};
  }
  requests.push_back(request_of(40, 30, ""));
  requests[1].sequences = 3;
  const auto model = load(llama());
  for (const int threads : {1, 3}) {
    const Outputs together = run(*engine_of(load(llama(), {.threads = threads})), requests);
    for (size_t i = 0; i < requests.size(); ++i) {
      for (int32_t sequence = 0; sequence < requests[i].sequences; ++sequence) {
        Request alone = requests[i];
        alone.sequences = 1;
        alone.sampling.seed += static_cast<uint64_t>(sequence);
        // Rows are rounded otherwise beside others, in 4 layers of sums of some dozen terms.
        expect_equal(run(*engine_of(model), {alone}).at({0, 0}),
                     together.at({static_cast<int64_t>(i), sequence}), 1e-4);
      }
    }
  }
}

TEST(PrunedSteps, WhoIsPreemptedGivesTheSameBits) {
  for (const std::string& folder : {llama(), windowed()}) {
    const auto model = load(folder, {.threads = 2});
    for (const char* schedule : kSchedules) {
      SCOPED_TRACE(schedule);
      const Request request = request_of(80, 40, schedule);
      const Outputs expected = run(*engine_of(model), {request});
      const auto engine = engine_of(model);
      EngineState& state = EngineAccess::state(*engine);
      const Outputs found = run(*engine, {request}, [&](int step) {
        if (step == 3 || step == 60) state.jobs.front().running()->preempt(state.pool);
      });
      expect_equal(expected.at({0, 0}), found.at({0, 0}), 0);
    }
  }
}

constexpr const char* kEveryRule =
    R"({"tokens": [0.9, 0.6, 0.6, 0.3], "heads": [1, 0.75, 0.5, 0.5], "values": 0.5,
        "key_bits": "8+4", "value_bits": 4, "refetch": {"below": 0.2}, "protect": {"newest": 3}})";

// Heads, values and planes leave with the tokens, whoever is preempted, shares pages or runs beside
// others.
TEST(PrunedSteps, EveryRuleTogetherIsOfASequenceAlone) {
  for (const std::string& folder : {llama(), windowed()}) {
    const auto model = load(folder, {.threads = 2, .pruning = kEveryRule});
    std::vector<Request> requests;
    for (const int32_t prompt : {80, 1, 64}) requests.push_back(request_of(prompt, 40, ""));
    const Outputs together = run(*engine_of(model), requests);
    for (size_t i = 0; i < requests.size(); ++i) {
      SCOPED_TRACE(i);
      const Outputs expected = run(*engine_of(model), {requests[i]});
      expect_equal(expected.at({0, 0}), together.at({static_cast<int64_t>(i), 0}), 1e-4);
      const auto engine = engine_of(model);
      EngineState& state = EngineAccess::state(*engine);
      const Outputs found = run(*engine, {requests[i]}, [&](int step) {
        if (step == 3 || step == 60) state.jobs.front().running()->preempt(state.pool);
      });
      expect_equal(expected.at({0, 0}), found.at({0, 0}), 0);
    }
    Request beams = request_of(90, 20, "");
    beams.beams = beams.sequences = 3;
    const Outputs expected = run(*engine_of(model), {beams});
    const auto engine = engine_of(model);
    EngineState& state = EngineAccess::state(*engine);
    const Outputs found = run(*engine, {beams}, [&](int step) {
      if (step == 5 || step == 40) state.jobs.front().running()->preempt(state.pool);
    });
    for (const auto& [key, events] : expected) expect_equal(events, found.at(key), 1e-4);
  }
}

// So many pages that some wait and some give theirs back, with beams and drawn continuations.
TEST(PrunedSteps, ATightCacheGivesTheSame) {
  const auto model = load(llama(), {.threads = 2});
  std::vector<Request> requests;
  for (int32_t i = 0; i < 5; ++i) {
    requests.push_back(request_of(70 + 20 * i, 60, kSchedules[i % 4]));
    if (i == 1) requests.back().beams = 3;
    if (i == 3) requests.back().sequences = 2;
    if (i == 3) requests.back().sampling = {.temperature = 1, .seed = 5};
  }
  const auto roomy = engine_of(model);
  const Outputs expected = run(*roomy, requests);
  const int64_t page = EngineAccess::state(*roomy).pool.page_bytes();
  const auto tight = engine_of(model, {.cache_bytes = 40 * page});
  bool preempted = false;
  std::map<int64_t, int32_t> done;
  const Outputs found = run(*tight, requests, [&](int) {
    for (Job& job : EngineAccess::state(*tight).jobs) {
      const int32_t now = job.running()->sequences().front().done;
      preempted = preempted || now < done[job.number];
      done[job.number] = now;
    }
  });
  EXPECT_TRUE(preempted);
  ASSERT_EQ(expected.size(), found.size());
  for (const auto& [key, events] : expected) expect_equal(events, found.at(key), 1e-4);
}

TEST(PrunedSteps, APassThatFailsIsRunAnew) {
  const auto model = load(llama());
  const std::vector<Request> requests = {request_of(50, 20, kSchedules[0]),
                                         request_of(40, 20, kSchedules[1])};
  const Outputs expected = run(*engine_of(model), requests);
  const auto engine = engine_of(model);
  EngineState& state = EngineAccess::state(*engine);
  int pass = 0;
  state.forward = [&pass, run = state.forward](const ForwardInput& input, ForwardOutput& output) {
    // Of two sequences together, which then run one by one.
    if (input.layout->sequences() == 2 && ++pass % 3 == 0) return out_of_memory("no room");
    return run(input, output);
  };
  const Outputs found = run(*engine, requests);
  for (const auto& [key, events] : expected) expect_equal(events, found.at(key), 1e-4);
  EXPECT_GT(pass, 3);
}

TEST(PrunedSteps, TheModelsScheduleIsForRequestsWithoutOne) {
  const auto pruned = load(llama(), {.pruning = kSchedules[0]}), dense = load(llama());
  const Request bare = request_of(60, 20, "");
  const auto of = [](const std::shared_ptr<Model>& model, const Request& request) {
    return run(*engine_of(model), {request}).at({0, 0});
  };
  expect_equal(of(dense, request_of(60, 20, kSchedules[0])), of(pruned, bare), 0);
  expect_equal(of(dense, bare), of(pruned, request_of(60, 20, R"({"tokens": 1})")), 0);
}

// A text that is read in steps is what an engine makes of its prompt, also beside others.
TEST(PrunedSteps, TextsThatAreReadInSteps) {
  for (const char* schedule : kSchedules) {
    const auto model = load(llama(), {.pruning = schedule});
    std::vector<std::vector<int32_t>> texts(3);
    std::vector<std::vector<Pass>> passes;
    for (int32_t i = 0; i < 3; ++i) {
      const Request request = request_of(20 + 30 * i, 15 + i, "");
      passes.push_back(watched(*engine_of(model), request, texts[static_cast<size_t>(i)]));
    }
    std::vector<SteppedText> stepped;
    for (int32_t i = 0; i < 3; ++i) stepped.push_back({texts[static_cast<size_t>(i)], 20 + 30 * i});
    std::vector<size_t> steps(3);
    const auto take = [&](size_t text, int32_t position, std::span<const float> logits) {
      EXPECT_EQ(position, stepped[text].prompt - 1 + static_cast<int32_t>(steps[text]));
      const std::vector<float>& expected = passes[text][steps[text]++].logits;
      for (size_t i = 0; i < logits.size(); ++i)
        EXPECT_NEAR(expected[i], logits[i], 1e-4 * largest_of(expected));
      return Status();
    };
    const Status status = run_in_steps(state_of(*model), stepped, take);
    ASSERT_TRUE(status.ok()) << status.message();
    for (size_t i = 0; i < 3; ++i) EXPECT_EQ(passes[i].size(), steps[i]);
  }
}

TEST(PrunedSteps, BadSchedulesAreRefused) {
  const auto engine = engine_of(load(llama()));
  const auto refused = [&](const char* schedule) {
    const auto number = engine->submit(request_of(10, 10, schedule));
    return number.ok() ? "" : number.status().message();
  };
  EXPECT_EQ("pruning: tokens: expected a share for each of the 4 layers, found 2",
            refused(R"({"tokens": [1, 1]})"));
}

}  // namespace
}  // namespace tessera
