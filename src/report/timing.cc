#include "report/timing.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <random>

#include "io/json_at.h"
#include "report/watch.h"
#include "tessera/engine.h"

namespace tessera {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kTries = 4;
constexpr size_t kMostTurns = 1000, kMostSamples = 10'000'000;
constexpr double kMostNumber = 1e18;

double milliseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

// A workload on one model. The ids are random, of a seed that is the same for all.
class Runner {
 public:
  Runner(std::shared_ptr<Model> model, const RecipeWorkload& workload)
      : model_(std::move(model)), workload_(workload) {}

  // Tokens of a pass or step.
  int64_t tokens() const {
    return workload_.batch * (workload_.new_tokens > 0 ? 1 : workload_.tokens);
  }

  // One pass, or one generation, whose steps behind the prompt are the samples. Counts in the
  // model's profile, if profile is not null, what the samples did.
  Status run(std::vector<double>* milliseconds, std::vector<OperationProfile>* profile) {
    return model_->info().head == Head::kCausalLm ? generate(milliseconds, profile)
                                                  : pass(milliseconds, profile);
  }

 private:
  std::vector<int32_t> ids(std::mt19937& random) const {
    std::vector<int32_t> ids(static_cast<size_t>(workload_.tokens));
    const auto vocabulary = static_cast<uint32_t>(model_->info().vocabulary_size);
    for (int32_t& id : ids) id = static_cast<int32_t>(random() % vocabulary);
    return ids;
  }

  Status pass(std::vector<double>* milliseconds, std::vector<OperationProfile>* profile) {
    if (sequences_.empty()) {
      std::mt19937 random(1);
      for (int64_t b = 0; b < workload_.batch; ++b) sequences_.push_back({ids(random)});
    }
    if (profile != nullptr) model_->start_profile();
    const Clock::time_point start = Clock::now();
    const Result<ForwardResult> result = model_->forward(sequences_);
    milliseconds->push_back(milliseconds_since(start));
    if (profile != nullptr) *profile = model_->stop_profile();
    return result.status();
  }

  // The engine's first steps run the prompts, all together, and every other one a token each.
  Status generate(std::vector<double>* milliseconds, std::vector<OperationProfile>* profile) {
    if (engine_ == nullptr) {
      const auto tokens =
          static_cast<int32_t>(std::min<int64_t>(workload_.batch * workload_.tokens, INT32_MAX));
      TESSERA_ASSIGN_OR_RETURN(
          engine_,
          Engine::create(model_, {.step_tokens = tokens,
                                  .running_requests = static_cast<int32_t>(workload_.batch)}));
    }
    const bool decodes = workload_.new_tokens > 0;
    std::mt19937 random(1);
    for (int64_t b = 0; b < workload_.batch; ++b) {
      Request request;
      request.prompt_ids = ids(random);
      request.max_new_tokens = decodes ? static_cast<int32_t>(workload_.new_tokens) : 1;
      request.ignore_end = true;
      const Result<int64_t> number = engine_->submit(std::move(request));
      if (!number.ok()) return number.status();
    }
    if (profile != nullptr && !decodes) model_->start_profile();
    double prompt_time = 0;
    for (bool prompt_has_run = false; !engine_->idle();) {
      const Clock::time_point start = Clock::now();
      const Result<std::vector<Event>> events = engine_->step();
      const double time = milliseconds_since(start);
      if (!events.ok()) return events.status();
      for (const Event& event : *events) {
        if (event.finished == FinishReason::kFailed) return event.status;
      }
      if (decodes && prompt_has_run) milliseconds->push_back(time);
      if (prompt_has_run || events->empty()) {
        prompt_time += time;
        continue;
      }
      prompt_has_run = true;
      if (!decodes) milliseconds->push_back(prompt_time + time);
      if (profile != nullptr && decodes) model_->start_profile();
    }
    if (profile != nullptr) *profile = model_->stop_profile();
    return {};
  }

  std::shared_ptr<Model> model_;
  const RecipeWorkload& workload_;
  std::vector<TokenSequence> sequences_;
  std::unique_ptr<Engine> engine_;
};

Status count_work(Runner& runner, TimedVariant& variant) {
  std::vector<double> milliseconds;
  std::vector<OperationProfile> profile;
  TESSERA_RETURN_IF_ERROR(runner.run(&milliseconds, &profile));
  const auto samples = static_cast<double>(std::max<size_t>(1, milliseconds.size()));
  for (const OperationProfile& each : profile) {
    variant.flops += each.flops / samples;
    variant.dense_flops += each.dense_flops / samples;
  }
  variant.tokens = runner.tokens();
  return {};
}

Result<TimedTurn> take_turn(Runner& runner, const RecipeTiming& timing) {
  TimedTurn best;
  for (int attempt = 0; attempt < kTries; ++attempt) {
    TimedTurn turn;
    const Watch watch;
    const Clock::time_point start = Clock::now();
    while (static_cast<int64_t>(turn.milliseconds.size()) < timing.samples ||
           milliseconds_since(start) < 1e3 * timing.seconds) {
      TESSERA_RETURN_IF_ERROR(runner.run(&turn.milliseconds, nullptr));
    }
    turn.is_disturbed = watch.is_disturbed();
    turn.others = watch.others();
    if (attempt == 0 || turn.others < best.others) best = std::move(turn);
    if (!best.is_disturbed) break;
  }
  return best;
}

Result<TimedTurn> read_turn(const JsonAt& at) {
  TimedTurn turn;
  TESSERA_ASSIGN_OR_RETURN(const JsonAt samples, at.need("samples_ms"));
  TESSERA_ASSIGN_OR_RETURN(const std::vector<JsonAt> list, samples.list(1, kMostSamples));
  for (const JsonAt& each : list) {
    TESSERA_ASSIGN_OR_RETURN(const double value, each.number(0, kMostNumber));
    turn.milliseconds.push_back(value);
  }
  TESSERA_ASSIGN_OR_RETURN(turn.others, at.number_or("others", 0, 0, kMostNumber));
  TESSERA_ASSIGN_OR_RETURN(const JsonAt disturbed, at.need("disturbed"));
  TESSERA_ASSIGN_OR_RETURN(const Truth truth, disturbed.truth());
  turn.is_disturbed = truth == Truth::kYes;
  return turn;
}

Result<TimedVariant> read_variant(const JsonAt& at) {
  TimedVariant variant;
  TESSERA_ASSIGN_OR_RETURN(variant.tokens, at.integer_or("tokens", 0, 0, INT64_MAX));
  TESSERA_ASSIGN_OR_RETURN(variant.flops, at.number_or("flops", 0, 0, kMostNumber));
  TESSERA_ASSIGN_OR_RETURN(variant.dense_flops, at.number_or("dense_flops", 0, 0, kMostNumber));
  TESSERA_ASSIGN_OR_RETURN(const JsonAt turns, at.need("rounds"));
  TESSERA_ASSIGN_OR_RETURN(const std::vector<JsonAt> list, turns.list(1, kMostTurns));
  for (const JsonAt& each : list) {
    TESSERA_ASSIGN_OR_RETURN(TimedTurn turn, read_turn(each));
    variant.turns.push_back(std::move(turn));
  }
  return variant;
}

}  // namespace

Result<std::vector<TimedVariant>> time_variants(const RecipeWorkload& workload,
                                                const RecipeTiming& timing, size_t variants,
                                                const ModelOf& model_of,
                                                const TurnProgress& on_progress) {
  std::vector<TimedVariant> timed(variants);
  const auto total = timing.rounds * static_cast<int64_t>(variants);
  int64_t done = 0;
  for (int64_t round = 0; round < timing.rounds; ++round) {
    for (size_t i = 0; i < variants; ++i) {
      if (on_progress && !on_progress(done++, total))
        return Status(StatusCode::kCancelled, "cancelled while timing");
      const size_t which = round % 2 == 0 ? i : variants - 1 - i;
      TESSERA_ASSIGN_OR_RETURN(std::shared_ptr<Model> model, model_of(which));
      Runner runner(std::move(model), workload);
      // The others' turns have filled the caches with other weights; this run brings its own.
      std::vector<double> unused;
      if (round == 0) {
        TESSERA_RETURN_IF_ERROR(count_work(runner, timed[which]));
      } else {
        TESSERA_RETURN_IF_ERROR(runner.run(&unused, nullptr));
      }
      TESSERA_ASSIGN_OR_RETURN(TimedTurn turn, take_turn(runner, timing));
      timed[which].turns.push_back(std::move(turn));
    }
  }
  return timed;
}

double quantile_of(std::vector<double> values, double at) {
  std::sort(values.begin(), values.end());
  const double place = at * static_cast<double>(values.size() - 1);
  const auto below = static_cast<size_t>(place);
  const size_t above = std::min(below + 1, values.size() - 1);
  return values[below] + (place - static_cast<double>(below)) * (values[above] - values[below]);
}

TimingNumbers numbers_of(const TimedVariant& variant, const TimedVariant& base) {
  TimingNumbers numbers;
  std::vector<double> medians, lows, highs, ratios;
  for (size_t round = 0; round < variant.turns.size(); ++round) {
    const TimedTurn& turn = variant.turns[round];
    medians.push_back(quantile_of(turn.milliseconds, 0.5));
    lows.push_back(quantile_of(turn.milliseconds, 0.1));
    highs.push_back(quantile_of(turn.milliseconds, 0.9));
    if (round < base.turns.size()) {
      const double other = quantile_of(base.turns[round].milliseconds, 0.5);
      ratios.push_back(other > 0 ? medians.back() / other : 1);
    }
    numbers.others = std::max(numbers.others, turn.others);
    numbers.is_disturbed = numbers.is_disturbed || turn.is_disturbed;
    numbers.samples += static_cast<int64_t>(turn.milliseconds.size());
  }
  if (medians.empty()) return numbers;
  numbers.median_ms = quantile_of(medians, 0.5);
  numbers.p10_ms = quantile_of(lows, 0.5);
  numbers.p90_ms = quantile_of(highs, 0.5);
  if (numbers.median_ms > 0)
    numbers.tokens_per_second = 1e3 * static_cast<double>(variant.tokens) / numbers.median_ms;
  if (ratios.empty()) return numbers;
  numbers.ratio = quantile_of(ratios, 0.5);
  numbers.ratio_low = quantile_of(ratios, 0);
  numbers.ratio_high = quantile_of(ratios, 1);
  return numbers;
}

std::string timing_to_json(const std::vector<TimedVariant>& variants) {
  using Json = nlohmann::ordered_json;
  Json list = Json::array();
  for (const TimedVariant& variant : variants) {
    Json rounds = Json::array();
    for (const TimedTurn& turn : variant.turns) {
      rounds.push_back({{"samples_ms", turn.milliseconds},
                        {"others", turn.others},
                        {"disturbed", turn.is_disturbed}});
    }
    list.push_back({{"tokens", variant.tokens},
                    {"flops", variant.flops},
                    {"dense_flops", variant.dense_flops},
                    {"rounds", std::move(rounds)}});
  }
  return list.dump();
}

Result<std::vector<TimedVariant>> timing_from_json(const std::string& text,
                                                   const std::string& source, size_t variants) {
  TESSERA_ASSIGN_OR_RETURN(const Json root, parse_json(text, source));
  TESSERA_ASSIGN_OR_RETURN(const std::vector<JsonAt> list,
                           JsonAt(root, source).list(variants, variants));
  std::vector<TimedVariant> timed;
  for (const JsonAt& each : list) {
    TESSERA_ASSIGN_OR_RETURN(TimedVariant variant, read_variant(each));
    timed.push_back(std::move(variant));
  }
  return timed;
}

}  // namespace tessera
