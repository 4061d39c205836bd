#pragma once

#include <optional>
#include <vector>

#include "base/status.h"
#include "base/team.h"
#include "compress/matrix.h"
#include "compress/prune_units.h"
#include "compress/statistics.h"
#include "model/architecture.h"

namespace tessera {

// What was chosen for an item ahead of its layer: its share, or the mask itself.
struct Choice {
  double share = 0;
  std::optional<TileMask> mask;
};

// What the functions below share.
struct PruneContext {
  const PruneOptions* options = nullptr;
  MapInputs* inputs = nullptr;
  Team* team = nullptr;
};

// Scores of the units of a matrix, as the options say; by magnitude without statistics.
std::vector<double> unit_scores(const PruneContext& context, const Matrix& matrix);

// Prunes a share of the units of a matrix of which the mask keeps all: those of the least scores,
// of each row of tiles as many as of the others where the scope is kBalanced.
void prune_share(const std::vector<double>& scores, double share, PruneScope scope, TileMask& mask);

// Chooses what the matrix loses.
void choose_mask(const PruneContext& context, const Choice& choice, Matrix& matrix);

// Removes it, and repairs what is left and the bias where there are statistics and the options say
// so.
Status prune_matrix(const PruneContext& context, Matrix& matrix);

// The heads of values and of the output matrix that reads them.
struct HeadShape {
  int32_t query_heads = 0;
  int32_t kv_heads = 0;
  int32_t head_size = 0;
};
HeadShape heads_of(const LayerRecord& layer);

// What values keep when every KV head loses the share of its features that have the least scores,
// though not the last one, and with it which inputs the output matrix keeps.
struct ValueMasks {
  TileMask values, output;
};
ValueMasks prune_value_features(const HeadShape& heads, double share,
                                const std::vector<double>& scores, const Item& values,
                                const Item& output);

// Chooses both as the options say. The score of a feature is the norm of its row of W_V, or,
// calibrated, the norm of what it adds through W_O: sqrt(sum over the group's heads of |W_O
// column|^2 E[z^2]).
void choose_value_features(const HeadShape& heads, const PruneOptions& options,
                           const InputStatistics* statistics, Matrix& values, Matrix& output);

// b_O += W_O b_V over the features that go: what they add where values are no more than their bias.
void move_value_bias(const HeadShape& heads, const Matrix& values, Matrix& output);

}  // namespace tessera
