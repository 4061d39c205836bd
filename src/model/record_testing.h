#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <map>
#include <random>
#include <string>

#include "model/architecture.h"
#include "model/forward.h"
#include "model/slots.h"

// What the settings of the architecture record compute, against plain loops in double.
namespace tessera::testing {

constexpr int32_t kLayers = 3;
constexpr int32_t kVocabulary = 30;
constexpr size_t at(int64_t index) { return static_cast<size_t>(index); }

using Row = std::vector<double>;

// [layer][sequence][head]: which heads live, and what they give.
template <typename T>
using OfHeads = std::vector<std::vector<std::vector<T>>>;

// Llama's form: norms in front, rotary positions, gated FFN, grouped queries.
inline Architecture base() {
  LayerRecord layer{
      .query_heads = 4, .kv_heads = 2, .head_size = 8, .rotary = 0, .ffn_size = 40, .names = {}};
  layer.names.attention_norm.weight = layer.names.ffn_norm.weight = "present";
  Architecture a{.head = Head::kCausalLm,
                 .hidden_size = 24,
                 .vocabulary_size = kVocabulary,
                 .max_positions = 128,
                 .rotaries = {{.inverse_frequencies = {1, 0.5f, 0.1f, 0.02f}}},
                 .layers = std::vector<LayerRecord>(kLayers, layer)};
  a.names.final_norm.weight = "present";
  return a;
}

class RandomModel {
 public:
  explicit RandomModel(const Architecture& architecture) : a_(architecture), random_(11), team_(1) {
    const std::vector<float> tokens = normal(int64_t{kVocabulary} * a_.hidden_size, 1);
    weights_.tokens = {.data = host_device().allocate(tokens.size() * sizeof(float)),
                       .rows = kVocabulary,
                       .width = a_.hidden_size};
    std::copy(tokens.begin(), tokens.end(), weights_.tokens.data.as<float>());
    for (int32_t i = 0; i < a_.layer_count(); ++i) add_layer(i);
    weights_.final_norm = norm(a_.hidden_size);
    weights_.head.output = linear({a_.hidden_size, {{Role::kHead, kVocabulary}}});
    weights_.head.outputs = kVocabulary;
  }

  // Heads of two sequences that leave one after another, those of each by themselves.
  OfHeads<uint8_t> some_heads() const {
    OfHeads<uint8_t> live;
    for (int32_t layer = 0; layer < kLayers; ++layer) {
      const auto heads = at(a_.layer(layer).query_heads);
      live.emplace_back(2, std::vector<uint8_t>(heads, 1));
      for (size_t h = 0; layer > 0 && h < heads; ++h) {
        live[at(layer)][0][h] = h != 1 && (layer == 1 || h > 1);
        live[at(layer)][1][h] = h % 2 == 0 || layer == 1;
      }
    }
    return live;
  }

  struct Found {
    std::vector<float> logits;
    OfHeads<double> magnitudes;
  };

  // The logits of every row of two sequences.
  Result<Found> run(Dealing dealing, int threads, const OfHeads<uint8_t>* live = nullptr) const {
    Plan plan = choose_plan({.threads = threads, .layers = kLayers, .head_size = 8});
    for (LayerPlan& layer : plan.layers) {
      layer.own_rows_from = dealing == Dealing::kOwn ? 0 : 1 << 30;
      layer.group_bytes = 1;
    }
    Team team(threads);
    Executor executor(a_, weights_, plan, team);
    TokenLayout layout;
    for (const int32_t length : kLengths) layout.append(length, 0);
    Found found;
    const HeadSchedule schedule{
        .choose =
            [&](int32_t layer, std::span<uint8_t> flags) {
              for (const std::vector<uint8_t>& heads : (*live)[at(layer)])
                flags = flags.subspan(static_cast<size_t>(
                    std::copy(heads.begin(), heads.end(), flags.begin()) - flags.begin()));
            },
        .observe =
            [&](int32_t layer, const TokenLayout& rows, const float* magnitudes) {
              const auto heads = at(a_.layer(layer).query_heads);
              found.magnitudes.emplace_back(2, std::vector<double>(heads));
              for (int64_t s = 0; s < 2; ++s) {
                for (int64_t row = rows.offsets[at(s)]; row < rows.offsets[at(s + 1)]; ++row) {
                  for (size_t h = 0; h < heads; ++h)
                    found.magnitudes.back()[at(s)][h] += double{magnitudes[at(row) * heads + h]};
                }
              }
            },
        .observed_layers = kLayers};
    const std::vector<int32_t> all_ids = ids();
    ForwardInput input{.ids = all_ids, .layout = &layout, .head_rows = HeadRows::kAll};
    if (live != nullptr) input.heads = &schedule;
    ForwardOutput output;
    TESSERA_RETURN_IF_ERROR(executor.run(input, output));
    found.logits.assign(output.logits.begin(), output.logits.end());
    return found;
  }

  // magnitudes: of what live heads give, or null.
  std::vector<double> reference(const OfHeads<uint8_t>* live = nullptr,
                                OfHeads<double>* magnitudes = nullptr) const {
    std::vector<double> logits;
    int64_t first = 0;
    size_t sequence = 0;
    if (magnitudes != nullptr) {
      for (const LayerRecord& layer : a_.layers)
        magnitudes->emplace_back(2, std::vector<double>(at(layer.query_heads)));
    }
    for (const int32_t length : kLengths) {
      std::vector<Row> x;
      for (int32_t p = 0; p < length; ++p) {
        const float* row = weights_.tokens.data.as<float>() + ids()[at(first + p)] * a_.hidden_size;
        x.emplace_back(row, row + a_.hidden_size);
        for (double& value : x.back()) value *= a_.embedding_scale;
      }
      for (int32_t i = 0; i < a_.layer_count(); ++i) {
        const std::vector<uint8_t> all(at(a_.layer(i).query_heads), 1);
        apply_layer(i, x, live == nullptr ? all : (*live)[at(i)][sequence],
                    magnitudes == nullptr ? nullptr : &(*magnitudes)[at(i)][sequence]);
      }
      ++sequence;
      for (const Row& row : x) {
        for (double l : apply(*weights_.head.output, normed(weights_.final_norm, row))) {
          l *= a_.logit_scale;
          logits.push_back(a_.logit_cap > 0 ? a_.logit_cap * std::tanh(l / a_.logit_cap) : l);
        }
      }
      first += length;
    }
    return logits;
  }

 private:
  static constexpr int32_t kLengths[] = {70, 5};

  struct Dense {
    std::vector<float> weight, bias;
  };

  static std::vector<int32_t> ids() {
    std::vector<int32_t> ids;
    for (int32_t i = 0; i < 75; ++i) ids.push_back((i * 7 + i / 9) % kVocabulary);
    return ids;
  }

  std::vector<float> normal(int64_t count, float scale) {
    std::normal_distribution<float> distribution(0, scale);
    std::vector<float> values(at(count));
    for (float& value : values) value = distribution(random_);
    return values;
  }

  std::unique_ptr<Linear> linear(const MapShape& shape) {
    Dense dense{normal(shape.outputs() * shape.inputs, 0.3f), normal(shape.outputs(), 0.2f)};
    auto map = prepare_dense({{dense.weight.data(), DType::kF32, shape.outputs(), shape.inputs}},
                             dense.bias.data(), Precision::kF32, team_);
    EXPECT_TRUE(map.ok()) << map.status().message();
    dense_[map->get()] = std::move(dense);
    return std::move(map).value();
  }

  NormWeights norm(int64_t width) {
    NormWeights norm{.weight = normal(width, 0.2f)};
    for (float& weight : norm.weight) weight += 1;
    return norm;
  }

  void add_layer(int32_t number) {
    const LayerRecord& record = a_.layer(number);
    LayerWeights layer;
    layer.attention = a_.attention_shape_as_stored(number);
    for (const LayerMapSlot& slot : kLayerMapSlots)
      layer.*slot.weights = linear(slot.shape(a_, record));
    for (const LayerNormSlot& slot : kLayerNormSlots) {
      if (!(record.names.*slot.names).weight.empty())
        layer.*slot.weights = norm(slot.width(a_, record));
    }
    weights_.layers.push_back(std::move(layer));
  }

  Row apply(const Linear& map, const Row& x) const {
    const Dense& dense = dense_.at(&map);
    Row y(dense.bias.begin(), dense.bias.end());
    for (size_t o = 0; o < y.size(); ++o) {
      for (size_t i = 0; i < x.size(); ++i) y[o] += double{dense.weight[o * x.size() + i]} * x[i];
    }
    return y;
  }

  // RMS norm; absent: x.
  Row normed(const NormWeights& norm, Row x) const {
    if (norm.empty()) return x;
    double squares = 0;
    for (const double value : x) squares += value * value;
    const double scale = 1 / std::sqrt(squares / static_cast<double>(x.size()) + a_.norm_eps);
    for (size_t i = 0; i < x.size(); ++i) x[i] *= scale * norm.weight[i];
    return x;
  }

  Row columns_normed(const NormWeights& norm, const Row& x, int64_t first, int64_t cols) const {
    return normed(norm, {x.begin() + first, x.begin() + first + cols});
  }

  // Queries, keys and values of a row where they stand.
  Row projected(const LayerRecord& r, const LayerWeights& w, const Row& x, int32_t position) const {
    Row row = apply(*w.qkv, x);
    const auto replace = [&](int64_t first, const Row& part) {
      std::copy(part.begin(), part.end(), row.begin() + first);
    };
    if (r.qk_norm == QkNorm::kWholeWidth) {
      replace(0, columns_normed(w.query_norm, row, 0, r.query_width()));
      replace(r.query_width(), columns_normed(w.key_norm, row, r.query_width(), r.kv_width()));
    }
    for (int32_t h = 0; h < r.query_heads + r.kv_heads; ++h) {
      double* head = row.data() + h * r.head_size;
      if (r.qk_norm == QkNorm::kPerHead) {
        replace(h * r.head_size, columns_normed(h < r.query_heads ? w.query_norm : w.key_norm, row,
                                                h * r.head_size, r.head_size));
      }
      if (r.rotary == kNoRotary) continue;
      const Rotary& rotary = a_.rotaries[at(r.rotary)];
      const size_t pairs = rotary.inverse_frequencies.size();
      for (size_t j = 0; j < pairs; ++j) {
        const double angle = position * double{rotary.inverse_frequencies[j]};
        const double c = rotary.scale * std::cos(angle), s = rotary.scale * std::sin(angle);
        const double first = head[j], second = head[j + pairs];
        head[j] = first * c - second * s;
        head[j + pairs] = second * c + first * s;
      }
    }
    return row;
  }

  Row attended(const LayerRecord& r, const std::vector<Row>& qkv, int64_t query) const {
    const double scale = r.score_scale > 0 ? r.score_scale : 1 / std::sqrt(double(r.head_size));
    Row context(at(r.query_width()));
    for (int32_t h = 0; h < r.query_heads; ++h) {
      const int64_t q = h * r.head_size,
                    k = r.query_width() + h / (r.query_heads / r.kv_heads) * r.head_size;
      std::vector<double> shares(qkv.size());
      double sum = 0;
      for (int64_t j = 0; j < static_cast<int64_t>(qkv.size()); ++j) {
        if (a_.mask == Mask::kCausal && j > query) continue;
        if (r.window > 0 && query - j >= r.window) continue;
        double score = 0;
        for (int64_t c = 0; c < r.head_size; ++c)
          score += qkv[at(query)][at(q + c)] * qkv[at(j)][at(k + c)];
        sum += shares[at(j)] = std::exp(score * scale);
      }
      for (size_t j = 0; j < qkv.size(); ++j) {
        for (int64_t c = 0; c < r.head_size; ++c)
          context[at(q + c)] += shares[j] / sum * qkv[j][at(k + r.kv_width() + c)];
      }
    }
    return context;
  }

  Row ffn(const LayerRecord& r, const LayerWeights& w, const Row& x) const {
    Row inner = apply(*w.ffn_in, x);
    for (int32_t i = 0; i < r.ffn_size; ++i) {
      double& value = inner[at(i)];
      value =
          r.activation == Activation::kRelu ? std::max(value, 0.0) : value / (1 + std::exp(-value));
      if (r.ffn == Ffn::kGated) value *= inner[at(r.ffn_size + i)];
    }
    inner.resize(at(r.ffn_size));
    return apply(*w.ffn_out, inner);
  }

  static Row sum(Row x, double scale, const Row& added) {
    for (size_t i = 0; i < x.size(); ++i) x[i] += scale * added[i];
    return x;
  }

  void apply_layer(int32_t number, std::vector<Row>& x, const std::vector<uint8_t>& live,
                   std::vector<double>* magnitudes) const {
    const LayerRecord& r = a_.layer(number);
    const LayerWeights& w = weights_.layers[at(number)];
    std::vector<Row> qkv;
    for (size_t p = 0; p < x.size(); ++p)
      qkv.push_back(projected(r, w, normed(w.attention_norm, x[p]), static_cast<int32_t>(p)));
    for (size_t p = 0; p < x.size(); ++p) {
      Row context = attended(r, qkv, static_cast<int64_t>(p));
      for (size_t i = 0; i < context.size(); ++i) {
        const size_t head = i / at(r.head_size);
        if (live[head] == 0) context[i] = 0;
        if (magnitudes != nullptr) (*magnitudes)[head] += std::abs(context[i]);
      }
      const Row attention = apply(*w.attention_output, context);
      const Row middle =
          normed(w.attention_sum_norm,
                 sum(x[p], r.residual_scale, normed(w.attention_output_norm, attention)));
      const bool parallel = r.residual == Residual::kParallel;
      const NormWeights& ffn_norm = parallel && w.ffn_norm.empty() ? w.attention_norm : w.ffn_norm;
      const Row added = ffn(r, w, normed(ffn_norm, parallel ? x[p] : middle));
      x[p] =
          normed(w.ffn_sum_norm, sum(middle, r.residual_scale, normed(w.ffn_output_norm, added)));
    }
  }

  Architecture a_;
  std::mt19937 random_;
  Team team_;
  Weights weights_;
  std::map<const Linear*, Dense> dense_;
};

struct Setting {
  const char* name;
  std::function<void(Architecture&)> set;
};

// In every layer.
inline std::function<void(Architecture&)> each(const std::function<void(LayerRecord&)>& set) {
  return [set](Architecture& a) {
    for (LayerRecord& layer : a.layers) set(layer);
  };
}

inline void drop_first_norms(LayerRecord& layer) {
  layer.names.attention_norm = layer.names.ffn_norm = {};
}
inline void add_output_norms(LayerRecord& layer) {
  layer.names.attention_output_norm.weight = layer.names.ffn_output_norm.weight = "present";
}
inline void add_query_norms(LayerRecord& layer, QkNorm norm) {
  layer.qk_norm = norm;
  layer.names.query_norm.weight = layer.names.key_norm.weight = "present";
}

inline const Setting kSettings[] = {
    {"NormsOfSums", each([](LayerRecord& layer) {
       drop_first_norms(layer);
       layer.names.attention_sum_norm.weight = layer.names.ffn_sum_norm.weight = "present";
     })},
    {"SandwichNorms", each(add_output_norms)},
    {"NormsOfOutputsAlone", each([](LayerRecord& layer) {
       drop_first_norms(layer);
       add_output_norms(layer);
     })},
    {"FirstLayerWithoutNorm", [](Architecture& a) { a.layers.front().names.attention_norm = {}; }},
    {"ParallelWithOneNorm", each([](LayerRecord& layer) {
       layer.residual = Residual::kParallel;
       layer.names.ffn_norm = {};
     })},
    {"ParallelWithTwoNorms",
     each([](LayerRecord& layer) { layer.residual = Residual::kParallel; })},
    {"ParallelSandwich", each([](LayerRecord& layer) {
       layer.residual = Residual::kParallel;
       layer.names.ffn_norm = {};
       add_output_norms(layer);
     })},
    {"ScaledResiduals", each([](LayerRecord& layer) { layer.residual_scale = 0.7f; })},
    {"ParallelScaledResiduals", each([](LayerRecord& layer) {
       layer.residual = Residual::kParallel;
       layer.residual_scale = 0.7f;
     })},
    {"NormOfEachQueryHead",
     each([](LayerRecord& layer) { add_query_norms(layer, QkNorm::kPerHead); })},
    {"NormOfAllQueryHeads",
     each([](LayerRecord& layer) { add_query_norms(layer, QkNorm::kWholeWidth); })},
    {"PartialRotary",
     [](Architecture& a) {
       a.rotaries[0].inverse_frequencies = {1, 0.3f};
     }},
    {"ScaledRotary", [](Architecture& a) { a.rotaries[0].scale = 1.2f; }},
    {"RotaryOfALayer",
     [](Architecture& a) {
       a.rotaries.push_back({.inverse_frequencies = {0.7f, 0.2f, 0.03f, 0.001f}});
       a.layers[1].rotary = 1;
       a.layers[2].rotary = kNoRotary;
     }},
    {"WindowsOfLayers",
     [](Architecture& a) {
       a.layers[0].window = 4;
       a.layers[2].window = 9;
     }},
    {"ScoreScale", each([](LayerRecord& layer) { layer.score_scale = 0.11f; })},
    {"EveryTokenSeen", [](Architecture& a) { a.mask = Mask::kNone; }},
    // Whose products leave out what dead heads give and read.
    {"WideHeads", each([](LayerRecord& layer) { layer.head_size = 64; })},
    {"WideHeadsOfTheirOwn", each([](LayerRecord& layer) {
       layer.head_size = 64;
       layer.kv_heads = 4;
     })},
    {"EmbeddingScale", [](Architecture& a) { a.embedding_scale = 5; }},
    {"LogitScale", [](Architecture& a) { a.logit_scale = 0.125f; }},
    {"LogitCap", [](Architecture& a) { a.logit_cap = 2; }},
    {"ScaledLogitCap",
     [](Architecture& a) {
       a.logit_scale = 0.5f;
       a.logit_cap = 1.5f;
     }},
    {"LayersThatDiffer",
     [](Architecture& a) {
       a.layers[0].query_heads = 6;
       a.layers[1].kv_heads = 4;
       a.layers[1].ffn_size = 72;
       a.layers[2].head_size = 16;
       a.layers[2].ffn = Ffn::kPlain;
       a.layers[2].activation = Activation::kRelu;
     }},
};

inline double largest(const std::vector<double>& values) {
  double most = 0;
  for (const double value : values) most = std::max(most, std::abs(value));
  return most;
}

}  // namespace tessera::testing
