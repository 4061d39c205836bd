#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "formats/tiles.h"
#include "kernels/testing.h"

namespace tessera::testing {

// What a random tile-pruned matrix is drawn from; `kept` is the probability of a tile.
struct TileDraw {
  int64_t outputs = 0;
  int64_t inputs = 0;
  TileShape tile;
  MatrixOrder order = MatrixOrder::kOutputRows;
  DType dtype = DType::kF32;
  double kept = 0.5;
  uint32_t seed = 1;
};

// A tile-pruned matrix with its memory, which begins a byte after an aligned address, and what it
// multiplies out to in doubles. May not be copied.
class RandomTiles {
 public:
  explicit RandomTiles(const TileDraw& draw)
      : dense_(static_cast<size_t>(draw.outputs * draw.inputs)), draw_(draw), bytes_(1) {
    const bool by_output = draw.order == MatrixOrder::kOutputRows;
    matrix_.dtype = draw.dtype;
    matrix_.rows = by_output ? draw.outputs : draw.inputs;
    matrix_.cols = by_output ? draw.inputs : draw.outputs;
    matrix_.order = draw.order;
    matrix_.tile = draw.tile;
    if (draw.dtype == DType::kI8) draw_scales();
    std::mt19937 generator(draw.seed);
    std::bernoulli_distribution keep(draw.kept);
    offsets_.push_back(0);
    for (int64_t row = 0; row < matrix_.tile_rows(); ++row) {
      for (int64_t col = 0; col < matrix_.tile_cols(); ++col) {
        if (!keep(generator)) continue;
        columns_.push_back(static_cast<int32_t>(col));
        add_tile(row, col, generator);
      }
      offsets_.push_back(static_cast<int32_t>(columns_.size()));
    }
    matrix_.values = bytes_.data() + 1;
    matrix_.offsets = offsets_.data();
    matrix_.columns = columns_.data();
  }
  RandomTiles(const RandomTiles&) = delete;
  RandomTiles& operator=(const RandomTiles&) = delete;

  const TileMatrix& matrix() const { return matrix_; }
  // 0 where pruned.
  double weight(int64_t output, int64_t input) const {
    return dense_[static_cast<size_t>(output * draw_.inputs + input)];
  }
  std::string trace() const {
    return std::to_string(draw_.inputs) + " -> " + std::to_string(draw_.outputs) + ", tiles " +
           std::to_string(draw_.tile.rows) + " x " + std::to_string(draw_.tile.cols) +
           (draw_.order == MatrixOrder::kOutputRows ? " by output, " : " by input, ") +
           std::string(name(draw_.dtype)) + ", " + std::to_string(draw_.kept) + " kept, " +
           seed_trace(draw_.seed);
  }

 private:
  void add_tile(int64_t tile_row, int64_t tile_col, std::mt19937& generator) {
    std::normal_distribution<float> normal;
    for (int64_t r = tile_row * draw_.tile.rows; r < (tile_row + 1) * draw_.tile.rows; ++r) {
      for (int64_t c = tile_col * draw_.tile.cols; c < (tile_col + 1) * draw_.tile.cols; ++c) {
        const bool inside = r < matrix_.rows && c < matrix_.cols;
        const float value = add_value(inside ? normal(generator) : 0.0f);
        if (!inside) continue;
        const bool by_output = draw_.order == MatrixOrder::kOutputRows;
        const int64_t output = by_output ? r : c, input = by_output ? c : r;
        const double scale = scales_.empty() ? 1 : scales_[static_cast<size_t>(output)];
        dense_[static_cast<size_t>(output * draw_.inputs + input)] = scale * value;
      }
    }
  }

  void draw_scales() {
    scales_ = random_values(draw_.outputs, draw_.seed + 1000, 0.01f);
    matrix_.scales = scales_.data();
  }

  // The value as the dtype holds it.
  float add_value(float value) {
    char one[4];
    if (draw_.dtype == DType::kF32) {
      std::memcpy(one, &value, 4);
    } else if (draw_.dtype == DType::kI8) {
      // The ends of the range are not rare.
      value = std::nearbyint(std::clamp(100 * value, -127.0f, 127.0f));
      one[0] = static_cast<char>(value);
    } else {
      const bool half = draw_.dtype == DType::kF16;
      const uint16_t bits = half ? f32_to_f16(value) : f32_to_bf16(value);
      std::memcpy(one, &bits, 2);
      value = half ? f16_to_f32(bits) : bf16_to_f32(bits);
    }
    bytes_.insert(bytes_.end(), one, one + size_bytes(draw_.dtype));
    return value;
  }

  std::vector<double> dense_;
  TileDraw draw_;
  TileMatrix matrix_;
  std::vector<char> bytes_;
  std::vector<int32_t> offsets_, columns_;
  std::vector<float> scales_;  // of int8
};

}  // namespace tessera::testing
