// Requests with schedules of their own, alone and beside others.
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <utility>

#include "runtime/engine_state.h"
#include "runtime/loading_testing.h"
#include "runtime/model_testing.h"
#include "runtime/testing.h"
#include "tessera/pruning.h"

namespace tessera {
namespace {

using testing::engine_of;
using testing::load;

constexpr const char* kPlanes = R"({"tokens": [1, 0.6, 0.6, 0.6], "heads": [1, 0.5, 0.5, 0.5],
  "values": 0.3, "key_bits": "6+4", "value_bits": 6, "refetch": {"below": 0.05}})";

std::string llama() {
  static const std::string folder =
      testing::deep(testing::tiny_llama(), "layers.").write("request_pruning");
  return folder;
}

Request request_of(int32_t length, const std::string& pruning) {
  Request request{.max_new_tokens = 16, .pruning = pruning, .ignore_end = true};
  request.log_probabilities = true;
  for (int32_t i = 0; i < length; ++i) request.prompt_ids.push_back((11 * i + i * i % 7) % 49);
  return request;
}

// What a layer had in a step.
struct Alive {
  int32_t step = 0, layer = 0;
  std::vector<int32_t> tokens, heads;
  bool operator==(const Alive& other) const = default;
};

struct Found {
  std::vector<int32_t> ids;
  std::vector<float> log_probabilities;
  std::vector<Alive> alive;
};

// Keeps what leaves, by the length of the prompt.
class Watcher {
 public:
  void take(const PruningRecord& record) {
    if (record.step == 0) prompts_[record.sequence] = record.length;
    alive_[prompts_.at(record.sequence)].push_back({record.step,
                                                    record.layer,
                                                    {record.tokens.begin(), record.tokens.end()},
                                                    {record.heads.begin(), record.heads.end()}});
  }
  std::map<int32_t, std::vector<Alive>> alive() {
    prompts_.clear();
    return std::exchange(alive_, {});
  }

 private:
  std::map<int64_t, int32_t> prompts_;  // by sequence
  std::map<int32_t, std::vector<Alive>> alive_;
};

class RequestPruning : public ::testing::Test {
 protected:
  std::shared_ptr<Model> watched(const std::string& pruning) {
    return load(llama(), {.threads = 2,
                          .pruning = pruning,
                          .on_pruning = [this](const auto& record) { watcher_.take(record); }});
  }

  // In the order of the requests, whose prompts have lengths of their own.
  std::vector<Found> run(Engine& engine, const std::vector<Request>& requests,
                         const std::function<void(int)>& between = {}) {
    std::vector<Found> found(requests.size());
    std::map<int64_t, size_t> numbers;
    for (size_t i = 0; i < requests.size(); ++i) {
      const auto number = engine.submit(requests[i]);
      EXPECT_TRUE(number.ok()) << number.status().message();
      numbers[*number] = i;
    }
    for (int step = 0; !engine.idle(); ++step) {
      if (between) between(step);
      const auto events = engine.step();
      EXPECT_TRUE(events.ok()) << events.status().message();
      for (const Event& event : *events) {
        EXPECT_TRUE(event.status.ok()) << event.status.message();
        const auto number = numbers.find(event.request);
        if (number == numbers.end()) continue;
        Found& one = found[number->second];
        one.ids.push_back(event.token);
        one.log_probabilities.push_back(event.log_probability.value_or(0));
      }
    }
    auto alive = watcher_.alive();
    for (size_t i = 0; i < requests.size(); ++i)
      found[i].alive = alive[static_cast<int32_t>(requests[i].prompt_ids.size())];
    return found;
  }
  Found run(const std::shared_ptr<Model>& model, const Request& request) {
    return run(*engine_of(model), {request}).front();
  }

  static void expect_near(const Found& expected, const Found& found) {
    EXPECT_EQ(expected.ids, found.ids);
    EXPECT_EQ(expected.alive, found.alive);
    ASSERT_EQ(expected.log_probabilities.size(), found.log_probabilities.size());
    for (size_t i = 0; i < expected.ids.size(); ++i)
      EXPECT_NEAR(expected.log_probabilities[i], found.log_probabilities[i], 1e-4) << i;
  }

  Watcher watcher_;
};

TEST_F(RequestPruning, IsAsAloneBesideOthers) {
  const std::vector<const char*> schedules = {
      "",
      "none",
      R"({"tokens": [0.9, 0.6, 0.6, 0.3]})",
      R"({"heads": [1, 0.75, 0.5, 0.5]})",
      R"({"values": [0.5, 0.2, 0.1, 0.1]})",
      R"({"values": {"threshold": 0.3}})",
      R"({"tokens": [1, 0.7, 0.5, 0.5], "heads": [1, 0.75, 0.75, 0.5], "values": [3, 3, 3, 3]})"};
  const std::vector<const char*> with_bits = {
      R"({"key_bits": "6+4", "value_bits": 6, "refetch": {"below": 2}})",
      R"({"tokens": 0.7, "key_bits": "6+4", "value_bits": 6, "refetch": {"below": 0.1}})"};
  for (const char* models : {"", kPlanes}) {
    const auto model = watched(models);
    std::vector<Request> requests;
    for (const char* schedule : schedules)
      requests.push_back(request_of(20 + 9 * static_cast<int32_t>(requests.size()), schedule));
    for (const char* schedule : with_bits) {
      if (models != std::string())
        requests.push_back(request_of(20 + 9 * static_cast<int32_t>(requests.size()), schedule));
    }
    const std::vector<Found> together = run(*engine_of(model), requests);
    for (size_t i = 0; i < requests.size(); ++i) {
      SCOPED_TRACE(::testing::Message() << models << " " << requests[i].pruning);
      expect_near(run(model, requests[i]), together[i]);
    }
  }
}

// All of it in place of the model's.
TEST_F(RequestPruning, IsThatOfAModelWithTheSameSchedule) {
  const auto dense = load(llama());
  for (const char* schedule :
       {R"({"heads": [1, 0.75, 0.5, 0.5]})", R"({"values": [0.5, 0.2, 0.1, 0.1]})",
        R"({"tokens": [1, 0.6, 0.6, 0.6], "heads": [1, 0.5, 0.5, 0.5], "values": 0.3})"}) {
    SCOPED_TRACE(schedule);
    const auto model = load(llama(), {.pruning = schedule});
    const Found own = run(dense, request_of(60, schedule)), models = run(model, request_of(60, ""));
    EXPECT_EQ(models.log_probabilities, own.log_probabilities);
    const Found whole = run(dense, request_of(60, ""));
    EXPECT_NE(whole.log_probabilities, own.log_probabilities);
    for (const char* none : {"none", R"({"minimum": 2})"})
      EXPECT_EQ(whole.log_probabilities, run(model, request_of(60, none)).log_probabilities);
  }
}

TEST_F(RequestPruning, ReadsBothPlanesUnlessItSaysOtherwise) {
  const std::string bits = R"({"key_bits": "8+4", "refetch": {"below": )";
  const auto model = load(llama(), {.pruning = bits + "0}}"}),
             both = load(llama(), {.pruning = bits + "2}}"});
  const Found upper = run(model, request_of(60, "")), all = run(both, request_of(60, ""));
  EXPECT_NE(upper.log_probabilities, all.log_probabilities);
  for (const std::string& pruning : {std::string("none"), bits + "2}}"})
    EXPECT_EQ(all.log_probabilities, run(model, request_of(60, pruning)).log_probabilities);
  EXPECT_EQ(upper.log_probabilities, run(both, request_of(60, bits + "0}}")).log_probabilities);
}

TEST_F(RequestPruning, HasTheBitsOfTheCache) {
  const auto refused = [](const std::string& models, const std::string& own) {
    const auto number = engine_of(load(llama(), {.pruning = models}))->submit(request_of(9, own));
    return number.ok() ? "" : number.status().message();
  };
  const std::string bits = R"({"key_bits": "8+4"})";
  EXPECT_EQ(refused("", bits),
            "pruning: expected the key_bits of the model's cache (none) or none in a request's "
            "schedule, as all requests share that cache, found \"8+4\" with values of 8");
  EXPECT_CONTAINS(refused(bits, R"({"key_bits": "8+4", "value_bits": 4})"),
                  "cache (\"8+4\" with values of 8)");
  EXPECT_CONTAINS(refused(bits, R"({"key_bits": "6+4"})"), "found \"6+4\" with values of 8");
  EXPECT_EQ(refused(bits, R"({"key_bits": "8+4", "refetch": {"below": 0.5}})"), "");
}

// Whatever the others leave of a step for a prompt, all of its rows read everything.
TEST_F(RequestPruning, PromptsReadEverythingRowByRow) {
  const auto model =
      load(llama(), {.pruning = R"({"values": 0.1, "key_bits": "4", "value_bits": 4})"});
  const auto engine = engine_of(model, {.step_tokens = 2});
  Request other = request_of(5, "");
  other.max_new_tokens = 60;
  ASSERT_TRUE(engine->submit(other).ok());
  ASSERT_TRUE(engine->step().ok());
  // While the other one generates, a row of this prompt has room in a step.
  const Request request = request_of(40, "");
  expect_near(run(model, request), run(*engine, {request}).front());
}

TEST_F(RequestPruning, ReadsTheSameWhenItIsComputedAgain) {
  for (const char* schedule : {R"({"values": 0.1})", R"({"values": {"threshold": 0.5}})"}) {
    SCOPED_TRACE(schedule);
    const auto model = load(llama(), {.threads = 2});
    const Request request = request_of(60, schedule);
    const auto engine = engine_of(model);
    EngineState& state = EngineAccess::state(*engine);
    int passes = 0;
    state.forward = [&, run = state.forward](const ForwardInput& input, ForwardOutput& output) {
      ++passes;
      return run(input, output);
    };
    const std::vector<Found> again = run(*engine, {request}, [&](int step) {
      if (step == 9) state.jobs.front().running()->preempt(state.pool);
    });
    expect_near(run(model, request), again.front());
    EXPECT_GT(passes, request.max_new_tokens);
  }
}

}  // namespace
}  // namespace tessera
