// Speed of the functions of training, forwards and backwards, in rounds of which each measures all
// subjects, so that noise of the machine meets all of them alike.
//   tune_torch_bench [rounds] [dense|pruned|attention|all]
// Linear maps of 2048 rows, dense and pruned at random, and attention over 2048 rows of sequences
// of one length. Prints a JSON object a line: what was measured, milliseconds of a forward pass and
// of one with its backward pass (medians), the share of the f32 peak, of all threads in the same
// rounds, that the latter has for the products that it does (five of attention's seven: two are
// done twice), and how many times as long it takes as ours and dense. Torch's own operations are
// those of the libtorch that this is linked with.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "base/bench.h"
#include "kernels/peak/peak.h"
#include "tune/torch/functions.h"

namespace tessera::training {
namespace {

using torch::Tensor;

constexpr int64_t kRows = 2048;

// Multiply-additions a second of all threads.
double peak() {
  constexpr int64_t kSteps = 2000;
  const int threads = at::get_num_threads();
  std::vector<double> sums(static_cast<size_t>(threads) * 8);
  const double time = seconds([&] {
    at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t) {
      peak::kernels.run({.sum = &sums[static_cast<size_t>(begin) * 8]}, {0, kSteps});
    });
  });
  return static_cast<double>(kSteps * peak::kProductsPerStep * threads) / time;
}

struct Subject {
  std::string name;
  double products = 0;  // of a step
  std::function<Tensor()> forward;
  std::vector<Tensor> inputs;
  std::vector<double> forward_times = {}, step_times = {};
};

void measure(Subject& subject, const Tensor& gradient) {
  for (Tensor& input : subject.inputs) input.mutable_grad() = Tensor();
  Tensor y;
  const double forward = seconds([&] { y = subject.forward(); });
  subject.forward_times.push_back(forward);
  subject.step_times.push_back(forward + seconds([&] { y.backward(gradient); }));
}

void compare(const std::string& what, std::vector<Subject> subjects, const Tensor& gradient,
             int rounds) {
  std::vector<double> peaks;
  for (Subject& subject : subjects) measure(subject, gradient);
  for (Subject& subject : subjects) subject.forward_times.clear(), subject.step_times.clear();
  for (int round = 0; round < rounds; ++round) {
    peaks.push_back(peak());
    for (Subject& subject : subjects) measure(subject, gradient);
  }
  for (const Subject& subject : subjects) {
    std::vector<double> ratios, shares;
    for (size_t i = 0; i < peaks.size(); ++i) {
      ratios.push_back(subject.step_times[i] / subjects.front().step_times[i]);
      shares.push_back(subject.products / peaks[i] / subject.step_times[i]);
    }
    std::printf(
        R"({"what": "%s", "subject": "%s", "forward_ms": %.3f, "step_ms": %.3f, "of_peak": %.3f, )"
        R"("times_ours": %.3f})"
        "\n",
        what.c_str(), subject.name.c_str(), 1e3 * median(subject.forward_times),
        1e3 * median(subject.step_times), median(shares), median(ratios));
    std::fflush(stdout);
  }
}

TileMask random_mask(TileShape tile, int64_t outputs, int64_t inputs, int percent) {
  TileMask mask = TileMask::all(tile, outputs, inputs);
  std::mt19937 generator(1);
  std::bernoulli_distribution keep(1 - percent / 100.0);
  for (uint8_t& one : mask.kept) one = keep(generator);
  return mask;
}

Tensor dense(const TileMask& mask) {
  Tensor ones = at::empty({mask.rows, mask.cols});
  float* values = ones.data_ptr<float>();
  for (int64_t r = 0; r < mask.rows; ++r) {
    for (int64_t c = 0; c < mask.cols; ++c) {
      *values++ = mask.keeps(r / mask.tile.rows, c / mask.tile.cols) ? 1 : 0;
    }
  }
  return ones;
}

Tensor leaf(const Tensor& values) { return values.clone().set_requires_grad(true); }

enum class Maps { kDense, kPruned };

void linear_maps(Maps maps, int rounds) {
  const TileShape tiles[] = {{16, 16}, {32, 32}, {8, 8}, {16, 1}, {1, 16}, {1, 1}};
  const int64_t shapes[][2] = {{384, 384}, {384, 1536}, {1536, 384},
                               {768, 768}, {768, 3072}, {3072, 768}};
  for (const auto& [inputs, outputs] : shapes) {
    const Tensor x = leaf(at::randn({kRows, inputs})), gradient = at::randn({kRows, outputs});
    const Tensor weights = at::randn({outputs, inputs}) * 0.02;
    const double products = 3.0 * static_cast<double>(kRows * inputs * outputs);
    std::vector<Parameter> parameters;
    parameters.reserve(64);
    std::vector<Subject> subjects;
    const auto add = [&](const std::string& name, double share) -> Parameter& {
      Parameter& weight = parameters.emplace_back();
      weight.value = leaf(weights);
      subjects.push_back({name,
                          share * products,
                          [&weight, &x] { return linear(x, weight, nullptr); },
                          {x, weight.value}});
      return weight;
    };
    add("ours", 1);
    const Tensor plain = leaf(weights);
    subjects.push_back({"torch", products, [&] { return at::linear(x, plain); }, {x, plain}});
    for (const TileShape tile : tiles) {
      for (const int percent : {30, 50, 70, 80, 90}) {
        if (maps == Maps::kDense) continue;
        TileMask mask = random_mask(tile, outputs, inputs, percent);
        const double share =
            static_cast<double>(mask.kept_weights()) / static_cast<double>(inputs * outputs);
        Parameter& weight = add(std::to_string(tile.rows) + "x" + std::to_string(tile.cols) + "/" +
                                    std::to_string(percent) + "%",
                                share);
        weight.value = leaf(weights * dense(mask));
        subjects.back().inputs[1] = weight.value;
        weight.mask = std::move(mask);
      }
    }
    compare("linear " + std::to_string(inputs) + " -> " + std::to_string(outputs),
            std::move(subjects), gradient, rounds);
  }
}

// As a model written with torch has it: a batch of equal sequences.
Tensor plain_attention(const std::vector<Tensor>& inputs, const AttentionForm& form,
                       int64_t length) {
  const auto heads = [&](const Tensor& tensor) {
    return tensor.view({-1, length, form.query_heads, form.head_size}).transpose(1, 2);
  };
  Tensor scores = at::matmul(heads(inputs[0]), heads(inputs[1]).transpose(2, 3)) * form.scale;
  if (form.mask == Mask::kCausal) {
    scores = scores.masked_fill(at::ones({length, length}, at::kBool).triu(1), -INFINITY);
  }
  return at::matmul(scores.softmax(-1), heads(inputs[2])).transpose(1, 2).reshape({kRows, -1});
}

void attentions(int rounds) {
  for (const int32_t size : {32, 64}) {
    for (const int32_t length : {16, 64, 256, 1024}) {
      for (const Mask mask : {Mask::kNone, Mask::kCausal}) {
        std::vector<int32_t> offsets;
        for (int32_t row = 0; row <= kRows; row += length) offsets.push_back(row);
        const AttentionForm form{.offsets = offsets,
                                 .query_heads = 12,
                                 .kv_heads = 12,
                                 .head_size = size,
                                 .scale = 1 / std::sqrt(static_cast<float>(size)),
                                 .mask = mask};
        std::vector<Tensor> inputs;
        for (int i = 0; i < 3; ++i) inputs.push_back(leaf(at::randn({kRows, 12 * size})));
        const Tensor gradient = at::randn({kRows, 12 * size});
        const double keys = mask == Mask::kCausal ? (length + 1) / 2.0 : length;
        const double products = 7.0 * kRows * keys * 12 * size;
        compare(
            "attention of 12 x " + std::to_string(size) + " over " + std::to_string(length) +
                (mask == Mask::kCausal ? ", causal" : ""),
            {{"ours", products, [&] { return attention(inputs[0], inputs[1], inputs[2], form); },
              inputs},
             {"torch", products, [&] { return plain_attention(inputs, form, length); }, inputs}},
            gradient, rounds);
      }
    }
  }
}

}  // namespace
}  // namespace tessera::training

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::max(1, std::atoi(argv[1])) : 9;
  const std::string what = argc > 2 ? argv[2] : "all";
  using namespace tessera::training;
  if (what == "dense") linear_maps(Maps::kDense, rounds);
  if (what == "pruned" || what == "all") linear_maps(Maps::kPruned, rounds);
  if (what == "attention" || what == "all") attentions(rounds);
  return 0;
}
