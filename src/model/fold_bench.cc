// A layer's attention from its input to its output, queries and keys included, in two steps with a
// compact output matrix and with pre-computed V·O, over the share of output features that is kept
// and over the tokens; interleaved, so that noise of the machine meets both alike.
//   model_bench [rounds] [shares|lengths|all] [threads]
// Prints a JSON object a line: shape ("bert_base": 12 heads, 768 wide; "transformer": 4 heads, 800
// wide), threads, tokens, share and features kept, microseconds of both and of two steps with every
// feature ("unpruned"; medians, with one thread of its time on the core), their ratios, and
// vo_flops_ratio, what the plan compares: FLOPs of V, attention's second product and O.
#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "base/bench.h"
#include "base/device.h"
#include "formats/compact.h"
#include "model/fold.h"

namespace tessera {
namespace {

struct Shape {
  const char* name;
  int32_t heads;
  int32_t hidden_size;
};

double now(clockid_t clock) {
  timespec time;
  clock_gettime(clock, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// One thread's time on its core leaves out what other programs take of it.
double seconds(int threads, const std::function<void()>& work) {
  const clockid_t clock = threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC;
  const double start = now(clock);
  work();
  return now(clock) - start;
}

// The same random weights for both ways.
class Weights {
 public:
  Weights(const Shape& shape, int64_t features) {
    const int64_t d = shape.hidden_size;
    std::mt19937 random(1);
    std::normal_distribution<float> normal(0, 1 / std::sqrt(static_cast<float>(d)));
    qkv_.resize(static_cast<size_t>(3 * d * d));
    output_.resize(static_cast<size_t>(features * d));
    for (float& v : qkv_) v = normal(random);
    for (float& v : output_) v = normal(random);
    std::vector<int32_t> all(static_cast<size_t>(d));
    std::iota(all.begin(), all.end(), 0);
    std::sample(all.begin(), all.end(), std::back_inserter(index_), features, random);
    stored_.qkv = {DenseView{qkv_.data(), DType::kF32, 3 * d, d}};
    stored_.output = {CompactMatrix{.kept = {output_.data(), DType::kF32, features, d},
                                    .axis = KeptAxis::kOutputs,
                                    .index = index_.data(),
                                    .whole = d}};
  }
  const StoredAttention& stored() const { return stored_; }

 private:
  std::vector<float> qkv_, output_;
  std::vector<int32_t> index_;
  StoredAttention stored_;
};

class Layer {
 public:
  Layer(const Shape& shape, const Weights& weights, VoMethod vo, int32_t tokens, Team& team)
      : team_(team), tokens_(tokens) {
    a_.mask = Mask::kNone;
    a_.hidden_size = shape.hidden_size;
    a_.layers = {{.query_heads = shape.heads,
                  .kv_heads = shape.heads,
                  .head_size = shape.hidden_size / shape.heads}};
    auto prepared = prepare_attention(
        weights.stored(),
        {.architecture = &a_,
         .vo = vo,
         .team = &team,
         .prepare = [&](const MatrixStack& stack, const std::vector<float>&) {
           DenseStack dense;
           for (const StoredMatrix& part : stack) {
             const auto compact = as<CompactMatrix>(part);
             dense.push_back(compact.has_value() ? compact->kept : get<DenseView>(part));
           }
           return prepare_dense(dense, nullptr, Precision::kF32, team);
         }});
    if (!prepared.ok()) {
      std::fprintf(stderr, "%s\n", prepared.status().message().c_str());
      std::exit(1);
    }
    prepared_ = std::move(prepared).value();
    make_room();
  }

  void run() {
    const AttentionShape shape = this->shape();
    const int64_t d = a_.hidden_size, width = shape.qkv_width();
    const AttentionSequence sequence{
        .queries = tokens_, .query_positions = table_.positions.data(), .keys = &table_};
    const std::vector<int32_t> first_rows = {0, tokens_};
    const int32_t first_token = 0;
    PageTable* table = &table_;
    team_.run([&](Team::Member& member) {
      prepared_.qkv->apply(
          {.x = x_.data(), .x_stride = d, .rows = tokens_, .y = qkv_.data(), .y_stride = width},
          member);
      member.barrier();
      const float* key = qkv_.data() + a_.layer(0).query_width();
      append_to_pages({.shape = shape.pages,
                       .tables = {&table, 1},
                       .first_tokens = &first_token,
                       .first_rows = first_rows.data(),
                       .key = key,
                       .key_stride = width,
                       .value = key + a_.layer(0).kv_width(),
                       .value_stride = width},
                      member.slice(tokens_));
      member.barrier();
      find_attention_method("on_the_fly")
          ->run({.shape = shape,
                 .sequences = {&sequence, 1},
                 .query = qkv_.data(),
                 .query_stride = width,
                 .output = context_.data(),
                 .output_stride = shape.output_width()},
                member, workspace_.as<char>() + member.rank() * workspace_bytes_);
      member.barrier();
      prepared_.output->apply({.x = context_.data(),
                               .x_stride = shape.output_width(),
                               .rows = tokens_,
                               .y = y_.data(),
                               .y_stride = d},
                              member);
    });
  }

 private:
  AttentionShape shape() const {
    return attention_shape(a_.layer(0), a_.mask, prepared_.values, DType::kF32);
  }

  void make_room() {
    const AttentionShape shape = this->shape();
    const auto n = static_cast<size_t>(tokens_);
    x_.assign(n * static_cast<size_t>(a_.hidden_size), 0.5f);
    y_ = x_;
    qkv_.resize(n * static_cast<size_t>(shape.qkv_width()));
    context_.resize(n * static_cast<size_t>(shape.output_width()));
    const int64_t bytes_each = shape.pages.page_bytes();
    pages_.resize(static_cast<size_t>(pages_for(tokens_) * bytes_each));
    for (int32_t p = 0; p < pages_for(tokens_); ++p)
      table_.pages.push_back(pages_.data() + p * bytes_each);
    table_.positions.resize(n);
    std::iota(table_.positions.begin(), table_.positions.end(), 0);
    const int64_t bytes =
        find_attention_method("on_the_fly")->cost(shape, tokens_, tokens_).workspace_bytes;
    workspace_bytes_ = (bytes + 63) / 64 * 64;
    workspace_ = host_device().allocate(static_cast<size_t>(workspace_bytes_ * team_.size()));
  }

  Team& team_;
  int32_t tokens_;
  Architecture a_;
  PreparedAttention prepared_;
  std::vector<float> x_, y_, qkv_, context_;
  std::vector<std::byte> pages_;
  PageTable table_;
  Buffer workspace_;
  int64_t workspace_bytes_ = 0;
};

double model_ratio(const Shape& shape, double features, int32_t tokens) {
  const double d = shape.hidden_size, n = tokens;
  return shape.heads * features * (d + n) / (d * d + d * n + features * d);
}

void compare(const Shape& shape, int32_t tokens, double share, int rounds, Team& team) {
  const int32_t d = shape.hidden_size;
  const auto features = std::max<int64_t>(1, std::lround(share * d));
  const Weights weights(shape, features), whole(shape, d);
  Layer two_steps(shape, weights, VoMethod::kTwoStep, tokens, team);
  Layer precomputed(shape, weights, VoMethod::kPrecomputed, tokens, team);
  Layer unpruned(shape, whole, VoMethod::kTwoStep, tokens, team);
  std::vector<double> times[3];
  Layer* layers[] = {&two_steps, &precomputed, &unpruned};
  for (int round = -2; round < rounds; ++round) {
    for (int i = 0; i < 3; ++i) {
      const double time = seconds(team.size(), [&] { layers[i]->run(); });
      if (round >= 0) times[i].push_back(time);
    }
  }
  const double two = median(times[0]), one = median(times[1]), dense = median(times[2]);
  std::printf(
      "{\"shape\": \"%s\", \"threads\": %d, \"tokens\": %d, \"share\": %.4f, \"features\": %lld, "
      "\"two_steps_us\": %.1f, \"precomputed_us\": %.1f, \"unpruned_us\": %.1f, \"ratio\": %.3f, "
      "\"ratio_to_unpruned\": %.3f, \"vo_flops_ratio\": %.3f}\n",
      shape.name, team.size(), tokens, share, static_cast<long long>(features), two * 1e6,
      one * 1e6, dense * 1e6, one / two, one / dense,
      model_ratio(shape, static_cast<double>(features), tokens));
  std::fflush(stdout);
}

}  // namespace
}  // namespace tessera

int main(int argc, char** argv) {
  using namespace tessera;
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 25;
  const std::string part = argc > 2 ? argv[2] : "all";
  Team team(argc > 3 ? std::atoi(argv[3]) : 2);
  for (const Shape& shape : {Shape{"bert_base", 12, 768}, Shape{"transformer", 4, 800}}) {
    if (part != "lengths") {
      for (const double share : {0.02, 0.05, 0.08, 0.09, 0.1, 0.125, 0.15, 0.2, 0.25, 0.3, 0.32,
                                 0.35, 0.4, 0.5, 0.75, 1.0})
        compare(shape, 128, share, rounds, team);
    }
    if (part != "shares") {
      const double share = shape.heads == 12 ? 0.05 : 0.2;
      for (const int32_t tokens : {16, 32, 64, 128, 256, 512, 1024})
        compare(shape, tokens, share, rounds, team);
    }
  }
  return 0;
}
