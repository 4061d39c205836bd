#include <fmt/format.h>

#include <chrono>
#include <optional>
#include <utility>

#include "base/guarded.h"
#include "tessera/engine.h"

namespace tessera {

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
      if (!prompt_seconds && engine->prompt_tokens_left(number) == 0) prompt_seconds = seconds;
      for (const Event& event : events) {
        if (event.finished == FinishReason::kFailed) return event.status;
        const size_t index = static_cast<size_t>(event.sequence);
        if (index >= generations.size()) generations.resize(index + 1);
        Generation& generation = generations[index];
        generation.finished = event.finished;
        generation.prompt_seconds = prompt_seconds.value_or(seconds);
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
