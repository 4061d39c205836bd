#include "tessera/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <list>
#include <utility>

#include "base/guarded.h"
#include "base/memory.h"
#include "runtime/cache_pool.h"
#include "runtime/model_state.h"
#include "runtime/sampling.h"

namespace tessera {
namespace {

// Rows of a prompt that one pass takes: enough to fill every core, few enough for small scratch
// memory.
constexpr int32_t kPromptRows = 512;
// Rows of all requests in one pass; further ones wait for the next pass of the step.
constexpr int32_t kPassRows = 2048;
// Memory that the cache leaves to everything else.
constexpr int64_t kReserveBytes = int64_t{256} << 20;

// The last token is not run.
int64_t positions_of(const Request& request) {
  return static_cast<int64_t>(request.prompt_ids.size()) + request.max_new_tokens - 1;
}

// One request on its way. `done` tokens of `ids` are in the cache.
struct Running {
  int64_t number = 0;
  Request request;
  std::vector<int32_t> ids;
  int32_t done = 0;
  int32_t generated = 0;
  std::vector<PageTable> tables;  // [layer]
  Sampler sampler;
  std::unique_ptr<StreamDecoder> text;
  bool cancelled = false;
  bool finished = false;

  int32_t waiting() const { return static_cast<int32_t>(ids.size()) - done; }
};

}  // namespace

struct Engine::State {
  State(std::shared_ptr<Model> loaded, int64_t cache_bytes)
      : model(std::move(loaded)),
        pool(model->state().architecture.attention_shape(0).pages, cache_bytes) {}

  const Architecture& architecture() const { return model->state().architecture; }
  int64_t pages_bytes(int64_t tokens) const {
    return architecture().layers * int64_t{pages_for(static_cast<int32_t>(tokens))} *
           pool.page_bytes();
  }
  Status pass(const std::vector<std::pair<Running*, int32_t>>& parts, HeadRows head_rows,
              ForwardOutput& output);
  Status run_prompt_heads();
  Status run_together(std::list<Running>::iterator& next);
  Result<Event> advance(Running& running, std::span<const float> logits);
  Status admit(const Request& request, int64_t bytes) const;
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

Engine::Engine(std::unique_ptr<State> state) : state_(std::move(state)) {}
Engine::~Engine() = default;
bool Engine::idle() const { return state_->running.empty(); }
int64_t Engine::cache_bytes_in_use() const { return state_->pool.bytes_in_use(); }

Result<std::unique_ptr<Engine>> Engine::create(std::shared_ptr<Model> model,
                                               const Options& options) {
  if (model == nullptr) return invalid_input("expected a model to generate with, found none");
  const Architecture& a = model->state().architecture;
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
    return std::unique_ptr<Engine>(new Engine(std::make_unique<State>(std::move(model), limit)));
  });
}

Result<int64_t> Engine::submit(Request request) {
  return guarded("submit", [&] { return state_->start(std::move(request)); });
}

// Checks a request, whose cache will take so many bytes, against the model and the cache.
Status Engine::State::admit(const Request& request, int64_t bytes) const {
  const Architecture& a = architecture();
  if (request.max_new_tokens < 1) {
    return invalid_input(
        fmt::format("max_new_tokens: expected at least 1, found {}", request.max_new_tokens));
  }
  TESSERA_RETURN_IF_ERROR(check_sampling(request.sampling));
  TESSERA_RETURN_IF_ERROR(check_sequence(a, {request.prompt_ids, {}}, "prompt"));
  if (positions_of(request) > a.max_positions) {
    return invalid_input(fmt::format(
        "the prompt has {} tokens and {} new ones were asked for, which takes {} "
        "positions: more than the model's context of {}",
        request.prompt_ids.size(), request.max_new_tokens, positions_of(request), a.max_positions));
  }
  if (promised_bytes + bytes > pool.limit_bytes()) {
    return out_of_memory(fmt::format("{} tokens need {} bytes of cache, but only {} of {} are free",
                                     positions_of(request), bytes,
                                     pool.limit_bytes() - promised_bytes, pool.limit_bytes()));
  }
  return {};
}

Result<int64_t> Engine::State::start(Request request) {
  const int64_t bytes = pages_bytes(positions_of(request));
  TESSERA_RETURN_IF_ERROR(admit(request, bytes));
  if (!request.ignore_end) {
    const std::vector<int32_t>& ends = architecture().end_ids;
    request.stop_ids.insert(request.stop_ids.end(), ends.begin(), ends.end());
  }
  std::list<Running> one;
  const Sampling sampling = request.sampling;
  std::vector<int32_t> ids = request.prompt_ids;
  one.push_back({.number = next_number,
                 .request = std::move(request),
                 .ids = std::move(ids),
                 .tables = std::vector<PageTable>(static_cast<size_t>(architecture().layers)),
                 .sampler = Sampler(sampling)});
  if (const auto& tokenizer = model->state().tokenizer; tokenizer != nullptr) {
    one.front().text = std::make_unique<StreamDecoder>(tokenizer, DecodeSpecial::kSkip);
    one.front().text->prime(one.front().ids);
  }
  running.splice(running.end(), one);
  promised_bytes += bytes;
  return next_number++;
}

// Runs the next `count` tokens of each part through the model.
Status Engine::State::pass(const std::vector<std::pair<Running*, int32_t>>& parts,
                           HeadRows head_rows, ForwardOutput& output) {
  TokenLayout layout;
  std::vector<int32_t> ids;
  std::vector<PageTable*> tables;
  for (const auto& [part, count] : parts) {
    layout.append(count, part->done);
    ids.insert(ids.end(), part->ids.begin() + part->done, part->ids.begin() + part->done + count);
  }
  for (int32_t layer = 0; layer < architecture().layers; ++layer) {
    for (const auto& [part, count] : parts) {
      PageTable& table = part->tables[static_cast<size_t>(layer)];
      TESSERA_RETURN_IF_ERROR(pool.reserve(table, count));
      tables.push_back(&table);
    }
  }
  const ForwardInput input{.ids = ids, .layout = &layout, .tables = tables, .head_rows = head_rows};
  TESSERA_RETURN_IF_ERROR(model->state().executor->run(input, output));
  for (const auto& [part, count] : parts) part->done += count;
  return {};
}

// Long prompts run piece by piece until the rest fits the common pass.
Status Engine::State::run_prompt_heads() {
  for (Running& each : running) {
    while (!each.cancelled && each.waiting() > kPromptRows) {
      ForwardOutput ignored;
      TESSERA_RETURN_IF_ERROR(pass({{&each, kPromptRows}}, HeadRows::kNone, ignored));
    }
  }
  return {};
}

Result<Event> Engine::State::advance(Running& each, std::span<const float> logits) {
  Event event{.request = each.number};
  TESSERA_ASSIGN_OR_RETURN(event.token, each.sampler.next(logits, each.ids));
  if (each.request.log_probabilities) {
    event.log_probability =
        static_cast<float>(logits[static_cast<size_t>(event.token)] - log_sum_exp(logits));
  }
  each.ids.push_back(event.token);
  ++each.generated;
  const auto& stops = each.request.stop_ids;
  if (std::find(stops.begin(), stops.end(), event.token) != stops.end()) {
    event.finished = FinishReason::kEndToken;
  } else if (each.generated >= each.request.max_new_tokens) {
    event.finished = FinishReason::kLength;
  }
  if (each.text != nullptr) {
    // An id beyond the tokenizer's vocabulary has no text.
    if (auto text = each.text->next(event.token); text.ok()) event.text = std::move(text).value();
    if (event.finished != FinishReason::kNone) {
      if (auto rest = each.text->finish(); rest.ok()) event.text += rest.value();
    }
  }
  return event;
}

// Runs the waiting tokens of the requests from `next` on, as many as one pass takes, and draws a
// token for each. A request that gives none ends; the others go on.
Status Engine::State::run_together(std::list<Running>::iterator& next) {
  std::vector<std::pair<Running*, int32_t>> parts;
  int32_t rows = 0;
  for (; next != running.end(); ++next) {
    if (!parts.empty() && rows + next->waiting() > kPassRows) break;
    rows += next->waiting();
    parts.push_back({&*next, next->waiting()});
  }
  pending.reserve(pending.size() + parts.size());
  ForwardOutput output;
  TESSERA_RETURN_IF_ERROR(pass(parts, HeadRows::kLastOfEach, output));
  const size_t width = static_cast<size_t>(output.width);
  Status status;
  for (size_t i = 0; i < parts.size(); ++i) {
    Running& each = *parts[i].first;
    auto event = advance(each, {output.logits.data() + i * width, width});
    each.finished = !event.ok() || event->finished != FinishReason::kNone;
    if (event.ok()) {
      pending.push_back(std::move(event).value());
    } else {
      status = event.status();
    }
  }
  return status;
}

void Engine::State::finish(Running& each) {
  for (PageTable& table : each.tables) pool.release(table);
  promised_bytes -= pages_bytes(positions_of(each.request));
}

void Engine::State::drop_cancelled() {
  std::erase_if(running, [&](Running& each) {
    if (!each.cancelled) return false;
    pending.push_back({.request = each.number, .finished = FinishReason::kCancelled});
    finish(each);
    return true;
  });
}

Result<std::vector<Event>> Engine::step() {
  return guarded("step", [&]() -> Result<std::vector<Event>> {
    State& state = *state_;
    state.drop_cancelled();
    TESSERA_RETURN_IF_ERROR(state.run_prompt_heads());
    Status status;
    for (auto next = state.running.begin(); next != state.running.end() && status.ok();) {
      status = state.run_together(next);
    }
    std::erase_if(state.running, [&](Running& each) {
      if (each.finished) state.finish(each);
      return each.finished;
    });
    if (!status.ok()) return status;
    return std::exchange(state.pending, {});
  });
}

void Engine::cancel(int64_t request) {
  for (Running& each : state_->running) each.cancelled = each.cancelled || each.number == request;
}

Result<Generation> generate(std::shared_ptr<Model> model, Request request,
                            const std::function<bool(const Event&)>& on_token) {
  using Clock = std::chrono::steady_clock;
  const auto seconds_since = [](Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  return guarded("generate", [&]() -> Result<Generation> {
    TESSERA_ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine,
                             Engine::create(std::move(model), {}));
    const Clock::time_point start = Clock::now();
    TESSERA_ASSIGN_OR_RETURN(const int64_t number, engine->submit(std::move(request)));
    Generation generation;
    while (!engine->idle()) {
      TESSERA_ASSIGN_OR_RETURN(const std::vector<Event> events, engine->step());
      if (generation.ids.empty()) generation.prompt_seconds = seconds_since(start);
      for (const Event& event : events) {
        generation.finished = event.finished;
        if (event.finished == FinishReason::kCancelled) continue;
        generation.ids.push_back(event.token);
        generation.text += event.text;
        if (event.log_probability) generation.log_probabilities.push_back(*event.log_probability);
        if (on_token && !on_token(event)) engine->cancel(number);
      }
    }
    generation.total_seconds = seconds_since(start);
    return generation;
  });
}

}  // namespace tessera
