#include "model/forward.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <random>
#include <string>

#include "model/normalise.h"
#include "model/slots.h"

namespace tessera {
namespace {

using Rows = std::vector<int32_t>;

enum class Kind { kEncoder, kDecoder };

constexpr int32_t kLayers = 4;
constexpr int32_t kVocabulary = 40;

// A small model with random weights: BERT's form (norms behind, learned positions, a head with a
// transform) or Llama's (norms in front, rotary positions, gated FFN, grouped queries).
class TinyModel {
 public:
  explicit TinyModel(Kind kind, int threads = 3) : random_(17), team_(threads) {
    const bool encoder = kind == Kind::kEncoder;
    LayerRecord layer{
        .query_heads = 4, .kv_heads = encoder ? 4 : 2, .head_size = 12, .ffn_size = 80};
    a_.hidden_size = 48;
    a_.vocabulary_size = kVocabulary;
    a_.max_positions = 512;
    a_.head = encoder ? Head::kMaskedLm : Head::kCausalLm;
    if (encoder) {
      a_.mask = Mask::kNone;
      a_.norm_kind = norm::Kind::kLayer;
      layer.ffn = Ffn::kPlain;
      layer.activation = Activation::kGeluErf;
    } else {
      layer.rotary = 0;
      a_.rotaries.emplace_back();
      for (int j = 0; j < 6; ++j)
        a_.rotaries[0].inverse_frequencies.push_back(std::pow(100.0f, -j / 6.0f));
    }
    a_.layers.assign(kLayers, layer);
    fill_weights(encoder);
    plan_ = choose_plan({.threads = threads, .layers = kLayers, .head_size = 12});
  }

  // Deals every layer so.
  void deal(Dealing dealing) {
    for (LayerPlan& layer : plan_.layers) set(layer, dealing);
  }
  // Deals layers this way and that.
  void deal_in_turns() {
    for (int i = 0; i < kLayers; ++i)
      set(plan_.layers[i], i % 2 == 0 ? Dealing::kOwn : Dealing::kShared);
  }

  struct Result {
    std::vector<float> hidden, logits;
    std::vector<std::vector<float>> all;
  };
  enum class States { kLast, kAll };
  Result run(const ForwardInput& input, States states = States::kLast) {
    Executor executor(a_, weights_, plan_, team_);
    Result result;
    ForwardOutput output;
    output.last_hidden = &result.hidden;
    if (states == States::kAll) output.all_hidden = &result.all;
    const Status status = executor.run(input, output);
    EXPECT_TRUE(status.ok()) << status.message();
    result.logits.assign(output.logits.begin(), output.logits.end());
    return result;
  }

  // As the final norm has it, where there is one.
  void normalise_states(std::vector<float>& states) const {
    if (weights_.final_norm.empty()) return;
    const auto rows = static_cast<int64_t>(states.size()) / a_.hidden_size;
    normalise(a_, weights_.final_norm, states.data(), states.data(), {0, rows});
  }

  const Architecture& architecture() const { return a_; }

 private:
  static void set(LayerPlan& layer, Dealing dealing) {
    layer.own_rows_from = dealing == Dealing::kOwn ? 0 : 1 << 30;
    layer.group_bytes = 1;  // the smallest groups: more than one a member
  }

  std::vector<float> normal(int64_t count, float scale) {
    std::normal_distribution<float> distribution(0, scale);
    std::vector<float> values(static_cast<size_t>(count));
    for (float& value : values) value = distribution(random_);
    return values;
  }

  std::unique_ptr<Linear> linear(int64_t outputs, int64_t inputs) {
    const std::vector<float> weight = normal(outputs * inputs, 0.2f), bias = normal(outputs, 0.2f);
    auto map = prepare_dense({{weight.data(), DType::kF32, outputs, inputs}}, bias.data(),
                             Precision::kF32, team_);
    EXPECT_TRUE(map.ok()) << map.status().message();
    return std::move(map).value();
  }

  NormWeights norm() {
    NormWeights norm{.weight = normal(a_.hidden_size, 0.1f)};
    for (float& weight : norm.weight) weight += 1;
    if (a_.norm_kind == norm::Kind::kLayer) norm.bias = normal(a_.hidden_size, 0.1f);
    return norm;
  }

  EmbeddingTable table(int64_t rows) {
    const std::vector<float> values = normal(rows * a_.hidden_size, 1);
    EmbeddingTable table{.data = host_device().allocate(values.size() * sizeof(float)),
                         .rows = rows,
                         .width = a_.hidden_size};
    std::copy(values.begin(), values.end(), table.data.as<float>());
    return table;
  }

  void fill_weights(bool encoder) {
    weights_.tokens = table(kVocabulary);
    if (encoder) {
      weights_.positions = table(a_.max_positions);
      weights_.types = table(2);
      weights_.embedding_norm = norm();
      weights_.head.transform = linear(a_.hidden_size, a_.hidden_size);
      weights_.head.norm = norm();
    } else {
      weights_.final_norm = norm();
    }
    for (int32_t i = 0; i < kLayers; ++i) {
      LayerWeights layer;
      layer.attention = a_.attention_shape_as_stored(i);
      for (const LayerMapSlot& slot : kLayerMapSlots) {
        const MapShape shape = slot.shape(a_, a_.layer(i));
        layer.*slot.weights = linear(shape.outputs(), shape.inputs);
      }
      (encoder ? layer.attention_sum_norm : layer.attention_norm) = norm();
      (encoder ? layer.ffn_sum_norm : layer.ffn_norm) = norm();
      weights_.layers.push_back(std::move(layer));
    }
    weights_.head.output = linear(kVocabulary, a_.hidden_size);
    weights_.head.outputs = kVocabulary;
  }

  std::mt19937 random_;
  Team team_;
  Architecture a_;
  Weights weights_;
  Plan plan_;
};

// A batch of sequences with random ids.
struct Batch {
  explicit Batch(const Rows& lengths) {
    std::mt19937 random(5);
    for (const int32_t length : lengths) layout.append(length, 0);
    for (int64_t r = 0; r < layout.rows(); ++r)
      ids.push_back(static_cast<int32_t>(random() % kVocabulary));
  }
  ForwardInput input() const {
    return {.ids = ids, .layout = &layout, .head_rows = HeadRows::kAll};
  }

  TokenLayout layout;
  Rows ids;
};

class Forward : public ::testing::TestWithParam<Kind> {
 protected:
  TinyModel model_{GetParam()};
  const Batch batch_{{130, 7, 63}};
};

TEST_P(Forward, DealingRowsEitherWayGivesTheSameBits) {
  model_.deal(Dealing::kShared);
  const auto shared = model_.run(batch_.input(), TinyModel::States::kAll);
  model_.deal(Dealing::kOwn);
  const auto own = model_.run(batch_.input(), TinyModel::States::kAll);
  EXPECT_EQ(own.all, shared.all);
  EXPECT_EQ(own.logits, shared.logits);
  model_.deal_in_turns();
  const auto turns = model_.run(batch_.input(), TinyModel::States::kAll);
  EXPECT_EQ(turns.all, shared.all);
  EXPECT_EQ(turns.logits, shared.logits);
}

TEST_P(Forward, StartsAtAnyLayerWithGivenStates) {
  const auto whole = model_.run(batch_.input(), TinyModel::States::kAll);
  for (int32_t first = 0; first < kLayers; ++first) {
    ForwardInput rest = batch_.input();
    rest.ids = {};
    rest.states = whole.all[static_cast<size_t>(first)];
    rest.first_layer = first;
    const auto part = model_.run(rest, TinyModel::States::kAll);
    ASSERT_EQ(part.all.size(), static_cast<size_t>(kLayers - first) + 1);
    EXPECT_EQ(part.all.front(), whole.all[static_cast<size_t>(first)]) << first;
    EXPECT_EQ(part.hidden, whole.hidden) << first;
    EXPECT_EQ(part.logits, whole.logits) << first;
  }
}

TEST_P(Forward, EndsAtAnyLayer) {
  const auto whole = model_.run(batch_.input(), TinyModel::States::kAll);
  for (int32_t end = 1; end < kLayers; ++end) {
    ForwardInput front = batch_.input();
    front.end_layer = end;
    front.head_rows = HeadRows::kNone;
    const auto part = model_.run(front);
    EXPECT_EQ(part.hidden, whole.all[static_cast<size_t>(end)]) << end;
    EXPECT_TRUE(part.logits.empty());
  }
}

// Rows that stay, with their places in the input: every third goes in front of layer 2, and of what
// is left the first of each sequence in front of layer 3.
struct Leaving {
  explicit Leaving(const TokenLayout& layout) {
    schedule.lengths.resize(kLayers);
    kept.resize(kLayers);
    Rows all(static_cast<size_t>(layout.rows()));
    std::iota(all.begin(), all.end(), 0);
    std::vector<Rows> sequences;  // rows of the set before
    for (int64_t s = 0; s < layout.sequences(); ++s) {
      const auto begin = all.begin() + layout.offsets[static_cast<size_t>(s)];
      sequences.emplace_back(begin, begin + layout.length(s));
    }
    for (size_t layer = 0; layer < kLayers; ++layer) {
      int32_t row = 0;
      for (Rows& origins : sequences) {
        Rows left;
        for (size_t i = 0; i < origins.size(); ++i, ++row) {
          if ((layer == 2 && i % 3 == 1) || (layer == 3 && i == 0)) continue;
          left.push_back(origins[i]);
          kept[layer].push_back(row);
        }
        origins = left;
        schedule.lengths[layer].push_back(static_cast<int32_t>(left.size()));
      }
      stays.push_back({});
      for (const Rows& origins : sequences)
        stays.back().insert(stays.back().end(), origins.begin(), origins.end());
    }
    schedule.choose = [this](int32_t layer, std::span<int32_t> target) {
      ASSERT_EQ(target.size(), kept[static_cast<size_t>(layer)].size());
      std::copy(kept[static_cast<size_t>(layer)].begin(), kept[static_cast<size_t>(layer)].end(),
                target.begin());
    };
  }
  Leaving(const Leaving&) = delete;

  RowSchedule schedule;
  std::vector<Rows> kept;   // [layer]: of the rows of the layer before
  std::vector<Rows> stays;  // [layer]: of the rows of the input
};

std::vector<float> rows_of(const std::vector<float>& states, const Rows& rows, int32_t width) {
  std::vector<float> some;
  for (const int32_t row : rows)
    some.insert(some.end(), states.begin() + row * width, states.begin() + (row + 1) * width);
  return some;
}

// From the layer that rows leave in front of, the pass is one over the rows that stay, with their
// positions; rows that left keep the states they left with.
TEST_P(Forward, RowsThatLeaveAreAsIfTheyHadNotBeenThere) {
  const int32_t width = model_.architecture().hidden_size;
  Leaving leaving(batch_.layout);
  ForwardInput whole = batch_.input();
  whole.schedule = &leaving.schedule;
  for (const Dealing dealing : {Dealing::kOwn, Dealing::kShared}) {
    model_.deal(dealing);
    const auto pruned = model_.run(whole);

    ForwardInput part = batch_.input();
    part.head_rows = HeadRows::kNone;
    part.end_layer = 2;
    std::vector<float> states = model_.run(part).hidden;
    std::vector<float> expected = states;
    std::vector<TokenLayout> layouts(kLayers);
    for (size_t layer = 2; layer < kLayers; ++layer) {
      const Rows& stays = leaving.stays[layer];
      size_t next = 0;
      for (const int32_t length : leaving.schedule.lengths[layer]) {
        layouts[layer].append(length, 0);
        for (int32_t i = 0; i < length; ++i, ++next)
          layouts[layer].positions[next] =
              batch_.layout.positions[static_cast<size_t>(stays[next])];
      }
      const std::vector<float> some = rows_of(expected, stays, width);
      ForwardInput step{.layout = &layouts[layer],
                        .first_layer = static_cast<int32_t>(layer),
                        .end_layer = static_cast<int32_t>(layer) + 1,
                        .states = some};
      const std::vector<float> after = model_.run(step).hidden;
      for (size_t r = 0; r < stays.size(); ++r) {
        std::copy_n(after.begin() + static_cast<int64_t>(r) * width, width,
                    expected.begin() + stays[r] * width);
      }
    }
    // The last step ended with the final norm, which rows that left have as well.
    std::vector<float> normed = expected;
    model_.normalise_states(normed);
    for (const int32_t row : leaving.stays.back())
      std::copy_n(expected.begin() + row * width, width, normed.begin() + row * width);
    EXPECT_EQ(pruned.hidden, normed);
    EXPECT_EQ(pruned.logits.size(), static_cast<size_t>(batch_.layout.rows()) * kVocabulary);
  }
}

// Tables hold the keys and positions of the rows that entered their layer, and of no others.
TEST(ForwardTables, HoldTheRowsThatEnteredTheirLayer) {
  TinyModel model(Kind::kDecoder);
  const Batch batch({70, 20});
  Leaving leaving(batch.layout);
  const int64_t page_bytes = model.architecture().attention_shape_as_stored(0).pages.page_bytes();
  std::vector<PageTable> tables(kLayers * 2);
  std::vector<PageTable*> pointers;
  const Buffer pages = host_device().allocate(static_cast<size_t>(page_bytes * 4 * kLayers));
  for (size_t i = 0; i < tables.size(); ++i) {
    for (size_t p = 0; p < 2; ++p)
      tables[i].pages.push_back(pages.as<std::byte>() +
                                static_cast<int64_t>(2 * i + p) * page_bytes);
    pointers.push_back(&tables[i]);
  }
  ForwardInput input = batch.input();
  input.schedule = &leaving.schedule;
  const auto without = model.run(input);
  input.tables = pointers;
  const auto with = model.run(input);
  EXPECT_EQ(with.logits, without.logits);
  for (size_t layer = 0; layer < kLayers; ++layer) {
    Rows positions = tables[2 * layer].positions;
    EXPECT_EQ(tables[2 * layer].tokens(), leaving.schedule.lengths[layer][0]);
    positions.insert(positions.end(), tables[2 * layer + 1].positions.begin(),
                     tables[2 * layer + 1].positions.end());
    Rows expected;
    for (const int32_t row : leaving.stays[layer])
      expected.push_back(batch.layout.positions[static_cast<size_t>(row)]);
    EXPECT_EQ(positions, expected) << layer;
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, Forward, ::testing::Values(Kind::kEncoder, Kind::kDecoder),
                         [](const auto& info) {
                           return info.param == Kind::kEncoder ? "Encoder" : "Decoder";
                         });

}  // namespace
}  // namespace tessera
