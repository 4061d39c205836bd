#include "compress/prune.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "compress/repair.h"

namespace tessera {
namespace {

constexpr size_t at(int64_t index) { return static_cast<size_t>(index); }

bool repairs(const PruneContext& context) {
  return context.options->repair == PruneOptions::Repair::kLeastSquares &&
         context.inputs->statistics() != nullptr;
}

// Clears what the mask prunes of W [outputs, inputs].
void clear(const TileMask& mask, Weight& weight) {
  clear_pruned(mask, sizeof(float), weight.values.data());
}

// A bias takes up means where repair may change it.
Centre centre_of(const PruneContext& context, const Matrix& matrix) {
  return repairs(context) && !matrix.bias.empty() ? Centre::kYes : Centre::kNo;
}

Status repair(const PruneContext& context, Centre centre, Matrix& matrix) {
  Hessian& hessian = context.inputs->hessian(centre);
  if (matrix.removed == Removed::kElements) {
    TESSERA_RETURN_IF_ERROR(repair_elements(*matrix.mask, hessian, matrix.pruned, *context.team));
  } else {
    TESSERA_RETURN_IF_ERROR(repair_tiles(*matrix.mask, hessian, matrix.pruned, *context.team));
  }
  clear(*matrix.mask, matrix.pruned);
  return {};
}

// The feature of W_V that input i of W_O comes from.
int64_t value_feature(const HeadShape& heads, int64_t input) {
  const int64_t head = input / heads.head_size, group = heads.query_heads / heads.kv_heads;
  return head / group * heads.head_size + input % heads.head_size;
}

std::vector<double> feature_scores(const HeadShape& heads, const InputStatistics* statistics,
                                   const Matrix& values, const Matrix& output) {
  if (statistics == nullptr)
    return tile_scores(values.whole, {1, static_cast<int32_t>(values.item.inputs)});
  const std::vector<double> added = tile_scores(
      output.whole, {static_cast<int32_t>(output.item.outputs), 1}, statistics->norms());
  std::vector<double> scores(at(values.item.outputs));
  for (size_t i = 0; i < added.size(); ++i)
    scores[at(value_feature(heads, static_cast<int64_t>(i)))] += added[i] * added[i];
  return scores;
}

}  // namespace

std::vector<double> unit_scores(const PruneContext& context, const Matrix& matrix) {
  const PruneOptions& options = *context.options;
  const TileShape tile = unit_tile(matrix.removed, matrix.item, options);
  const InputStatistics* statistics = context.inputs->statistics();
  if (options.score == PruneScore::kMagnitude || statistics == nullptr)
    return tile_scores(matrix.whole, tile);
  return tile_scores(matrix.whole, tile, statistics->norms());
}

void prune_share(const std::vector<double>& scores, double share, PruneScope scope,
                 TileMask& mask) {
  const int64_t count = pruned_count(share, mask.tiles());
  // A row of whole outputs is one unit, which has nothing to balance.
  if (scope == PruneScope::kBalanced && mask.tile_cols() > 1) {
    prune_balanced(scores, count, mask);
  } else {
    prune_least(scores, count, mask);
  }
}

void choose_mask(const PruneContext& context, const Choice& choice, Matrix& matrix) {
  if (matrix.removed == Removed::kNothing) return;
  if (choice.mask.has_value()) {
    matrix.mask = choice.mask;
    return;
  }
  TileMask mask = TileMask::all(unit_tile(matrix.removed, matrix.item, *context.options),
                                matrix.item.outputs, matrix.item.inputs);
  prune_share(unit_scores(context, matrix), choice.share, context.options->scope, mask);
  matrix.mask = std::move(mask);
}

Status prune_matrix(const PruneContext& context, Matrix& matrix) {
  if (!matrix.mask.has_value()) return {};
  matrix.pruned = matrix.whole;
  clear(*matrix.mask, matrix.pruned);
  const Centre centre = centre_of(context, matrix);
  if (repairs(context) && matrix.mask->kept_tiles() < matrix.mask->tiles()) {
    matrix.pruned = matrix.whole;
    TESSERA_RETURN_IF_ERROR(repair(context, centre, matrix));
    round_to_file(matrix);
  }
  if (centre == Centre::kYes) {
    move_bias(bias_shift(matrix.whole, matrix.pruned, *context.inputs->statistics()), matrix);
    round_to_file(matrix);
  }
  return {};
}

HeadShape heads_of(const LayerRecord& layer) {
  return {layer.query_heads, layer.kv_heads, layer.head_size};
}

ValueMasks prune_value_features(const HeadShape& heads, double share,
                                const std::vector<double>& scores, const Item& values,
                                const Item& output) {
  TileMask mask =
      TileMask::all({1, static_cast<int32_t>(values.inputs)}, values.outputs, values.inputs);
  const int64_t count =
      std::min<int64_t>(pruned_count(share, heads.head_size), heads.head_size - 1);
  for (int32_t head = 0; head < heads.kv_heads; ++head) {
    std::vector<double> own(scores.size(), std::numeric_limits<double>::infinity());
    const int64_t first = int64_t{head} * heads.head_size;
    std::copy_n(scores.begin() + first, heads.head_size, own.begin() + first);
    prune_least(own, count, mask);
  }
  TileMask inputs =
      TileMask::all({static_cast<int32_t>(output.outputs), 1}, output.outputs, output.inputs);
  for (int64_t i = 0; i < output.inputs; ++i)
    inputs.kept[at(i)] = mask.kept[at(value_feature(heads, i))];
  return {std::move(mask), std::move(inputs)};
}

void choose_value_features(const HeadShape& heads, const PruneOptions& options,
                           const InputStatistics* statistics, Matrix& values, Matrix& output) {
  const bool calibrated = options.score != PruneScore::kMagnitude;
  const std::vector<double> scores =
      feature_scores(heads, calibrated ? statistics : nullptr, values, output);
  ValueMasks masks = prune_value_features(heads, options.share, scores, values.item, output.item);
  values.mask = std::move(masks.values);
  output.mask = std::move(masks.output);
}

void move_value_bias(const HeadShape& heads, const Matrix& values, Matrix& output) {
  if (values.bias.empty() || output.bias.empty()) return;
  for (int64_t o = 0; o < output.item.outputs; ++o) {
    double moved = 0;
    for (int64_t i = 0; i < output.item.inputs; ++i) {
      if (output.mask->kept[at(i)] != 0) continue;
      moved +=
          static_cast<double>(output.whole.row(o)[i]) * values.bias[at(value_feature(heads, i))];
    }
    output.bias[at(o)] += static_cast<float>(moved);
  }
  output.bias_changed = true;
}

}  // namespace tessera
