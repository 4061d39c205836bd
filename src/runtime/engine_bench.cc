// What a prompt of 2000 tokens costs a stream beside it, and itself, by the tokens of a step. The
// environment variable TESSERA_MODEL names the model, a decoder (tools/make_random_checkpoint.py
// makes one); without it nothing is measured.
//   step_ms         a step of the stream alone, median
//   largest_gap     the longest that the stream waits for a token meanwhile, in such steps
//   prompt_s        until the prompt's first token, beside the stream
//   alone_s         the same without a stream
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <vector>

#include "tessera/engine.h"

namespace tessera {
namespace {

constexpr int32_t kPromptTokens = 2000;
constexpr int kSteps = 20;

double seconds_of_step(Engine& engine, benchmark::State& state) {
  const auto start = std::chrono::steady_clock::now();
  if (const auto events = engine.step(); !events.ok())
    state.SkipWithError(events.status().message().c_str());
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

Request request_of(int32_t length, int32_t tokens) {
  Request request{.max_new_tokens = tokens, .ignore_end = true};
  for (int32_t i = 0; i < length; ++i) request.prompt_ids.push_back(100 + 7 * i % 1000);
  return request;
}

// Seconds until the prompt has run; every step's time goes to `steps`.
double run_prompt(Engine& engine, int32_t tokens, std::vector<double>& steps,
                  benchmark::State& state) {
  const auto number = engine.submit(request_of(tokens, 1000));
  if (!number.ok()) {
    state.SkipWithError(number.status().message().c_str());
    return 0;
  }
  double seconds = 0;
  do {
    steps.push_back(seconds_of_step(engine, state));
    seconds += steps.back();
  } while (engine.prompt_tokens_left(*number) > 0 && !state.error_occurred());
  return seconds;
}

void prompt_beside_a_stream(benchmark::State& state) {
  const char* folder = std::getenv("TESSERA_MODEL");
  if (folder == nullptr) return state.SkipWithError("TESSERA_MODEL names no model");
  static const auto model = Model::load(folder);
  if (!model.ok()) return state.SkipWithError(model.status().message().c_str());
  const Engine::Options options{.step_tokens = static_cast<int32_t>(state.range(0))};
  const int32_t prompt = std::min(kPromptTokens, (*model)->info().max_positions - 1000);
  for (auto _ : state) {
    std::vector<double> alone, beside, lone;
    const auto engine = Engine::create(*model, options), other = Engine::create(*model, options);
    run_prompt(**engine, 10, alone, state);
    alone.clear();
    for (int i = 0; i < kSteps; ++i) alone.push_back(seconds_of_step(**engine, state));
    std::nth_element(alone.begin(), alone.begin() + kSteps / 2, alone.end());
    const double step = alone[kSteps / 2];
    state.counters["step_ms"] = 1e3 * step;
    state.counters["prompt_s"] = run_prompt(**engine, prompt, beside, state);
    state.counters["largest_gap"] = *std::max_element(beside.begin(), beside.end()) / step;
    std::nth_element(beside.begin(), beside.begin() + static_cast<long>(beside.size()) / 2,
                     beside.end());
    state.counters["median_gap"] = beside[beside.size() / 2] / step;
    state.counters["alone_s"] = run_prompt(**other, prompt, lone, state);
  }
}
BENCHMARK(prompt_beside_a_stream)
    ->Arg(8)
    ->Arg(16)
    ->Arg(24)
    ->Arg(32)
    ->Arg(48)
    ->Arg(64)
    ->Arg(512)
    ->Iterations(1)
    ->Unit(benchmark::kSecond);

}  // namespace
}  // namespace tessera

// main stands in sampling_bench.cc.
