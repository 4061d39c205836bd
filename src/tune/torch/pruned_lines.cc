#include "tune/torch/pruned_lines.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>

#include "base/caches.h"
#include "base/team.h"
#include "kernels/line_sums/line_sums.h"
#include "kernels/transpose/transpose.h"

namespace tessera::training {
namespace {

using line_sums::kLine;

// Blocks of rows that share the reading of the lines.
constexpr int64_t kTogether = 4;

int64_t padded(int64_t width) { return (width + kLine - 1) / kLine * kLine; }

// Up to 16 rows beside each other, [padded(width)][16]; 0 where there are none.
void stand_up(Rows rows, int64_t first, float* target) {
  const int64_t count = std::min(kLine, rows.rows - first);
  std::fill(target + (count < kLine ? 0 : rows.width) * kLine, target + padded(rows.width) * kLine,
            0.0f);
  transpose::kernels.run({rows.data + first * rows.width, rows.width, rows.width, target, kLine},
                         {0, count});
}

void lay_down(const float* standing, int64_t first, Rows rows) {
  const int64_t count = std::min(kLine, rows.rows - first);
  transpose::kernels.run({standing, kLine, count, rows.data + first * rows.width, rows.width},
                         {0, rows.width});
}

void fill_lines(const float* bias, int64_t width, float* target) {
  for (int64_t n = 0; n < width; ++n) {
    std::fill_n(target + n * kLine, kLine, bias != nullptr ? bias[n] : 0.0f);
  }
}

// Blocks [begin, end) of rows.
void scatter_some(Rows from, const TilePattern& pattern, const float* lines, const float* bias,
                  Rows to, Range blocks) {
  const int64_t from_size = padded(from.width) * kLine, to_size = padded(to.width) * kLine;
  const at::Tensor scratch = at::empty({kTogether * (from_size + to_size)});
  float* read = scratch.data_ptr<float>();
  float* written = read + kTogether * from_size;
  const auto& kernel = line_sums::kernels.select({});
  for (int64_t block = blocks.begin; block < blocks.end; block += kTogether) {
    const int64_t count = std::min(kTogether, blocks.end - block);
    for (int64_t b = 0; b < count; ++b) {
      stand_up(from, (block + b) * kLine, read + b * from_size);
      fill_lines(bias, to.width, written + b * to_size);
    }
    for (const TilePanel& panel : pattern.panels) {
      for (int64_t b = 0; b < count; ++b) {
        kernel.run({.fixed = read + b * from_size + panel.output * kLine,
                    .fixed_stride = kLine,
                    .lines = lines,
                    .sums = written + b * to_size,
                    .sum_of = pattern.blocks.data()},
                   {panel.begin, panel.end});
      }
    }
    for (int64_t b = 0; b < count; ++b) lay_down(written + b * to_size, (block + b) * kLine, to);
  }
}

int64_t row_blocks(Rows rows) { return (rows.rows + kLine - 1) / kLine; }

// Rows [first, first + 16) of a panel's features, read in place or, at the edges, from `square`.
struct Fixed {
  const float* data;
  int64_t stride;

  Fixed(Rows lanes, int64_t first, const TilePanel& panel, float* square)
      : data(lanes.data + first * lanes.width + panel.output), stride(lanes.width) {
    const int64_t rows = std::min(kLine, lanes.rows - first);
    if (rows == kLine && panel.outputs == kLine) return;
    std::fill_n(square, kLine * kLine, 0.0f);
    for (int64_t r = 0; r < rows; ++r) {
      std::copy_n(data + r * stride, panel.outputs, square + r * kLine);
    }
    data = square;
    stride = kLine;
  }
};

}  // namespace

void scatter_lines(Rows from, const TilePattern& pattern, const float* lines, const float* bias,
                   Rows to) {
  const int parts = at::get_num_threads();
  at::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    const int64_t first = slice(row_blocks(from), 1, static_cast<int>(begin), parts).begin;
    const int64_t last = slice(row_blocks(from), 1, static_cast<int>(end) - 1, parts).end;
    if (first < last) scatter_some(from, pattern, lines, bias, to, {first, last});
  });
}

void gather_lines(Rows lanes, Rows factors, const TilePattern& pattern, LineGradient target) {
  const int64_t size = padded(factors.width) * kLine, blocks = row_blocks(factors);
  const at::Tensor standing = at::empty({blocks * size});
  const at::Tensor sums = at::zeros({static_cast<int64_t>(pattern.blocks.size() + 1) * kLine});
  float* read = standing.data_ptr<float>();
  float* written = sums.data_ptr<float>();
  at::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) stand_up(factors, b * kLine, read + b * size);
  });
  const int64_t group = std::max<int64_t>(1, l2_bytes() / 2 / 4 / size);
  const int parts = at::get_num_threads();
  const auto& kernel = line_sums::kernels.select({});
  at::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    const int64_t first = cut(pattern, begin, parts), last = cut(pattern, end, parts);
    alignas(64) float square[kLine * kLine];
    for (int64_t together = 0; together < blocks; together += group) {
      for (int64_t p = first; p < last; ++p) {
        const TilePanel& panel = pattern.panels[static_cast<size_t>(p)];
        for (int64_t b = together; b < std::min(blocks, together + group); ++b) {
          const Fixed fixed(lanes, b * kLine, panel, square);
          kernel.run({.fixed = fixed.data,
                      .fixed_stride = fixed.stride,
                      .lines = read + b * size,
                      .line_of = pattern.blocks.data(),
                      .sums = written},
                     {panel.begin, panel.end});
        }
      }
    }
    for (int64_t p = first; p < last; ++p) {
      const TilePanel& panel = pattern.panels[static_cast<size_t>(p)];
      for (int64_t i = panel.begin; i < panel.end; ++i) {
        float* to = target.dw + pattern.blocks[static_cast<size_t>(i)] * target.factor_stride +
                    panel.output * target.lane_stride;
        for (int64_t n = 0; n < panel.outputs; ++n)
          to[n * target.lane_stride] = written[i * kLine + n];
      }
    }
  });
}

int64_t cut(const TilePattern& pattern, int64_t part, int64_t parts) {
  if (part == parts) return static_cast<int64_t>(pattern.panels.size());
  const auto last = static_cast<int64_t>(pattern.blocks.size()) * part / parts;
  const auto at = std::partition_point(pattern.panels.begin(), pattern.panels.end(),
                                       [&](const TilePanel& panel) { return panel.end <= last; });
  return at - pattern.panels.begin();
}

}  // namespace tessera::training
