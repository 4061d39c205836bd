#include "tessera/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <list>
#include <optional>
#include <utility>

#include "base/guarded.h"
#include "base/memory.h"
#include "runtime/cache_pool.h"
#include "runtime/model_state.h"
#include "runtime/running.h"

namespace tessera {
namespace {

// Rows of a prompt that one pass takes: enough to fill every core, few enough for small scratch
// memory.
constexpr int32_t kPromptRows = 512;
// Rows of all requests in one pass; further ones wait for the next pass of the step.
constexpr int32_t kPassRows = 2048;
// Memory that the cache leaves to everything else.
constexpr int64_t kReserveBytes = int64_t{256} << 20;

// Bounds what a request can ask for; a pass takes all of its sequences together.
constexpr int32_t kMostSequences = 1024;
static_assert(kMostSequences <= kPassRows);

// The last token is not run.
int64_t positions_of(const Request& request) {
  return static_cast<int64_t>(request.prompt_ids.size()) + request.max_new_tokens - 1;
}

Status check_count(const char* name, int32_t count) {
  if (count >= 1 && count <= kMostSequences) return {};
  return invalid_input(fmt::format("{}: expected 1 to {}, found {}", name, kMostSequences, count));
}

// What does not depend on the model.
Status check_options(const Request& request) {
  if (request.max_new_tokens < 1) {
    return invalid_input(
        fmt::format("max_new_tokens: expected at least 1, found {}", request.max_new_tokens));
  }
  TESSERA_RETURN_IF_ERROR(check_sampling(request.sampling));
  TESSERA_RETURN_IF_ERROR(check_stop_strings(request.stop_strings));
  TESSERA_RETURN_IF_ERROR(check_count("beams", request.beams));
  TESSERA_RETURN_IF_ERROR(check_count("sequences", request.sequences));
  if (request.beams > 1 && request.sampling.temperature > 0) {
    return unsupported(fmt::format("expected beams or a temperature above 0, found {} beams at {}",
                                   request.beams, request.sampling.temperature));
  }
  if (request.beams > 1 && !request.stop_strings.empty()) {
    return unsupported(fmt::format("expected beams or stop strings, found {} beams and {} strings",
                                   request.beams, request.stop_strings.size()));
  }
  if (request.beams > 1 && request.sequences > request.beams) {
    return invalid_input(fmt::format("sequences: expected at most {}, one a beam, found {}",
                                     request.beams, request.sequences));
  }
  if (request.beams == 1 && request.sampling.temperature == 0 && request.sequences > 1) {
    return invalid_input(fmt::format(
        "sequences: expected 1, since greedy ones would be equal, found {}", request.sequences));
  }
  return {};
}

}  // namespace

struct EngineState {
  EngineState(std::shared_ptr<Model> loaded, int64_t cache_bytes)
      : model(std::move(loaded)), pool(state_of(*model).weights.largest_page(), cache_bytes) {}

  const Architecture& architecture() const { return state_of(*model).architecture; }
  int64_t cache_bytes_of(const Request& request) const;
  Status pass(const std::vector<std::pair<Sequence*, int32_t>>& parts, HeadRows head_rows,
              ForwardOutput& output);
  Status run_prompt_heads();
  Status run_together(std::list<Running>::iterator& next);
  Status check(const Request& request) const;
  Result<int64_t> start(Request request);
  void drop_cancelled();
  void finish(Running& running);

  std::shared_ptr<Model> model;
  CachePool pool;
  std::list<Running> running;
  std::vector<Event> pending;  // what a step that failed had already made
  int64_t next_number = 0;
  int64_t promised_bytes = 0;  // what the running requests may come to use
};

Engine::Engine(std::unique_ptr<EngineState> state) : state_(std::move(state)) {}
Engine::~Engine() = default;
bool Engine::idle() const { return state_->running.empty() && state_->pending.empty(); }
int64_t Engine::cache_bytes_in_use() const { return state_->pool.bytes_in_use(); }

Result<std::unique_ptr<Engine>> Engine::create(std::shared_ptr<Model> model,
                                               const Options& options) {
  if (model == nullptr) return invalid_input("expected a model to generate with, found none");
  const Architecture& a = state_of(*model).architecture;
  if (!a.is_decoder() || a.head != Head::kCausalLm) {
    return unsupported(fmt::format(
        "expected a model with a causal language-model head to generate with, found {} ({})",
        a.class_name.empty() ? a.family : a.class_name,
        a.is_decoder() ? "a decoder without one" : "an encoder"));
  }
  return guarded("engine", [&]() -> Result<std::unique_ptr<Engine>> {
    const int64_t limit = options.cache_bytes > 0
                              ? options.cache_bytes
                              : std::max<int64_t>(available_memory_bytes() - kReserveBytes, 0);
    return std::unique_ptr<Engine>(
        new Engine(std::make_unique<EngineState>(std::move(model), limit)));
  });
}

Result<int64_t> Engine::submit(Request request) {
  return guarded("submit", [&] { return state_->start(std::move(request)); });
}

// What a request may come to use: the prompt's whole pages once, everything behind them for every
// sequence or beam.
int64_t EngineState::cache_bytes_of(const Request& request) const {
  const int64_t shared = static_cast<int64_t>(request.prompt_ids.size()) / kPageTokens;
  const int64_t all = pages_for(static_cast<int32_t>(positions_of(request)));
  const int64_t copies = std::max(request.beams, request.sequences);
  return architecture().layer_count() * (shared + copies * (all - shared)) * pool.page_bytes();
}

Status EngineState::check(const Request& request) const {
  const Architecture& a = architecture();
  TESSERA_RETURN_IF_ERROR(check_options(request));
  TESSERA_RETURN_IF_ERROR(check_sequence(state_of(*model), {request.prompt_ids, {}}, "prompt"));
  if (positions_of(request) > a.max_positions) {
    return invalid_input(fmt::format(
        "the prompt has {} tokens and {} new ones were asked for, which takes {} "
        "positions: more than the model's context of {}",
        request.prompt_ids.size(), request.max_new_tokens, positions_of(request), a.max_positions));
  }
  if (!request.stop_strings.empty() && state_of(*model).tokenizer == nullptr) {
    return not_found(fmt::format("{} has no tokenizer: stop strings need text",
                                 state_of(*model).info.directory));
  }
  return {};
}

Result<int64_t> EngineState::start(Request request) {
  TESSERA_RETURN_IF_ERROR(check(request));
  const int64_t bytes = cache_bytes_of(request);
  if (bytes > pool.limit_bytes()) {
    return invalid_input(fmt::format("{} tokens need {} bytes of cache, more than its {}",
                                     positions_of(request), bytes, pool.limit_bytes()));
  }
  if (promised_bytes + bytes > pool.limit_bytes()) {
    return out_of_memory(fmt::format("{} tokens need {} bytes of cache, but only {} of {} are free",
                                     positions_of(request), bytes,
                                     pool.limit_bytes() - promised_bytes, pool.limit_bytes()));
  }
  if (!request.ignore_end) {
    const std::vector<int32_t>& ends = architecture().end_ids;
    request.stop_ids.insert(request.stop_ids.end(), ends.begin(), ends.end());
  }
  running.emplace_back(next_number, std::move(request), architecture().layer_count(),
                       state_of(*model).tokenizer);
  promised_bytes += bytes;
  return next_number++;
}

// Runs the next `count` tokens of each part through the model.
Status EngineState::pass(const std::vector<std::pair<Sequence*, int32_t>>& parts,
                         HeadRows head_rows, ForwardOutput& output) {
  TokenLayout layout;
  std::vector<int32_t> ids;
  std::vector<PageTable*> tables;
  for (const auto& [part, count] : parts) {
    layout.append(count, part->done);
    ids.insert(ids.end(), part->ids.begin() + part->done, part->ids.begin() + part->done + count);
  }
  for (int32_t layer = 0; layer < architecture().layer_count(); ++layer) {
    for (const auto& [part, count] : parts) {
      PageTable& table = part->tables[static_cast<size_t>(layer)];
      TESSERA_RETURN_IF_ERROR(pool.reserve(table, count));
      tables.push_back(&table);
    }
  }
  const ForwardInput input{.ids = ids, .layout = &layout, .tables = tables, .head_rows = head_rows};
  TESSERA_RETURN_IF_ERROR(state_of(*model).executor->run(input, output));
  for (const auto& [part, count] : parts) part->done += count;
  return {};
}

// Long prompts run piece by piece until the rest fits the common pass.
Status EngineState::run_prompt_heads() {
  for (Running& each : running) {
    for (Sequence& sequence : each.sequences()) {
      while (sequence.waiting() > kPromptRows) {
        ForwardOutput ignored;
        TESSERA_RETURN_IF_ERROR(pass({{&sequence, kPromptRows}}, HeadRows::kNone, ignored));
      }
    }
  }
  return {};
}

// Runs the waiting tokens of the requests from `next` on, as many as one pass takes, and lets each
// go on with its logits. A request that cannot ends; the others go on.
Status EngineState::run_together(std::list<Running>::iterator& next) {
  std::vector<std::pair<Sequence*, int32_t>> parts;
  const auto first = next;
  int32_t rows = 0;
  for (; next != running.end(); ++next) {
    if (next != first && rows + next->waiting() > kPassRows) break;
    rows += next->waiting();
    for (Sequence& each : next->sequences()) parts.push_back({&each, each.waiting()});
  }
  pending.reserve(pending.size() + parts.size());
  ForwardOutput output;
  TESSERA_RETURN_IF_ERROR(pass(parts, HeadRows::kLastOfEach, output));
  std::span<const float> logits = output.logits;
  Status status;
  for (auto each = first; each != next; ++each) {
    const size_t size = each->sequences().size() * static_cast<size_t>(output.width);
    const Status advanced = each->advance(logits.first(size), pool, pending);
    logits = logits.subspan(size);
    each->failed = !advanced.ok();
    if (!each->failed) continue;
    status = advanced;
    each->add_last(FinishReason::kFailed, pending);
  }
  return status;
}

void EngineState::finish(Running& each) {
  each.release(pool);
  promised_bytes -= cache_bytes_of(each.request());
}

void EngineState::drop_cancelled() {
  std::erase_if(running, [&](Running& each) {
    if (!each.cancelled) return false;
    each.add_last(FinishReason::kCancelled, pending);
    finish(each);
    return true;
  });
}

Result<std::vector<Event>> Engine::step() {
  return guarded("step", [&]() -> Result<std::vector<Event>> {
    EngineState& state = *state_;
    state.drop_cancelled();
    TESSERA_RETURN_IF_ERROR(state.run_prompt_heads());
    Status status;
    for (auto next = state.running.begin(); next != state.running.end() && status.ok();) {
      status = state.run_together(next);
    }
    std::erase_if(state.running, [&](Running& each) {
      const bool is_over = each.failed || each.sequences().empty();
      if (is_over) state.finish(each);
      return is_over;
    });
    if (!status.ok()) return status;
    return std::exchange(state.pending, {});
  });
}

void Engine::cancel(int64_t request) {
  for (Running& each : state_->running) each.cancelled = each.cancelled || each.number() == request;
}

Result<std::vector<Generation>> generate_sequences(
    std::shared_ptr<Model> model, Request request,
    const std::function<bool(const Event&)>& on_token) {
  using Clock = std::chrono::steady_clock;
  return guarded("generate", [&]() -> Result<std::vector<Generation>> {
    TESSERA_ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine,
                             Engine::create(std::move(model), {}));
    const Clock::time_point start = Clock::now();
    TESSERA_ASSIGN_OR_RETURN(const int64_t number, engine->submit(std::move(request)));
    std::vector<Generation> generations;
    std::optional<double> prompt_seconds;
    bool stopped = false;
    while (!engine->idle()) {
      TESSERA_ASSIGN_OR_RETURN(const std::vector<Event> events, engine->step());
      const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
      if (!prompt_seconds) prompt_seconds = seconds;
      for (const Event& event : events) {
        const size_t index = static_cast<size_t>(event.sequence);
        if (index >= generations.size()) generations.resize(index + 1);
        Generation& generation = generations[index];
        generation.finished = event.finished;
        generation.prompt_seconds = *prompt_seconds;
        generation.total_seconds = seconds;
        if (event.finished == FinishReason::kCancelled) continue;
        generation.ids.push_back(event.token);
        generation.text += event.text;
        if (event.log_probability) generation.log_probabilities.push_back(*event.log_probability);
        if (stopped || !on_token) continue;
        stopped = !on_token(event);
        if (stopped) engine->cancel(number);
      }
    }
    return generations;
  });
}

Result<Generation> generate(std::shared_ptr<Model> model, Request request,
                            const std::function<bool(const Event&)>& on_token) {
  return guarded("generate", [&]() -> Result<Generation> {
    if (request.sequences != 1) {
      return invalid_input(fmt::format(
          "sequences: expected 1 (generate_sequences gives several), found {}", request.sequences));
    }
    TESSERA_ASSIGN_OR_RETURN(std::vector<Generation> generations,
                             generate_sequences(std::move(model), std::move(request), on_token));
    return std::move(generations.front());
  });
}

}  // namespace tessera
