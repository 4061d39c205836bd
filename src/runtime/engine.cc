#include "tessera/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/guarded.h"
#include "base/memory.h"
#include "runtime/engine_state.h"
#include "runtime/request_check.h"
#include "runtime/whole_sequences.h"

namespace tessera {
namespace {

// Memory that the cache leaves to everything else.
constexpr int64_t kReserveBytes = int64_t{256} << 20;

static_assert(kMostSequences <= kPassRows);

Status check_options(const Engine::Options& options) {
  if (options.cache_bytes < 0 || options.step_tokens < 0 || options.running_requests < 1) {
    return invalid_input(fmt::format(
        "expected cache_bytes and step_tokens of at least 0 and running_requests of at least 1, "
        "found {}, {} and {}",
        options.cache_bytes, options.step_tokens, options.running_requests));
  }
  return {};
}

}  // namespace

int64_t Inbox::submit(std::function<Job(int64_t)> make) {
  const std::lock_guard<std::mutex> lock(mutex_);
  submitted_.push_back(make(next_number_));
  return next_number_++;
}

void Inbox::cancel(int64_t number) {
  const std::lock_guard<std::mutex> lock(mutex_);
  cancelled_.insert(number);
}

bool Inbox::empty() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return submitted_.empty();
}

std::set<int64_t> Inbox::take(std::list<Job>& jobs) {
  const std::lock_guard<std::mutex> lock(mutex_);
  jobs.splice(jobs.end(), submitted_);
  return std::exchange(cancelled_, {});
}

Engine::Engine(std::unique_ptr<EngineState> state) : state_(std::move(state)) {}
Engine::~Engine() = default;
bool Engine::idle() const { return state_->jobs.empty() && state_->inbox.empty(); }
int64_t Engine::cache_bytes_in_use() const { return state_->pool.bytes_in_use(); }

Result<std::unique_ptr<Engine>> Engine::create(std::shared_ptr<Model> model,
                                               const Options& options) {
  if (model == nullptr) return invalid_input("expected a model to run, found none");
  TESSERA_RETURN_IF_ERROR(check_options(options));
  return guarded("engine", [&]() -> Result<std::unique_ptr<Engine>> {
    const int64_t limit = options.cache_bytes > 0
                              ? options.cache_bytes
                              : std::max<int64_t>(available_memory_bytes() - kReserveBytes, 0);
    return std::unique_ptr<Engine>(
        new Engine(std::make_unique<EngineState>(std::move(model), options, limit)));
  });
}

Result<int64_t> Engine::submit(Request request) {
  return guarded("submit", [&] { return state_->submit(std::move(request)); });
}

Result<int64_t> Engine::submit(EncodeRequest request) {
  return guarded("submit", [&] { return state_->submit(std::move(request)); });
}

Result<std::vector<Event>> Engine::step() {
  return guarded("step", [&]() -> Result<std::vector<Event>> { return state_->step(); });
}

void Engine::cancel(int64_t request) { state_->inbox.cancel(request); }

int64_t Engine::prompt_tokens_left(int64_t request) const {
  for (Job& job : state_->jobs) {
    if (job.number != request) continue;
    if (job.encoding() != nullptr) return static_cast<int64_t>(job.encoding()->sequence.ids.size());
    return job.running()->is_decoding() ? 0 : job.running()->waiting();
  }
  return 0;
}

EngineState::EngineState(std::shared_ptr<Model> loaded, const Engine::Options& options,
                         int64_t cache_bytes)
    : model(std::move(loaded)),
      pool(state_of(*model).weights.largest_page(), cache_bytes),
      budget{.step_rows = options.step_tokens > 0 ? options.step_tokens : Engine::kStepTokens,
             .idle_rows = kPromptRows,
             .prompt_rows = kPromptRows,
             .encoding_rows = kEncodingRows,
             .requests = options.running_requests},
      forward([this](const ForwardInput& input, ForwardOutput& output) {
        return state_of(*model).executor->run(input, output);
      }),
      samplers_(static_cast<size_t>(state_of(*model).team->size())) {}

// A layer with a window holds what the window sees and a pass adds, and a page that it begins in.
int64_t EngineState::pages_of(int64_t tokens) const {
  int64_t pages = 0;
  for (int32_t layer = 0; layer < architecture().layer_count(); ++layer) {
    const int64_t window = architecture().layer(layer).window;
    const int64_t held = window > 0 ? std::min(tokens, window + kPromptRows + kPageTokens) : tokens;
    pages += pages_for(static_cast<int32_t>(held));
  }
  return pages;
}

// The prompt's whole pages once, everything behind them for every sequence or beam; but where
// tokens leave, all of them for each.
int64_t EngineState::pages_of(const Request& request, const PruningSchedule* pruning) const {
  const int64_t copies = std::max(request.beams, request.sequences);
  if (pruning != nullptr) {
    int64_t pages = 0;
    for (const int32_t tokens :
         most_alive(*pruning, scheduled_model(architecture()), request.prompt_ids,
                    static_cast<int32_t>(positions_of(request)))) {
      pages += pages_for(tokens);
    }
    return copies * pages;
  }
  const int64_t shared = static_cast<int64_t>(request.prompt_ids.size()) / kPageTokens;
  const int64_t all = pages_for(static_cast<int32_t>(positions_of(request)));
  return std::min(architecture().layer_count() * (shared + copies * (all - shared)),
                  copies * pages_of(positions_of(request)));
}

Result<int64_t> EngineState::submit(Request request) {
  const ModelState& state = state_of(*model);
  TESSERA_RETURN_IF_ERROR(check_request(state, request));
  TESSERA_ASSIGN_OR_RETURN(RequestPruning pruning, pruning_of(state, request));
  const int64_t bytes = pages_of(request, pruning.schedule.get()) * pool.page_bytes();
  if (bytes > pool.limit_bytes()) {
    return invalid_input(fmt::format("{} tokens need {} bytes of cache, more than its {}",
                                     positions_of(request), bytes, pool.limit_bytes()));
  }
  if (!request.ignore_end) {
    const std::vector<int32_t>& ends = architecture().end_ids;
    request.stop_ids.insert(request.stop_ids.end(), ends.begin(), ends.end());
  }
  return inbox.submit([&](int64_t number) {
    return Job{number, Running(number, std::move(request), scheduled_model(architecture()),
                               state.tokenizer, std::move(pruning))};
  });
}

Result<int64_t> EngineState::submit(EncodeRequest request) {
  const ModelState& state = state_of(*model);
  if (request.output == EncodeOutput::kEmbedding) cut_to_limit(state, {&request.sequence, 1});
  TESSERA_RETURN_IF_ERROR(check_encoding(state, request));
  return inbox.submit([&](int64_t number) { return Job{number, std::move(request)}; });
}

}  // namespace tessera
