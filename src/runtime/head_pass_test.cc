#include "runtime/head_pass.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "runtime/model_testing.h"
#include "runtime/testing.h"
#include "runtime/whole_sequences.h"
#include "tessera/engine.h"

namespace tessera {
namespace {

constexpr int32_t kLayers = 4, kWidth = 16;
constexpr size_t kHeads = 4;
constexpr const char* kSchedule = R"({"heads": [1, 0.75, 0.5, 0.25]})";
constexpr size_t kKept[kLayers] = {4, 3, 2, 1};

using testing::load;
using Flags = std::vector<uint8_t>;

// BERT's heads have keys and values of their own and biases, Llama's share them.
const std::string& bert_folder() {
  static const std::string folder = deep(testing::tiny_bert(), "layer.").write("heads_bert");
  return folder;
}
const std::string& llama_folder() {
  static const std::string folder = deep(testing::tiny_llama(), "layers.").write("heads_llama");
  return folder;
}

std::vector<TokenSequence> texts() { return testing::random_texts(23); }

// Passes of one layer each, in which those heads take part that a sort by what all gave so far, in
// f64, leaves.
class Layerwise {
 public:
  Layerwise(ModelState& state, const TokenSequence& text) : state_(state), text_(text) {
    order_.resize(kHeads);
    std::iota(order_.begin(), order_.end(), size_t{0});
    for (int32_t layer = 0; layer < kLayers; ++layer) {
      std::stable_sort(order_.begin(), order_.end(),
                       [&](size_t a, size_t b) { return scores_[a] > scores_[b]; });
      order_.resize(kKept[layer]);
      std::sort(order_.begin(), order_.end());
      run(layer);
    }
  }

  std::vector<float> embedding() const {
    std::vector<double> mean(kWidth);
    for (size_t i = 0; i < states_.size(); ++i) mean[i % kWidth] += double{states_[i]};
    const double length =
        std::sqrt(std::inner_product(mean.begin(), mean.end(), mean.begin(), 0.0));
    std::vector<float> vector;
    for (const double x : mean) vector.push_back(static_cast<float>(x / length));
    return vector;
  }

 private:
  void run(int32_t layer) {
    const HeadSchedule schedule{.choose =
                                    [&](int32_t, std::span<uint8_t> live) {
                                      std::fill(live.begin(), live.end(), uint8_t{0});
                                      for (const size_t head : order_) live[head] = 1;
                                    },
                                .observe =
                                    [&](int32_t, const TokenLayout& rows, const float* magnitudes) {
                                      for (int64_t i = 0; i < rows.rows() * int64_t{kHeads}; ++i)
                                        scores_[static_cast<size_t>(i) % kHeads] +=
                                            double{magnitudes[i]};
                                    },
                                .observed_layers = kLayers};
    TokenLayout layout;
    layout.append(static_cast<int32_t>(text_.ids.size()), 0);
    ForwardInput input{
        .layout = &layout, .first_layer = layer, .end_layer = layer + 1, .heads = &schedule};
    const std::vector<float> before = states_;
    if (layer == 0) {
      input.ids = text_.ids;
    } else {
      input.states = before;
    }
    ForwardOutput output;
    output.last_hidden = &states_;
    const Status status = state_.executor->run(input, output);
    ASSERT_TRUE(status.ok()) << status.message();
  }

  ModelState& state_;
  const TokenSequence& text_;
  std::vector<size_t> order_;
  double scores_[kHeads] = {};
  std::vector<float> states_;
};

void expect_layerwise(const std::string& folder, PrecomputeVo precompute) {
  const std::vector<TokenSequence> batch = texts();
  for (const int threads : {1, 3}) {
    const auto model =
        load(folder, {.threads = threads, .precompute_vo = precompute, .pruning = kSchedule});
    const auto dense = load(folder, {.threads = threads, .precompute_vo = precompute});
    const auto vectors = model->embed(batch), whole = dense->embed(batch);
    ASSERT_TRUE(vectors.ok()) << vectors.status().message();
    ASSERT_TRUE(whole.ok());
    EXPECT_NE(*vectors, *whole);
    for (size_t s = 0; s < batch.size(); ++s) {
      SCOPED_TRACE(std::to_string(batch[s].ids.size()) + " tokens, " + std::to_string(threads) +
                   " threads");
      const std::vector<float> expected = Layerwise(state_of(*model), batch[s]).embedding();
      // As for tokens that leave: another survivor moves values by a thousand times as much.
      for (size_t i = 0; i < kWidth; ++i)
        EXPECT_NEAR(expected[i], (*vectors)[s * kWidth + i], 1e-4);
    }
  }
}

TEST(HeadPass, IsTheCascadeRunLayerByLayer) {
  expect_layerwise(bert_folder(), PrecomputeVo::kOff);
  expect_layerwise(llama_folder(), PrecomputeVo::kOff);
}

// What a head gives is then as wide as the model.
TEST(HeadPass, HeadsLeaveWhereValuesAreMultipliedByTheOutputMap) {
  expect_layerwise(bert_folder(), PrecomputeVo::kOn);
}

// The same heads give the same states, however their values are multiplied.
TEST(HeadPass, FoldedHeadsAreTheSame) {
  const TokenSequence text = texts().back();
  std::vector<float> states[2];
  for (const PrecomputeVo precompute : {PrecomputeVo::kOff, PrecomputeVo::kOn}) {
    const auto model =
        load(bert_folder(), {.threads = 2, .precompute_vo = precompute, .pruning = kSchedule});
    const HeadSchedule schedule{.choose = [](int32_t layer, std::span<uint8_t> live) {
      for (size_t h = 0; h < live.size(); ++h) live[h] = layer < 1 || h % 3 == 1 ? 1 : 0;
    }};
    TokenLayout layout;
    layout.append(static_cast<int32_t>(text.ids.size()), 0);
    const ForwardInput input{.ids = text.ids, .layout = &layout, .heads = &schedule};
    ForwardOutput output;
    output.last_hidden = &states[precompute == PrecomputeVo::kOn ? 1 : 0];
    const Status status = state_of(*model).executor->run(input, output);
    ASSERT_TRUE(status.ok()) << status.message();
  }
  ASSERT_EQ(states[0].size(), states[1].size());
  for (size_t i = 0; i < states[0].size(); ++i) EXPECT_NEAR(states[0][i], states[1][i], 1e-4);
}

TEST(HeadPass, KeepingAllIsTheDensePass) {
  const std::vector<TokenSequence> batch = texts();
  const auto dense = load(bert_folder(), {.threads = 2})->embed(batch);
  for (const char* all : {R"({"heads": 1})", R"({"heads": [4, 4, 4, 4]})"}) {
    const auto pruned = load(bert_folder(), {.threads = 2, .pruning = all})->embed(batch);
    ASSERT_TRUE(pruned.ok()) << pruned.status().message();
    EXPECT_EQ(*dense, *pruned) << all;
  }
}

// Heads and tokens leave together; what stays depends on neither company nor threads.
TEST(HeadPass, BatchesOfOneAnEngineAndOtherThreadsGiveTheSame) {
  const std::vector<TokenSequence> batch = texts();
  for (const char* schedule :
       {kSchedule, R"({"tokens": [1, 0.8, 0.5, 0.3], "heads": [4, 2, 2, 1]})"}) {
    const auto model = load(bert_folder(), {.threads = 2, .pruning = schedule});
    const auto together = model->embed(batch);
    const auto others = load(bert_folder(), {.threads = 3, .pruning = schedule})->embed(batch);
    auto engine = Engine::create(model, {});
    ASSERT_TRUE(engine.ok() && together.ok() && others.ok());
    for (size_t s = 0; s < batch.size(); ++s) {
      const auto alone = model->embed({batch[s]});
      ASSERT_TRUE((*engine)->submit(EncodeRequest{.sequence = batch[s]}).ok());
      const auto events = (*engine)->step();
      ASSERT_TRUE(alone.ok() && events.ok() && events->size() == 1);
      for (size_t i = 0; i < kWidth; ++i) {
        EXPECT_NEAR((*together)[s * kWidth + i], (*alone)[i], 1e-5);
        EXPECT_NEAR((*together)[s * kWidth + i], (*others)[s * kWidth + i], 1e-5);
        EXPECT_NEAR((*together)[s * kWidth + i], events->front().values[i], 1e-5);
      }
    }
  }
}

// What is generated behind a prompt is what a pass over all of it gives, in which those heads take
// part that the prompt's own pass left.
TEST(HeadPass, GeneratesWithTheHeadsThatThePromptLeft) {
  const std::vector<int32_t> prompt = texts()[3].ids;
  const auto model = load(llama_folder(), {.threads = 2, .pruning = kSchedule});
  const auto dense = load(llama_folder(), {.threads = 2});
  const Request request{
      .prompt_ids = prompt, .max_new_tokens = 8, .stop_ids = {}, .log_probabilities = true};
  const auto found = generate(model, request), unpruned = generate(dense, request);
  ASSERT_TRUE(found.ok() && unpruned.ok()) << found.status().message();
  EXPECT_NE(unpruned->log_probabilities, found->log_probabilities);
  std::vector<Flags> live(kLayers, Flags(kHeads, 1));
  std::vector<double> scores(kHeads);
  const auto pass = [&](const std::vector<int32_t>& ids, bool chooses) {
    const HeadSchedule schedule{
        .choose =
            [&](int32_t layer, std::span<uint8_t> flags) {
              Flags& own = live[static_cast<size_t>(layer)];
              if (chooses && layer > 0) {
                own = live[static_cast<size_t>(layer) - 1];
                while (std::count(own.begin(), own.end(), 1) > int64_t(kKept[layer])) {
                  size_t least = kHeads;
                  for (size_t h = 0; h < kHeads; ++h) {
                    if (own[h] != 0 && (least == kHeads || scores[h] <= scores[least])) least = h;
                  }
                  own[least] = 0;
                }
              }
              std::copy(own.begin(), own.end(), flags.begin());
            },
        .observe =
            [&](int32_t, const TokenLayout& rows, const float* magnitudes) {
              for (size_t i = 0; i < static_cast<size_t>(rows.rows()) * kHeads; ++i)
                scores[i % kHeads] += double{magnitudes[i]};
            },
        .observed_layers = kLayers};
    TokenLayout layout;
    layout.append(static_cast<int32_t>(ids.size()), 0);
    const ForwardInput input{
        .ids = ids, .layout = &layout, .head_rows = HeadRows::kLastOfEach, .heads = &schedule};
    ForwardOutput output;
    const Status status = state_of(*dense).executor->run(input, output);
    EXPECT_TRUE(status.ok()) << status.message();
    return std::vector<float>(output.logits.begin(), output.logits.end());
  };
  std::vector<int32_t> ids = prompt;
  for (size_t step = 0; step < found->ids.size(); ++step) {
    SCOPED_TRACE(step);
    const std::vector<float> logits = pass(ids, step == 0);
    double sum = 0;
    for (const float logit : logits) sum += std::exp(double{logit});
    const auto token = static_cast<size_t>(found->ids[step]);
    EXPECT_EQ(*std::max_element(logits.begin(), logits.end()), logits[token]);
    EXPECT_NEAR(double{logits[token]} - std::log(sum), found->log_probabilities[step], 1e-4);
    ids.push_back(found->ids[step]);
  }
}

// A prompt whose heads are only scored keeps all; from the first token behind it on they leave, and
// with every kind of prompt, beams and several continuations run to their end.
TEST(HeadPass, EveryKindOfPromptIsContinued) {
  for (const char* prefill : {"prune", "score", "skip"}) {
    const std::string schedule =
        R"({"heads": [0.75, 0.5, 0.5, 0.25], "prefill": ")" + std::string(prefill) + "\"}";
    const auto model = load(llama_folder(), {.threads = 2, .pruning = schedule});
    Request request{.prompt_ids = texts()[2].ids, .max_new_tokens = 5, .stop_ids = {}};
    const auto one = generate(model, request);
    ASSERT_TRUE(one.ok()) << one.status().message();
    EXPECT_EQ(size_t{5}, one->ids.size());
    request.beams = 3;
    request.sequences = 2;
    const auto beams = generate_sequences(model, request);
    ASSERT_TRUE(beams.ok()) << beams.status().message();
    EXPECT_EQ(size_t{2}, beams->size());
  }
}

}  // namespace
}  // namespace tessera
