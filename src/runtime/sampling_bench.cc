// What choosing a token takes beside a decode step, by vocabulary and by options: microseconds.
// Scores as a model has them: a wide bell of which a few stand out.
#include <benchmark/benchmark.h>

#include <random>
#include <vector>

#include "runtime/sampling.h"

namespace tessera {
namespace {

std::vector<float> scores(int64_t vocabulary) {
  std::mt19937 random(7);
  std::normal_distribution<float> bell(0, 2.5f);
  std::uniform_real_distribution<float> peak(10, 16);
  std::vector<float> logits(static_cast<size_t>(vocabulary));
  for (float& logit : logits) logit = bell(random);
  for (int i = 0; i < 20; ++i) logits[random() % logits.size()] = peak(random);
  return logits;
}

void choose(benchmark::State& state, const Sampling& sampling) {
  const std::vector<float> logits = scores(state.range(0));
  Sampler sampler(sampling);
  SamplerMemory memory;
  for (auto _ : state) benchmark::DoNotOptimize(sampler.next(logits, {}, &memory));
}

constexpr int64_t kLlama = 32000, kQwen = 151936;

#define TESSERA_SAMPLING(name, ...)                     \
  BENCHMARK_CAPTURE(choose, name, Sampling __VA_ARGS__) \
      ->Arg(kLlama)                                     \
      ->Arg(kQwen)                                      \
      ->Unit(benchmark::kMicrosecond)

TESSERA_SAMPLING(greedy, {});
TESSERA_SAMPLING(temperature, {.temperature = 0.8f});
TESSERA_SAMPLING(top_k, {.temperature = 0.8f, .top_k = 50});
TESSERA_SAMPLING(top_p, {.temperature = 0.8f, .top_p = 0.95f});
TESSERA_SAMPLING(top_k_top_p, {.temperature = 0.8f, .top_k = 50, .top_p = 0.95f});
TESSERA_SAMPLING(min_p, {.temperature = 0.8f, .min_p = 0.05f});

}  // namespace
}  // namespace tessera

BENCHMARK_MAIN();
