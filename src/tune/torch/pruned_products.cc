#include "tune/torch/pruned_products.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>

#include "base/caches.h"
#include "base/team.h"
#include "kernels/tile_matmul/tile_matmul.h"
#include "kernels/tile_outer/tile_outer.h"
#include "kernels/transpose/transpose.h"
#include "tune/torch/pruned_lines.h"

namespace tessera::training {
namespace {

// Dense products are as fast where more weights are kept. With 2048 rows of the maps of MiniLM and
// BERT-base, on two cores of a Xeon with AVX-512, a forward and a backward pass took, in parts of
// the dense one, by the kept share,
//   tiles of 16 x 16          0.2: 0.31 to 0.52   0.3: 0.41 to 0.67   0.5: 0.49 to 0.90
//   tiles of 8 x 8            0.2: 0.46 to 0.59   0.3: 0.62 to 0.75   0.5: 0.86 to 1.3
//   tiles of 16 x 1, 1 x 16   0.2: 0.31 to 0.61   0.3: 0.43 to 0.83   0.5: 0.64 to 1.14
// (tune_torch_bench).
constexpr double kMostKept = 0.65, kMostKeptOfEight = 0.45, kMostKeptLines = 0.4;

// Rows are dealt in multiples of what the kernels' register tiles take.
constexpr int64_t kGrain = 24;

// Whether a tile's edges are those of multiples of `of`, in a matrix that is so long.
constexpr bool is_multiple(int32_t tile, int64_t length, int32_t of) {
  return tile % of == 0 || tile >= length;
}

constexpr int32_t block_extent(int32_t tile, int64_t length) {
  return is_multiple(tile, length, 16) ? 16 : is_multiple(tile, length, 8) ? 8 : 1;
}

// The blocks of W, or with outputs and inputs exchanged of W^T.
enum class Side { kOutputs, kInputs };
TilePattern find_blocks(const TileMask& mask, Side side) {
  TilePattern pattern;
  const bool by_outputs = side == Side::kOutputs;
  const int64_t down = by_outputs ? mask.rows : mask.cols;
  const int64_t across = by_outputs ? mask.cols : mask.rows;
  const int32_t tile_down = by_outputs ? mask.tile.rows : mask.tile.cols;
  const int32_t tile_across = by_outputs ? mask.tile.cols : mask.tile.rows;
  pattern.shape = {block_extent(tile_down, down), block_extent(tile_across, across)};
  for (int64_t n = 0; n < down; n += pattern.shape.outputs) {
    TilePanel panel{n, static_cast<int32_t>(std::min<int64_t>(down - n, pattern.shape.outputs)),
                    static_cast<int32_t>(pattern.blocks.size()), 0};
    for (int64_t k = 0; k < across; k += pattern.shape.inputs) {
      const int64_t row = n / tile_down, col = k / tile_across;
      if (by_outputs ? mask.keeps(row, col) : mask.keeps(col, row)) {
        pattern.blocks.push_back(static_cast<int32_t>(k / pattern.shape.inputs));
      }
    }
    panel.end = static_cast<int32_t>(pattern.blocks.size());
    pattern.panels.push_back(panel);
  }
  return pattern;
}

// How a matrix lies in memory that a product reads as w[input][output].
struct Weights {
  const float* data;
  int64_t input_stride, output_stride;
  int64_t inputs;
};

// A block as tile_matmul.h has it; values are 0.
void pack_block(const Weights& weights, const BlockShape& shape, const TilePanel& panel,
                int64_t block, float* values) {
  const int64_t first = block * shape.inputs;
  const int64_t inputs = std::min<int64_t>(shape.inputs, weights.inputs - first);
  const float* from =
      weights.data + first * weights.input_stride + panel.output * weights.output_stride;
  if (shape.inputs == 1) {
    for (int64_t n = 0; n < panel.outputs; ++n) values[n] = from[n * weights.output_stride];
    return;
  }
  if (shape.outputs == 16 && weights.output_stride == 1) {
    for (int64_t k = 0; k < inputs; ++k) {
      std::copy_n(from + k * weights.input_stride, panel.outputs, values + k * 16);
    }
    return;
  }
  if (shape.outputs == 16) {
    transpose::kernels.run({from, weights.output_stride, inputs, values, 16}, {0, panel.outputs});
    return;
  }
  for (int64_t k = 0; k < inputs; ++k) {
    for (int64_t n = 0; n < panel.outputs; ++n) {
      values[k / 2 * 16 + 2 * n + k % 2] =
          from[k * weights.input_stride + n * weights.output_stride];
    }
  }
}

at::Tensor pack(const Weights& weights, const TilePattern& pattern) {
  at::Tensor values = at::zeros({pattern.values() + 16});
  float* data = values.data_ptr<float>();
  at::parallel_for(
      0, static_cast<int64_t>(pattern.panels.size()), 1, [&](int64_t begin, int64_t end) {
        for (int64_t p = begin; p < end; ++p) {
          const TilePanel& panel = pattern.panels[static_cast<size_t>(p)];
          for (int32_t b = panel.begin; b < panel.end; ++b) {
            pack_block(weights, pattern.shape, panel, pattern.blocks[static_cast<size_t>(b)],
                       data + b * pattern.block_values());
          }
        }
      });
  return values;
}

// Each thread multiplies rows of its own by all panels, so that no row is packed twice.
void multiply(Rows x, const Weights& weights, const TilePattern& pattern, const float* bias,
              Rows y) {
  const at::Tensor values = pack(weights, pattern);
  const int64_t group = tile_matmul::group_rows(x.width, l2_bytes());
  const int parts = at::get_num_threads();
  at::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    const int64_t first = slice(x.rows, kGrain, static_cast<int>(begin), parts).begin;
    const int64_t last = slice(x.rows, kGrain, static_cast<int>(end) - 1, parts).end;
    if (first >= last) return;
    const at::Tensor scratch =
        at::empty({tile_matmul::scratch_floats(std::min(last - first, group), x.width)});
    tile_matmul::kernels.run({.x = x.data + first * x.width,
                              .x_stride = x.width,
                              .rows = last - first,
                              .inputs = x.width,
                              .shape = pattern.shape,
                              .panels = pattern.panels.data(),
                              .blocks = pattern.blocks.data(),
                              .values = values.data_ptr<float>(),
                              .bias = bias,
                              .y = y.data + first * y.width,
                              .y_stride = y.width,
                              .scratch = scratch.data_ptr<float>(),
                              .group_rows = group},
                             {0, static_cast<int64_t>(pattern.panels.size())});
  });
}

}  // namespace

std::optional<PrunedProducts> PrunedProducts::of(const TileMask& mask) {
  const int32_t outputs = block_extent(mask.tile.rows, mask.rows);
  const int32_t inputs = block_extent(mask.tile.cols, mask.cols);
  const int32_t larger = std::max(outputs, inputs), smaller = std::min(outputs, inputs);
  if (larger == 1 || (larger == 8 && smaller == 1)) return std::nullopt;
  const double most = smaller == 16 ? kMostKept : smaller == 8 ? kMostKeptOfEight : kMostKeptLines;
  const auto all = static_cast<double>(mask.rows * mask.cols);
  if (static_cast<double>(mask.kept_weights()) > most * all) return std::nullopt;
  PrunedProducts products;
  if (outputs != 1) products.by_outputs_ = find_blocks(mask, Side::kOutputs);
  if (inputs != 1) products.by_inputs_ = find_blocks(mask, Side::kInputs);
  return products;
}

void PrunedProducts::forward(Rows x, const float* weights, const float* bias, Rows y) const {
  if (!by_outputs_.panels.empty()) {
    return multiply(x, {weights, 1, x.width, x.width}, by_outputs_, bias, y);
  }
  const at::Tensor lines = pack({weights, x.width, 1, y.width}, by_inputs_);
  scatter_lines(x, by_inputs_, lines.data_ptr<float>(), bias, y);
}

void PrunedProducts::input_gradient(Rows dy, const float* weights, Rows dx) const {
  if (!by_inputs_.panels.empty()) {
    return multiply(dy, {weights, dx.width, 1, dy.width}, by_inputs_, nullptr, dx);
  }
  const at::Tensor lines = pack({weights, 1, dx.width, dx.width}, by_outputs_);
  scatter_lines(dy, by_outputs_, lines.data_ptr<float>(), nullptr, dx);
}

void PrunedProducts::weight_gradient(Rows dy, Rows x, float* dw) const {
  if (by_inputs_.panels.empty()) return gather_lines(dy, x, by_outputs_, {dw, x.width, 1});
  if (by_outputs_.panels.empty()) return gather_lines(x, dy, by_inputs_, {dw, 1, x.width});
  const tile_outer::Args args{.dy = dy.data,
                              .dy_stride = dy.width,
                              .x = x.data,
                              .x_stride = x.width,
                              .rows = x.rows,
                              .inputs = x.width,
                              .shape = by_outputs_.shape,
                              .panels = by_outputs_.panels.data(),
                              .blocks = by_outputs_.blocks.data(),
                              .dw = dw,
                              .dw_stride = x.width,
                              .group_rows = tile_outer::group_rows(x.width, l2_bytes())};
  const int parts = at::get_num_threads();
  at::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    tile_outer::kernels.run(args, {cut(by_outputs_, begin, parts), cut(by_outputs_, end, parts)});
  });
}

}  // namespace tessera::training
