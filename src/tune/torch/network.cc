#include "tune/torch/network.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>

#include "model/pass.h"
#include "model/rotary_frequencies.h"
#include "tune/torch/cascade.h"
#include "tune/torch/functions.h"
#include "tune/torch/low_rank_update.h"
#include "tune/torch/recompute.h"
#include "tune/torch/rounded.h"

namespace tessera::training {
namespace {

using torch::Tensor;

// In the order of kLayerNormSlots.
enum class LayerNorm {
  kAttention,
  kAttentionOutput,
  kAttentionSum,
  kFfn,
  kFfnOutput,
  kFfnSum,
  kQuery,
  kKey
};
// In the orders of kTableSlots, kModelNormSlots and kHeadMapSlots.
enum class Table { kTokens, kPositions, kTypes };
enum class ModelNorm { kEmbedding, kFinal };
enum class HeadMap { kTransform, kOutput };

template <typename Index>
constexpr size_t at(Index index) {
  return static_cast<size_t>(index);
}

Tensor activate(Activation activation, const Tensor& x) {
  switch (activation) {
    case Activation::kNone:
      return x;
    case Activation::kRelu:
      return at::relu(x);
    case Activation::kGeluErf:
      return at::gelu(x);
    case Activation::kGeluTanh:
      return at::gelu(x, "tanh");
    case Activation::kSilu:
      return at::silu(x);
    case Activation::kTanh:
      return at::tanh(x);
  }
  return x;
}

Tensor normalise(const Architecture& a, const TrainedNorm& norm, const Tensor& x) {
  if (norm.empty()) return x;
  Tensor weight = norm.weight->value;
  if (a.norm_weight_offset != 0) weight = weight + a.norm_weight_offset;
  if (a.norm_kind == norm::Kind::kLayer) {
    return at::layer_norm(x, {x.size(-1)}, weight,
                          norm.bias != nullptr ? norm.bias->value : Tensor(), a.norm_eps);
  }
  const Tensor scale = at::rsqrt(at::mean(x * x, {-1}, true) + a.norm_eps);
  return x * scale * weight;
}

float score_scale(const LayerRecord& layer) {
  return layer.score_scale > 0 ? layer.score_scale
                               : 1 / std::sqrt(static_cast<float>(layer.head_size));
}

// What positions turn queries and keys by: cosines and sines, [rows, 1, pairs].
struct Angles {
  Tensor cosines, sines;
};

// Shared with what computes its layers again.
class Pass : public std::enable_shared_from_this<Pass> {
 public:
  Pass(const TrainedModel& model, const Batch& batch, const ForwardOptions& options)
      : model_(model), a_(model.architecture), batch_(batch), options_(options) {
    for (int64_t s = 0; s < batch.sequences(); ++s) {
      for (int32_t row = batch.offsets[at(s)]; row < batch.offsets[at(s) + 1]; ++row)
        positions_.push_back(row - batch.offsets[at(s)]);
    }
    for (const Rotary& rotary : a_.rotaries) angles_.push_back(angles_of(rotary));
    if (options.schedule != nullptr) cascade_.emplace(*options.schedule, a_, batch, options.kept);
  }

  States run() {
    States states;
    Tensor x = drop(embed());
    states.hidden.push_back(x);
    states.rows.emplace_back();
    for (int32_t layer = 0; layer < a_.layer_count(); ++layer) {
      x = take_through(layer, enter(layer, x), states);
      states.hidden.push_back(x);
      states.rows.push_back(left_.empty() ? Tensor() : indices(cascade_->rows()));
    }
    const TrainedNorm& final_norm = model_.norms[at(ModelNorm::kFinal)];
    states.last = normalise(final_norm, whole(x));
    const bool pools_survivors =
        !left_.empty() && options_.schedule->pooling == PoolRows::kSurvivors;
    states.pooled = pools_survivors ? normalise(final_norm, x) : states.last;
    states.pooled_offsets = pools_survivors ? cascade_->offsets() : batch_.offsets;
    return states;
  }

 private:
  // Takes out the rows that leave in front of a layer.
  Tensor enter(int32_t layer, const Tensor& x) {
    if (!cascade_) return x;
    std::vector<int64_t> leaving;
    const std::vector<int64_t> before = cascade_->rows(), stay = cascade_->choose(layer);
    if (stay.empty()) return x;
    for (size_t place = 0, next = 0; place < before.size(); ++place) {
      const bool stays = next < stay.size() && stay[next] == static_cast<int64_t>(place);
      next += stays ? 1 : 0;
      if (stays) continue;
      leaving.push_back(static_cast<int64_t>(place));
      left_rows_.push_back(before[place]);
    }
    left_.push_back(at::index_select(x, 0, indices(leaving)));
    const Tensor kept = indices(stay);
    for (Angles& angles : angles_) {
      angles.cosines = at::index_select(angles.cosines, 0, kept);
      angles.sines = at::index_select(angles.sines, 0, kept);
    }
    return at::index_select(x, 0, kept);
  }

  // The states of all rows of the batch, in their order.
  Tensor whole(const Tensor& x) const {
    if (left_.empty()) return x;
    std::vector<Tensor> parts = left_;
    parts.push_back(x);
    std::vector<int64_t> rows = left_rows_, places(at(batch_.tokens()));
    rows.insert(rows.end(), cascade_->rows().begin(), cascade_->rows().end());
    for (size_t place = 0; place < rows.size(); ++place)
      places[at(rows[place])] = static_cast<int64_t>(place);
    return at::index_select(at::cat(parts, 0), 0, indices(places));
  }

  Tensor drop(const Tensor& x) const {
    return options_.dropout > 0 ? at::dropout(x, options_.dropout, true) : x;
  }

  Tensor normalise(const TrainedNorm& norm, const Tensor& x) const {
    return training::normalise(a_, norm, x);
  }

  Tensor rows_of(Table table, std::vector<int64_t> rows) const {
    return at::embedding(rounded_values(*model_.tables[at(table)]), indices(std::move(rows)));
  }

  // RoBERTa's positions do not count padding, which the pass of the engine has too.
  std::vector<int64_t> position_rows() const {
    std::vector<int64_t> rows;
    const int32_t padding = a_.position_padding_id;
    int64_t skipped = 0;
    for (size_t r = 0; r < batch_.ids.size(); ++r) {
      if (positions_[r] == 0) skipped = 0;
      const bool is_padding = padding >= 0 && batch_.ids[r] == padding;
      skipped += is_padding ? 1 : 0;
      rows.push_back(is_padding ? padding : positions_[r] - skipped + a_.position_offset);
    }
    return rows;
  }

  Tensor embed() const {
    Tensor x = rows_of(Table::kTokens, {batch_.ids.begin(), batch_.ids.end()});
    if (a_.embedding_scale != 1) x = x * a_.embedding_scale;
    if (model_.tables[at(Table::kPositions)] != nullptr)
      x = x + rows_of(Table::kPositions, position_rows());
    if (model_.tables[at(Table::kTypes)] != nullptr) {
      std::vector<int64_t> types(batch_.type_ids.begin(), batch_.type_ids.end());
      types.resize(batch_.ids.size());
      x = x + rows_of(Table::kTypes, std::move(types));
    }
    return normalise(model_.norms[at(ModelNorm::kEmbedding)], x);
  }

  // Frequencies are those of each sequence's length, as for a prompt.
  Angles angles_of(const Rotary& rotary) const {
    const size_t pairs = rotary.inverse_frequencies.size();
    std::vector<float> cosines, sines;
    for (int64_t s = 0; s < batch_.sequences(); ++s) {
      const int32_t length = batch_.offsets[at(s) + 1] - batch_.offsets[at(s)];
      const int32_t usual = rotary.longer.usual_tokens;
      const std::vector<float> frequencies = usual > 0 && length > usual
                                                 ? frequencies_of_length(rotary, length)
                                                 : rotary.inverse_frequencies;
      for (int32_t position = 0; position < length; ++position) {
        for (const float frequency : frequencies) {
          const auto angle = static_cast<double>(static_cast<float>(position) * frequency);
          cosines.push_back(static_cast<float>(std::cos(angle)) * rotary.scale);
          sines.push_back(static_cast<float>(std::sin(angle)) * rotary.scale);
        }
      }
    }
    const std::vector<int64_t> shape = {batch_.tokens(), 1, static_cast<int64_t>(pairs)};
    return {torch::tensor(cosines).view(shape), torch::tensor(sines).view(shape)};
  }

  // Pairs are elements j and j + pairs of a head; those behind the pairs stay.
  Tensor rotate(const Angles& angles, const Tensor& x, int32_t head_size) const {
    const int64_t pairs = angles.cosines.size(2);
    const Tensor heads = x.view({x.size(0), -1, head_size});
    const Tensor a = heads.narrow(2, 0, pairs), b = heads.narrow(2, pairs, pairs);
    std::vector<Tensor> parts = {a * angles.cosines - b * angles.sines,
                                 b * angles.cosines + a * angles.sines};
    if (2 * pairs < head_size) parts.push_back(heads.narrow(2, 2 * pairs, head_size - 2 * pairs));
    return at::cat(parts, 2).view({x.size(0), x.size(1)});
  }

  Tensor normalise_heads(const LayerRecord& layer, const TrainedNorm& norm, const Tensor& x) const {
    if (layer.qk_norm == QkNorm::kWholeWidth) return normalise(norm, x);
    return normalise(norm, x.view({x.size(0), -1, layer.head_size})).view({x.size(0), x.size(1)});
  }

  std::vector<Tensor> products(const TrainedMap& map, const Tensor& x) const {
    std::vector<Tensor> results;
    for (size_t i = 0; i < map.weights.size(); ++i)
      results.push_back(updated_linear(x, *map.weights[i], map.biases[i], options_.update_dropout));
    return results;
  }
  Tensor product(const TrainedMap& map, const Tensor& x) const {
    const std::vector<Tensor> parts = products(map, x);
    return parts.size() == 1 ? parts.front() : at::cat(parts, 1);
  }

  // What a layer's attention reads.
  struct Read {
    Tensor queries, keys;
  };

  Tensor attend(int32_t number, const Tensor& x, Read& read) {
    const LayerRecord& record = a_.layer(number);
    const TrainedLayer& layer = model_.layers[at(number)];
    std::vector<Tensor> qkv = products(layer.maps[at(LayerMap::kQkv)], x);
    if (qkv.size() == 1) {
      qkv = qkv.front().split_with_sizes(
          {record.query_width(), record.kv_width(), record.kv_width()}, 1);
    }
    if (record.qk_norm != QkNorm::kNone) {
      qkv[0] = normalise_heads(record, layer.norms[at(LayerNorm::kQuery)], qkv[0].contiguous());
      qkv[1] = normalise_heads(record, layer.norms[at(LayerNorm::kKey)], qkv[1].contiguous());
    }
    if (record.rotary != kNoRotary) {
      const Angles& angles = angles_[at(record.rotary)];
      for (int i = 0; i < 2; ++i) qkv[i] = rotate(angles, qkv[i].contiguous(), record.head_size);
    }
    read = {qkv[0].contiguous(), qkv[1].contiguous()};
    Tensor context = attention(read.queries, read.keys, qkv[2].contiguous(),
                               {.offsets = cascade_ ? cascade_->offsets() : batch_.offsets,
                                .query_heads = record.query_heads,
                                .kv_heads = record.kv_heads,
                                .head_size = record.head_size,
                                .scale = score_scale(record),
                                .mask = a_.mask,
                                .window = record.window});
    if (cascade_) {
      context = cascade_->without_dead_heads(number, context);
      cascade_->add(number, read.queries, read.keys, context);
    }
    return product(layer.maps[at(LayerMap::kAttentionOutput)], context);
  }

  Tensor feed_forward(const LayerRecord& record, const TrainedLayer& layer, const Tensor& x) const {
    std::vector<Tensor> in = products(layer.maps[at(LayerMap::kFfnIn)], x);
    if (record.ffn == Ffn::kPlain) {
      return product(layer.maps[at(LayerMap::kFfnOut)], activate(record.activation, in.front()));
    }
    if (in.size() == 1) in = in.front().split(record.ffn_size, 1);
    return product(layer.maps[at(LayerMap::kFfnOut)],
                   (activate(record.activation, in[0]) * in[1]).contiguous());
  }

  // What a block adds, on its way into the states.
  Tensor leave(const LayerRecord& record, const TrainedNorm& output_norm,
               const Tensor& added) const {
    const Tensor normed = drop(normalise(output_norm, added));
    return record.residual_scale != 1 ? normed * record.residual_scale : normed;
  }

  // The states that a layer gives. Its input is told apart from the same states where a loss reads
  // them: the gradients of what the layer reads meet first, so that their sum does not depend on
  // whether the layer is computed again.
  Tensor take_through(int32_t number, const Tensor& states_before, States& states) {
    const Tensor x = at::alias(states_before);
    std::vector<Tensor> results;
    if (options_.inner == InnerStates::kKept) {
      results = layer_results(number, x);
    } else {
      const auto again = [pass = shared_from_this(), number](const Tensor& input) {
        return pass->layer_results(number, input);
      };
      results = recomputed(again, x, trained_values(model_));
    }
    if (options_.attention == ForwardOptions::Attention::kKept) {
      states.queries.push_back(results[1]);
      states.keys.push_back(results[2]);
    }
    return results[0];
  }

  // Its states and, where they are asked for, what its attention reads.
  std::vector<Tensor> layer_results(int32_t number, const Tensor& x) {
    Read read;
    Tensor y = run_layer(number, x, read);
    if (options_.attention == ForwardOptions::Attention::kDropped) return {std::move(y)};
    return {std::move(y), read.queries, read.keys};
  }

  Tensor run_layer(int32_t number, const Tensor& x, Read& read) {
    const LayerRecord& record = a_.layer(number);
    const TrainedLayer& layer = model_.layers[at(number)];
    const auto norm = [&](LayerNorm which) -> const TrainedNorm& { return layer.norms[at(which)]; };
    const Tensor attention_input = normalise(norm(LayerNorm::kAttention), x);
    const Tensor attended =
        leave(record, norm(LayerNorm::kAttentionOutput), attend(number, attention_input, read));
    if (record.residual == Residual::kParallel) {
      const bool shares = norm(LayerNorm::kFfn).empty();
      const Tensor ffn_input = shares ? attention_input : normalise(norm(LayerNorm::kFfn), x);
      return x + attended +
             leave(record, norm(LayerNorm::kFfnOutput), feed_forward(record, layer, ffn_input));
    }
    const Tensor between = normalise(norm(LayerNorm::kAttentionSum), x + attended);
    const Tensor fed =
        leave(record, norm(LayerNorm::kFfnOutput),
              feed_forward(record, layer, normalise(norm(LayerNorm::kFfn), between)));
    return normalise(norm(LayerNorm::kFfnSum), between + fed);
  }

  const TrainedModel& model_;
  const Architecture& a_;
  const Batch& batch_;
  ForwardOptions options_;
  std::vector<int64_t> positions_;  // of each row in its sequence
  std::vector<Angles> angles_;      // of each of the architecture's rotaries, of the rows alive
  std::optional<BatchCascade> cascade_;
  // States of rows that left, layer by layer, and which rows these are.
  std::vector<Tensor> left_;
  std::vector<int64_t> left_rows_;
};

Tensor map_of(const TrainedMap& map, const Tensor& x) {
  return linear(x, *map.weights.front(), map.biases.front());
}

}  // namespace

torch::Tensor indices(const std::vector<int64_t>& rows) {
  return torch::tensor(rows, torch::kInt64);
}

States forward(const TrainedModel& model, const Batch& batch, const ForwardOptions& options) {
  return std::make_shared<Pass>(model, batch, options)->run();
}

torch::Tensor scaled_scores(const LayerRecord& layer, const torch::Tensor& queries,
                            const torch::Tensor& keys, int64_t first, int64_t rows) {
  const auto heads = [&](const Tensor& x, int32_t count) {  // [count, rows, head_size]
    return x.narrow(0, first, rows).view({rows, count, layer.head_size}).transpose(0, 1);
  };
  const Tensor query = heads(queries, layer.query_heads);
  const Tensor key =
      heads(keys, layer.kv_heads).repeat_interleave(layer.query_heads / layer.kv_heads, 0);
  return at::matmul(query, key.transpose(1, 2)) * score_scale(layer);
}

torch::Tensor attention_scores(const Architecture& a, int32_t number, const Batch& batch,
                               int64_t sequence, const States& states) {
  const LayerRecord& layer = a.layer(number);
  const int64_t first = batch.offsets[at(sequence)];
  const int64_t rows = batch.offsets[at(sequence) + 1] - first;
  const Tensor scores =
      scaled_scores(layer, states.queries[at(number)], states.keys[at(number)], first, rows);
  if (a.mask == Mask::kNone) return scores;
  const Tensor ones = at::ones({rows, rows}, torch::kBool);
  Tensor hidden = at::triu(ones, 1);
  if (layer.window > 0) hidden = at::logical_or(hidden, at::tril(ones, -layer.window));
  return scores.masked_fill(hidden, -std::numeric_limits<float>::infinity());
}

torch::Tensor head(const TrainedModel& model, const torch::Tensor& rows) {
  const Architecture& a = model.architecture;
  Tensor x = rows;
  if (const TrainedMap& transform = model.head_maps[at(HeadMap::kTransform)]; !transform.empty()) {
    x = activate(a.names.head.activation, map_of(transform, x));
    x = normalise(a, model.head_norm, x);
  }
  Tensor logits = map_of(model.head_maps[at(HeadMap::kOutput)], x);
  if (a.head != Head::kCausalLm) return logits;
  if (a.logit_scale != 1) logits = logits * a.logit_scale;
  if (a.logit_cap > 0) logits = at::tanh(logits / a.logit_cap) * a.logit_cap;
  return logits;
}

std::vector<int64_t> head_rows(const TrainedModel& model, const Batch& batch) {
  const Architecture& a = model.architecture;
  const TokenLayout layout{.offsets = batch.offsets};
  std::vector<int64_t> rows;
  for (int64_t s = 0; s < batch.sequences(); ++s) {
    rows.push_back(a.names.head.reads == HeadReads::kLastToken
                       ? last_head_row(batch.ids, layout, s, a.head_padding_id)
                       : batch.offsets[at(s)]);
  }
  return rows;
}

}  // namespace tessera::training
