#include "runtime/pruned_pass.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "runtime/model_testing.h"
#include "runtime/testing.h"
#include "runtime/whole_sequences.h"
#include "tessera/engine.h"
#include "tessera/pruning.h"
#include "tessera/tasks.h"

namespace tessera {
namespace {

using testing::TinyCheckpoint;

constexpr int32_t kLayers = 4, kWidth = 16;
constexpr const char* kSchedule =
    R"({"tokens": [1, 0.6, 0.6, 0.3], "decay": 0.5, "protect": {"first": 1, "ids": [7]}})";
constexpr double kShares[kLayers] = {1, 0.6, 0.6, 0.3};
constexpr int32_t kProtectedId = 7;

std::string bert_folder() {
  static const std::string folder =
      testing::deep(testing::tiny_bert(), "layer.").write("pruned_bert");
  return folder;
}

std::shared_ptr<Model> load(const LoadOptions& options, const std::string& folder = bert_folder()) {
  return testing::load(folder, options);
}

std::vector<TokenSequence> texts() { return testing::random_texts(11); }

// Dense passes of one layer each over the rows that are left, gathered; importance in f64, sorted.
class Layerwise {
 public:
  Layerwise(ModelState& state, const TokenSequence& text) : state_(state), text_(text) {
    const size_t rows = text.ids.size();
    alive_.resize(rows);
    std::iota(alive_.begin(), alive_.end(), 0);
    scores_.resize(rows);
    settled_.resize(rows * kWidth);
    for (int32_t layer = 0; layer < kLayers; ++layer) {
      if (layer > 0) drop(layer);
      run(layer);
      alive_in.push_back(alive_);
      scores_in.push_back(scores_);
    }
  }

  std::vector<std::vector<int32_t>> alive_in;  // each layer
  std::vector<std::vector<double>> scores_in;  // behind its attention, of all tokens

  // The states of every token, those that left with their last ones: their mean, normalised.
  std::vector<float> embedding() const {
    std::vector<int32_t> all(text_.ids.size());
    std::iota(all.begin(), all.end(), 0);
    return mean_of(all);
  }
  // Of the tokens that the last layer had, but for the first ones of the text.
  std::vector<float> embedding_of_survivors(int32_t skipped) const {
    std::vector<int32_t> rows;
    for (const int32_t row : alive_) {
      if (row >= skipped) rows.push_back(row);
    }
    return mean_of(rows);
  }

 private:
  std::vector<float> mean_of(const std::vector<int32_t>& rows) const {
    std::vector<double> mean(kWidth);
    for (const int32_t row : rows) {
      for (size_t i = 0; i < kWidth; ++i)
        mean[i] += double{settled_[static_cast<size_t>(row) * kWidth + i]};
    }
    const double length =
        std::sqrt(std::inner_product(mean.begin(), mean.end(), mean.begin(), 0.0));
    std::vector<float> vector;
    for (const double x : mean) vector.push_back(static_cast<float>(x / length));
    return vector;
  }

  void drop(int32_t layer) {
    std::vector<int32_t> order = alive_;
    const auto stays = [&](int32_t row) {
      return row == 0 || text_.ids[static_cast<size_t>(row)] == kProtectedId;
    };
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      if (stays(a) != stays(b)) return stays(a);
      return scores_[static_cast<size_t>(a)] > scores_[static_cast<size_t>(b)];
    });
    const auto rows = static_cast<double>(text_.ids.size());
    const auto wanted = static_cast<int64_t>(kShares[layer] * rows + 1e-9);
    const int64_t least = std::count_if(alive_.begin(), alive_.end(), stays);
    order.resize(static_cast<size_t>(
        std::min(std::max(wanted, least), static_cast<int64_t>(alive_.size()))));
    alive_ = order;
    std::sort(alive_.begin(), alive_.end());
  }

  void run(int32_t layer) {
    TokenLayout layout;
    layout.append(static_cast<int32_t>(alive_.size()), 0);
    layout.positions = alive_;
    std::vector<float> states, hidden;
    for (const int32_t row : alive_)
      states.insert(states.end(), settled_.begin() + row * kWidth,
                    settled_.begin() + (row + 1) * kWidth);
    RowSchedule observed{.observe =
                             [&](int32_t, std::span<const AttentionSequence> sequences) {
                               add(sequences.front().column_mass);
                             },
                         .observed_layers = {layer + 1}};
    observed.lengths.assign(kLayers, {static_cast<int32_t>(alive_.size())});
    ForwardInput input{
        .layout = &layout, .first_layer = layer, .end_layer = layer + 1, .schedule = &observed};
    if (layer == 0) {
      input.ids = text_.ids;
    } else {
      input.states = states;
    }
    ForwardOutput output;
    output.last_hidden = &hidden;
    const Status status = state_.executor->run(input, output);
    ASSERT_TRUE(status.ok()) << status.message();
    for (size_t i = 0; i < alive_.size(); ++i)
      std::copy_n(hidden.begin() + static_cast<int64_t>(i) * kWidth, kWidth,
                  settled_.begin() + alive_[i] * kWidth);
  }

  void add(const float* mass) {
    for (size_t j = 0; j < alive_.size(); ++j) {
      double sum = 0;
      for (size_t head = 0; head < 4; ++head) sum += double{mass[head * alive_.size() + j]};
      double& score = scores_[static_cast<size_t>(alive_[j])];
      score = 0.5 * score + sum;
    }
  }

  ModelState& state_;
  const TokenSequence& text_;
  std::vector<int32_t> alive_;
  std::vector<double> scores_;
  std::vector<float> settled_;
};

TEST(PrunedPass, IsTheCascadeRunLayerByLayer) {
  for (const int threads : {1, 3}) {
    const auto model = load({.threads = threads, .pruning = kSchedule});
    const auto dense = load({.threads = threads});
    const std::vector<TokenSequence> batch = texts();
    const auto vectors = model->embed(batch), unpruned = dense->embed(batch);
    ASSERT_TRUE(vectors.ok()) << vectors.status().message();
    ASSERT_TRUE(unpruned.ok());
    EXPECT_NE(*vectors, *unpruned);
    for (size_t s = 0; s < batch.size(); ++s) {
      SCOPED_TRACE(std::to_string(batch[s].ids.size()) + " tokens");
      const std::vector<float> expected = Layerwise(state_of(*model), batch[s]).embedding();
      // 4 layers of sums of at most 40 terms move values of a vector of length 1 by some of its
      // roundings each; another survivor moves them by a thousand times as much.
      for (size_t i = 0; i < kWidth; ++i)
        EXPECT_NEAR(expected[i], (*vectors)[s * kWidth + i], 1e-4);
    }
  }
}

// A record that outlives the call.
struct Kept {
  PruningRecord record;
  std::vector<int32_t> ids, tokens;
  std::vector<float> importance;
};

LoadOptions observed_by(std::vector<Kept>& kept, LoadOptions options) {
  options.on_pruning = [&kept](const PruningRecord& record) {
    kept.push_back({.record = record,
                    .ids = {record.ids.begin(), record.ids.end()},
                    .tokens = {record.tokens.begin(), record.tokens.end()},
                    .importance = {record.importance.begin(), record.importance.end()}});
  };
  return options;
}

TEST(PrunedPass, ObserversSeeWhatEachLayerHad) {
  std::vector<Kept> kept;
  const auto model = load(observed_by(kept, {.threads = 2, .pruning = kSchedule}));
  const std::vector<TokenSequence> batch = texts();
  const auto vectors = model->embed(batch);
  ASSERT_TRUE(vectors.ok()) << vectors.status().message();
  EXPECT_EQ(*vectors, *load({.threads = 2, .pruning = kSchedule})->embed(batch));
  ASSERT_EQ(kept.size(), batch.size() * kLayers);
  const auto dense = load({.threads = 1});
  for (size_t s = 0; s < batch.size(); ++s) {
    const Layerwise expected(state_of(*dense), batch[s]);
    const auto length = static_cast<int32_t>(batch[s].ids.size());
    for (size_t layer = 0; layer < kLayers; ++layer) {
      const Kept& found = kept[layer * batch.size() + s];
      EXPECT_EQ(found.record.sequence, static_cast<int64_t>(s));
      EXPECT_EQ(found.record.step, 0);
      EXPECT_EQ(found.record.layer, static_cast<int32_t>(layer));
      EXPECT_EQ(found.record.length, length);
      EXPECT_EQ(found.record.queries, static_cast<int32_t>(found.tokens.size()));
      EXPECT_EQ(found.ids, layer == 0 ? batch[s].ids : std::vector<int32_t>());
      EXPECT_EQ(found.tokens, expected.alive_in[layer]);
      ASSERT_EQ(found.importance.size(), found.tokens.size());
      for (size_t j = 0; j < found.tokens.size(); ++j) {
        // Sums of at most 4 heads x 40 probabilities in each of 4 layers.
        const double score = expected.scores_in[layer][static_cast<size_t>(found.tokens[j])];
        EXPECT_NEAR(found.importance[j], score, 1e-4 * (1 + score));
      }
    }
  }
}

TEST(PrunedPass, ObserversOfADenseModelSeeEveryToken) {
  std::vector<Kept> kept;
  const auto model = load(observed_by(kept, {.threads = 2}));
  const std::vector<TokenSequence> batch = texts();
  EXPECT_EQ(*model->embed(batch), *load({.threads = 2})->embed(batch));
  (void)model->embed({batch[0]});
  ASSERT_EQ(kept.size(), (batch.size() + 1) * kLayers);
  for (const Kept& each : kept) {
    EXPECT_EQ(static_cast<int32_t>(each.tokens.size()), each.record.length);
    // Each of the heads' queries gives 1 in each layer.
    const double sum = std::accumulate(each.importance.begin(), each.importance.end(), 0.0);
    EXPECT_NEAR(sum, 4.0 * each.record.length * (each.record.layer + 1), 1e-3 * sum);
  }
  EXPECT_EQ(kept.back().record.sequence, static_cast<int64_t>(batch.size()));
}

TEST(PrunedPass, KeepingAllIsTheDensePass) {
  const std::vector<TokenSequence> batch = texts();
  const auto dense = load({.threads = 2})->embed(batch);
  for (const char* all : {R"({"tokens": 1})", R"({"tokens": [1, 1, 1, 1], "pooling": "survivors"})",
                          R"({"tokens": [512, 512, 512, 512]})"}) {
    const auto pruned = load({.threads = 2, .pruning = all})->embed(batch);
    ASSERT_TRUE(pruned.ok()) << pruned.status().message();
    EXPECT_EQ(*dense, *pruned) << all;
  }
}

TEST(PrunedPass, AnEngineAndBatchesOfOneGiveTheSame) {
  const auto model = load({.threads = 2, .pruning = kSchedule});
  const std::vector<TokenSequence> batch = texts();
  const auto together = model->embed(batch);
  ASSERT_TRUE(together.ok());
  auto engine = Engine::create(model, {});
  ASSERT_TRUE(engine.ok()) << engine.status().message();
  for (size_t s = 0; s < batch.size(); ++s) {
    const auto alone = model->embed({batch[s]});
    ASSERT_TRUE((*engine)->submit(EncodeRequest{.sequence = batch[s]}).ok());
    const auto events = (*engine)->step();
    ASSERT_TRUE(alone.ok() && events.ok() && events->size() == 1);
    for (size_t i = 0; i < kWidth; ++i) {
      EXPECT_NEAR((*together)[s * kWidth + i], (*alone)[i], 1e-5);
      EXPECT_NEAR((*together)[s * kWidth + i], events->front().values[i], 1e-5);
    }
  }
}

// Every token has logits, those that left by their last states.
TEST(PrunedPass, HeadsOfEveryTokenGetEveryToken) {
  const auto model = load({.threads = 2, .pruning = kSchedule});
  const auto logits = model->forward(texts());
  ASSERT_TRUE(logits.ok()) << logits.status().message();
  EXPECT_EQ(85, logits->offsets.back());
  EXPECT_EQ(size_t{85} * 50, logits->logits.size());
}

TEST(PrunedPass, PoolsSurvivorsAlone) {
  const std::vector<TokenSequence> batch = texts();
  const auto all = load({.threads = 1, .pruning = R"({"tokens": [1, 1, 1, 0.1]})"})->embed(batch);
  const auto few =
      load({.threads = 1, .pruning = R"({"tokens": [1, 1, 1, 0.1], "pooling": "survivors"})"})
          ->embed(batch);
  ASSERT_TRUE(all.ok() && few.ok());
  // A single token is all of itself.
  EXPECT_TRUE(std::equal(all->begin(), all->begin() + kWidth, few->begin()));
  EXPECT_FALSE(std::equal(all->end() - kWidth, all->end(), few->end() - kWidth));
}

// Tokens that left are not counted again among those that the pooling leaves out.
TEST(PrunedPass, SurvivorsOfAPromptAreLeftOut) {
  const auto model = load({.threads = 1, .pruning = R"({"tokens": [1, 0.6, 0.6, 0.3], "decay": 0.5,
      "pooling": "survivors", "protect": {"first": 1, "ids": [7]}})"});
  const std::vector<TokenSequence> batch = texts();
  for (const int32_t skipped : {0, 5}) {
    const auto vectors = embed_whole(state_of(*model), batch, {}, skipped);
    ASSERT_TRUE(vectors.ok()) << vectors.status().message();
    for (size_t s = 3; s < batch.size(); ++s) {
      const Layerwise expected(state_of(*model), batch[s]);
      const std::vector<float> vector = expected.embedding_of_survivors(skipped);
      for (size_t i = 0; i < kWidth; ++i)
        EXPECT_NEAR(vector[i], (*vectors)[s * kWidth + i], 1e-4) << s;
    }
  }
}

// Whatever pools in place of the model's own, what it reads alone never leaves.
TEST(PrunedPass, ProtectsWhatAnotherPoolingReads) {
  const std::vector<TokenSequence> batch = texts();
  const auto embedded = [&](const char* schedule, Pooling pooling) {
    const auto model = load({.threads = 1, .pruning = schedule});
    auto vectors = embed_whole(state_of(*model), batch, {.poolings = {pooling}}, 0);
    EXPECT_TRUE(vectors.ok()) << vectors.status().message();
    return *vectors;
  };
  constexpr const char* kBare = R"({"tokens": [1, 0.3, 0.3, 0.3]})";
  EXPECT_EQ(
      embedded(kBare, Pooling::kLastToken),
      embedded(R"({"tokens": [1, 0.3, 0.3, 0.3], "protect": {"last": 1}})", Pooling::kLastToken));
  EXPECT_EQ(
      embedded(kBare, Pooling::kFirstToken),
      embedded(R"({"tokens": [1, 0.3, 0.3, 0.3], "protect": {"first": 1}})", Pooling::kFirstToken));
  const auto model =
      load({.threads = 1, .pruning = R"({"tokens": [1, 1, 1, 0.5], "pooling": "survivors"})"});
  const auto weighted =
      embed_whole(state_of(*model), batch, {.poolings = {Pooling::kWeightedMean}}, 0);
  EXPECT_EQ(StatusCode::kUnsupported, weighted.status().code());
}

// The head reads the last token that is no padding.
TEST(PrunedPass, ProtectsTheTokenThatADecodersClassifierReads) {
  TinyCheckpoint tiny = testing::deep(testing::tiny_llama(), "layers.");
  tiny.with("LlamaForCausalLM", "LlamaForSequenceClassification");
  tiny.with("\"eos_token_id\": 49", "\"eos_token_id\": 49, \"pad_token_id\": 0");
  tiny.shapes.erase("lm_head.weight");
  tiny.shapes["score.weight"] = {2, 16};
  const std::string folder = tiny.write("pruned_score");
  const std::vector<TokenSequence> padded = {{{5, 6, 7, 0, 0}, {}}};
  const auto bare =
      load({.threads = 1, .pruning = R"({"tokens": [1, 0.2, 0.2, 0.2]})"}, folder)->forward(padded);
  const auto named =
      load({.threads = 1, .pruning = R"({"tokens": [1, 0.2, 0.2, 0.2], "protect": {"ids": [7]}})"},
           folder)
          ->forward(padded);
  ASSERT_TRUE(bare.ok() && named.ok());
  EXPECT_EQ(named->logits, bare->logits);
}

// Tasks prune as forward does, and the head's rows never leave.
TEST(PrunedPass, TasksArePrunedToo) {
  TinyCheckpoint tiny = testing::deep(testing::tiny_bert(), "layer.");
  tiny.with("BertForMaskedLM", "BertForSequenceClassification");
  std::erase_if(tiny.shapes, [](const auto& tensor) { return tensor.first.starts_with("cls."); });
  tiny.shapes.insert({{"bert.pooler.dense.weight", {16, 16}},
                      {"bert.pooler.dense.bias", {16}},
                      {"classifier.weight", {2, 16}},
                      {"classifier.bias", {2}}});
  const auto model = load({.threads = 1, .pruning = kSchedule}, tiny.write("pruned_classes"));
  std::vector<TaskInput> inputs;
  for (const TokenSequence& text : texts()) inputs.push_back({.tokens = text});
  const auto classes = classify(*model, inputs);
  const auto logits = model->forward(texts());
  ASSERT_TRUE(classes.ok() && logits.ok()) << classes.status().message();
  for (size_t s = 0; s < inputs.size(); ++s) {
    for (size_t label = 0; label < 2; ++label)
      EXPECT_NEAR(logits->logits[2 * s + label], (*classes)[s].logits[label], 1e-5);
  }
}

TEST(PrunedPass, DecodersRunWholeSequences) {
  const std::string folder = testing::deep(testing::tiny_llama(), "layers.").write("pruned_llama");
  const auto model = load({.threads = 1, .pruning = kSchedule}, folder);
  const auto logits = model->forward(texts());
  ASSERT_TRUE(logits.ok()) << logits.status().message();
  EXPECT_EQ(size_t{85} * 50, logits->logits.size());
}

TEST(PrunedPass, AScheduleThatDoesNotFitIsRefused) {
  const auto wrong = Model::load(bert_folder(), {.threads = 1, .pruning = R"({"tokens": [1, 1]})"});
  ASSERT_FALSE(wrong.ok());
  EXPECT_EQ("pruning: tokens: expected a share for each of the 4 layers, found 2",
            wrong.status().message());
}

TEST(PrunedPass, AUsualScheduleIsForModelsWithoutAnother) {
  const auto pruning = [](const LoadOptions& options) { return load(options)->info().pruning; };
  const std::string own = pruning({.threads = 1, .pruning = kSchedule});
  EXPECT_EQ(pruning({.threads = 1, .usual_pruning = kSchedule}), own);
  EXPECT_EQ(pruning({.threads = 1, .pruning = kSchedule, .usual_pruning = R"({"tokens": 0.7})"}),
            own);
  EXPECT_EQ(pruning({.threads = 1, .pruning = "none", .usual_pruning = kSchedule}), "");
}

}  // namespace
}  // namespace tessera
