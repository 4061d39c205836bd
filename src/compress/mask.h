#pragma once

#include <cstdint>
#include <vector>

#include "formats/tile_mask.h"

// What is pruned: scores of tiles and the choice of the least. Matrices here are W of y = W x,
// [outputs][inputs], whatever order they are stored in, and so are tiles.
namespace tessera {

// An f32 matrix with its memory.
struct Weight {
  int64_t outputs = 0;
  int64_t inputs = 0;
  std::vector<float> values;

  float* row(int64_t output) { return values.data() + output * inputs; }
  const float* row(int64_t output) const { return values.data() + output * inputs; }
};

// A tile's score: sqrt(sum W_oi^2), its Frobenius norm, or with input norms sqrt(sum (W_oi n_i)^2)
// (Wanda's score, Sun et al. 2023, for tiles), over its elements. In the order of the mask's tiles.
std::vector<double> tile_scores(const Weight& weight, TileShape tile,
                                const std::vector<double>& input_norms = {});

// How many of n tiles a share is, rounded to nearest.
int64_t pruned_count(double share, int64_t tiles);

// Prunes exactly so many of the kept tiles, those of the least scores; of equal ones those that
// come first.
void prune_least(const std::vector<double>& scores, int64_t count, TileMask& mask);

// Prunes exactly so many tiles, from each row of tiles as many as from the others or one more,
// which the first rows lose.
void prune_balanced(const std::vector<double>& scores, int64_t count, TileMask& mask);

// One ranking over several matrices by score per root of the weights in a tile: the squared score
// lost for each weight. Prunes the least until so many weights are gone or one more would be too
// many.
struct RankedMatrix {
  const std::vector<double>* scores = nullptr;
  TileMask* mask = nullptr;
};
void prune_global(const std::vector<RankedMatrix>& matrices, int64_t weights);

// The mask of the transposed matrix.
TileMask transposed(const TileMask& mask);
// Weights of one tile, without what reaches over the edge.
int64_t tile_weights(const TileMask& mask, int64_t index);

}  // namespace tessera
