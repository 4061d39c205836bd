#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <variant>
#include <vector>

#include "runtime/cache_pool.h"
#include "runtime/model_state.h"
#include "runtime/running.h"
#include "runtime/scheduler.h"
#include "tessera/engine.h"

namespace tessera {

// Rows of a prompt that one pass takes: enough to fill every core, few enough for small scratch
// memory.
inline constexpr int32_t kPromptRows = 512;
// Rows of one pass; a step of more has several.
inline constexpr int32_t kPassRows = 2048;

// A request in the engine, from its submission to its last event.
struct Job {
  int64_t number = 0;
  std::variant<Running, EncodeRequest> work;
  bool is_over = false;

  Running* running() { return std::get_if<Running>(&work); }
  const EncodeRequest* encoding() const { return std::get_if<EncodeRequest>(&work); }
};

// What other threads leave for the next step.
class Inbox {
 public:
  // Gives the request its number.
  int64_t submit(std::function<Job(int64_t number)> make);
  void cancel(int64_t number);
  bool empty() const;
  // Moves the new jobs behind `jobs` and returns the numbers to cancel.
  std::set<int64_t> take(std::list<Job>& jobs);

 private:
  mutable std::mutex mutex_;
  std::list<Job> submitted_;
  std::set<int64_t> cancelled_;
  int64_t next_number_ = 0;
};

struct EngineState {
  EngineState(std::shared_ptr<Model> loaded, const Engine::Options& options, int64_t cache_bytes);

  const Architecture& architecture() const { return state_of(*model).architecture; }
  // The most that requests hold, windows considered: pages of a sequence of so many tokens, and of
  // all sequences of a request.
  int64_t pages_of(int64_t tokens) const;
  int64_t pages_of(const Request& request, const PruningSchedule* pruning) const;

  Result<int64_t> submit(Request request);
  Result<int64_t> submit(EncodeRequest request);
  std::vector<Event> step();

 private:
  // A request's share of a pass.
  struct Turn {
    Job* job = nullptr;
    int32_t rows = 0;
  };
  void drop_cancelled(const std::set<int64_t>& numbers);
  StepPlan plan();
  void generate(std::span<const Turn> turns);
  void run_or_fail(std::span<const Turn> turns);
  Status run_together(std::span<const Turn> turns);
  Status forward_parts(std::span<const Turn> turns, ForwardOutput& output);
  Status advance(std::span<const Turn> turns, const ForwardOutput& output);
  void encode(std::span<const Turn> turns);
  void end(Job& job, FinishReason reason, const Status& status);

 public:
  std::shared_ptr<Model> model;
  CachePool pool;
  StepBudget budget;
  Inbox inbox;
  std::list<Job> jobs;  // by number
  // The model's pass, which a test may make fail.
  std::function<Status(const ForwardInput&, ForwardOutput&)> forward;

 private:
  std::vector<Event> events_;            // of the step
  std::vector<SamplerMemory> samplers_;  // [members of the team]
};

struct EngineAccess {
  static EngineState& state(Engine& engine) { return *engine.state_; }
};

}  // namespace tessera
