#include "formats/tile_panels.h"

#include <algorithm>
#include <cstring>

namespace tessera {
namespace {

// A matrix in terms of outputs and inputs, whatever its order.
class Source {
 public:
  explicit Source(const TileMatrix& matrix)
      : matrix_(matrix), by_output_(matrix.order == MatrixOrder::kOutputRows) {}

  int64_t outputs() const { return matrix_.outputs(); }
  int64_t inputs() const { return matrix_.inputs(); }
  int64_t tile_outputs() const { return by_output_ ? matrix_.tile.rows : matrix_.tile.cols; }
  int64_t tile_inputs() const { return by_output_ ? matrix_.tile.cols : matrix_.tile.rows; }

  // Calls visit(first input) for the kept tiles that hold outputs [begin, end).
  template <typename Visit>
  void for_each_tile(int64_t begin, int64_t end, Visit visit) const {
    const int64_t first = begin / tile_outputs(), last = (end - 1) / tile_outputs();
    if (by_output_) {
      for (int32_t t = matrix_.offsets[first]; t < matrix_.offsets[last + 1]; ++t) {
        visit(matrix_.columns[t] * tile_inputs());
      }
      return;
    }
    for (int64_t row = 0; row < matrix_.tile_rows(); ++row) {
      const int32_t* row_end = matrix_.columns + matrix_.offsets[row + 1];
      const int32_t* found =
          std::lower_bound(matrix_.columns + matrix_.offsets[row], row_end, first);
      if (found != row_end && *found <= last) visit(row * tile_inputs());
    }
  }

  // Where the tile that holds this output and input begins; null where it is pruned.
  const char* tile(int64_t output, int64_t input) const {
    const int64_t row = (by_output_ ? output : input) / matrix_.tile.rows;
    const int64_t col = (by_output_ ? input : output) / matrix_.tile.cols;
    const int32_t* end = matrix_.columns + matrix_.offsets[row + 1];
    const int32_t* found = std::lower_bound(matrix_.columns + matrix_.offsets[row], end, col);
    if (found == end || *found != col) return nullptr;
    return static_cast<const char*>(matrix_.values) +
           (found - matrix_.columns) * matrix_.tile.rows * matrix_.tile.cols * value_bytes();
  }

  bool by_output() const { return by_output_; }

  // `count` values of a tile that follow each other in its row: inputs of one output, or outputs of
  // one input.
  template <typename Value>
  void run(const char* tile, int64_t output, int64_t input, int64_t count, Value* target) const {
    const int64_t row = (by_output_ ? output : input) % matrix_.tile.rows;
    const int64_t col = (by_output_ ? input : output) % matrix_.tile.cols;
    convert(tile + (row * matrix_.tile.cols + col) * value_bytes(), count, target);
  }

 private:
  int64_t value_bytes() const { return static_cast<int64_t>(size_bytes(matrix_.dtype)); }
  void convert(const char* values, int64_t count, float* target) const {
    convert_to_f32(values, matrix_.dtype, count, target);
  }
  void convert(const char* values, int64_t count, int8_t* target) const {
    std::memcpy(target, values, static_cast<size_t>(count));
  }

  const TileMatrix& matrix_;
  bool by_output_;
};

// Outputs [output, output_end) and inputs [input, input_end) of one tile.
struct TilePart {
  int64_t output, output_end;
  int64_t input, input_end;
};

// The part of a tile that lies in the block that begins at `output` and `input`.
template <typename Value>
void copy_part(const Source& source, const TilePart& part, int64_t output, int64_t input,
               BlockValues<Value>& values) {
  const char* tile = source.tile(part.output, part.input);
  if (tile == nullptr) return;
  if (!source.by_output()) {
    for (int64_t k = part.input; k < part.input_end; ++k) {
      source.run(tile, part.output, k, part.output_end - part.output,
                 &values.at[k - input][part.output - output]);
    }
    return;
  }
  for (int64_t n = part.output; n < part.output_end; ++n) {
    Value run[16];
    source.run(tile, n, part.input, part.input_end - part.input, run);
    for (int64_t k = part.input; k < part.input_end; ++k)
      values.at[k - input][n - output] = run[k - part.input];
  }
}

// The matrix of the stack that holds an output, and its first one.
size_t matrix_of(const TileStack& stack, int64_t output, int64_t& first) {
  size_t i = 0;
  for (first = 0; output - first >= stack[i].outputs(); ++i) first += stack[i].outputs();
  return i;
}

}  // namespace

template <typename Value>
BlockValues<Value> read_block(const TileStack& stack, const TilePattern& pattern,
                              const TilePanel& panel, int32_t index) {
  int64_t first = 0;
  const Source source(stack[matrix_of(stack, panel.output, first)]);
  const int64_t output = panel.output - first, output_end = output + panel.outputs;
  const BlockShape shape = pattern.shape;
  const int64_t input = int64_t{pattern.blocks[static_cast<size_t>(index)]} * shape.inputs;
  const int64_t input_end = std::min(input + shape.inputs, source.inputs());
  const auto next = [](int64_t at, int64_t step) { return (at / step + 1) * step; };
  BlockValues<Value> values;
  for (int64_t n = output; n < output_end; n = next(n, source.tile_outputs())) {
    const int64_t n_end = std::min(output_end, next(n, source.tile_outputs()));
    for (int64_t k = input; k < input_end; k = next(k, source.tile_inputs())) {
      const int64_t k_end = std::min(input_end, next(k, source.tile_inputs()));
      copy_part(source, {n, n_end, k, k_end}, output, input, values);
    }
  }
  return values;
}

template BlockValues<float> read_block(const TileStack&, const TilePattern&, const TilePanel&,
                                       int32_t);
template BlockValues<int8_t> read_block(const TileStack&, const TilePattern&, const TilePanel&,
                                        int32_t);

BlockShape block_shape(const TileStack& stack, int32_t least_inputs) {
  BlockShape shape;
  for (const TileMatrix& matrix : stack) {
    const Source source(matrix);
    if (source.tile_inputs() % 8 != 0 && least_inputs == 1) return {16, 1};
    if (source.tile_outputs() % 16 != 0) shape.outputs = 8;
    if (source.tile_inputs() % 16 != 0) shape.inputs = 8;
  }
  return shape;
}

TilePattern find_blocks(const TileStack& stack, BlockShape shape) {
  TilePattern pattern;
  pattern.shape = shape;
  int64_t first_output = 0;
  for (const TileMatrix& matrix : stack) {
    const Source source(matrix);
    std::vector<char> kept(static_cast<size_t>((source.inputs() - 1) / shape.inputs + 1));
    for (int64_t n = 0; n < source.outputs(); n += shape.outputs) {
      const int64_t end = std::min<int64_t>(n + shape.outputs, source.outputs());
      std::fill(kept.begin(), kept.end(), 0);
      source.for_each_tile(n, end, [&](int64_t input) {
        const int64_t last = std::min(input + source.tile_inputs(), source.inputs()) - 1;
        for (int64_t b = input / shape.inputs; b <= last / shape.inputs; ++b) {
          kept[static_cast<size_t>(b)] = 1;
        }
      });
      TilePanel panel{first_output + n, static_cast<int32_t>(end - n),
                      static_cast<int32_t>(pattern.blocks.size()), 0};
      for (size_t b = 0; b < kept.size(); ++b) {
        if (kept[b] != 0) pattern.blocks.push_back(static_cast<int32_t>(b));
      }
      panel.end = static_cast<int32_t>(pattern.blocks.size());
      pattern.panels.push_back(panel);
    }
    first_output += source.outputs();
  }
  return pattern;
}

}  // namespace tessera
