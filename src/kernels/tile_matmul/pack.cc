#include <algorithm>
#include <bit>
#include <cstring>

#include "kernels/tile_matmul/tile_matmul.h"

namespace tessera::tile_matmul {
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
  void run(const char* tile, int64_t output, int64_t input, int64_t count, float* target) const {
    const int64_t row = (by_output_ ? output : input) % matrix_.tile.rows;
    const int64_t col = (by_output_ ? input : output) % matrix_.tile.cols;
    convert_to_f32(tile + (row * matrix_.tile.cols + col) * value_bytes(), matrix_.dtype, count,
                   target);
  }

 private:
  int64_t value_bytes() const { return static_cast<int64_t>(size_bytes(matrix_.dtype)); }

  const TileMatrix& matrix_;
  bool by_output_;
};

// A block's values before they are laid in steps; 0 where pruned or outside.
struct Values {
  alignas(64) float at[16][16];  // [input][output]
};

// Outputs [output.begin, output.end) and inputs [input.begin, input.end) of one tile.
struct TilePart {
  Exec output;
  Exec input;
};

// The part of a tile that lies in the block that begins at `output` and `input`.
void copy_part(const Source& source, const TilePart& part, int64_t output, int64_t input,
               Values& values) {
  const char* tile = source.tile(part.output.begin, part.input.begin);
  if (tile == nullptr) return;
  const int64_t n0 = part.output.begin, k0 = part.input.begin;
  if (!source.by_output()) {
    for (int64_t k = k0; k < part.input.end; ++k) {
      source.run(tile, n0, k, part.output.end - n0, &values.at[k - input][n0 - output]);
    }
    return;
  }
  for (int64_t n = n0; n < part.output.end; ++n) {
    float run[16];
    source.run(tile, n, k0, part.input.end - k0, run);
    for (int64_t k = k0; k < part.input.end; ++k) values.at[k - input][n - output] = run[k - k0];
  }
}

// The block that begins at `output` and `input`.
Values read_block(const Source& source, BlockShape shape, int64_t output, int64_t input) {
  Values values = {};
  const int64_t output_end = std::min(output + shape.outputs, source.outputs());
  const int64_t input_end = std::min(input + shape.inputs, source.inputs());
  const auto next = [](int64_t at, int64_t step) { return (at / step + 1) * step; };
  for (int64_t n = output; n < output_end; n = next(n, source.tile_outputs())) {
    const int64_t n_end = std::min(output_end, next(n, source.tile_outputs()));
    for (int64_t k = input; k < input_end; k = next(k, source.tile_inputs())) {
      const int64_t k_end = std::min(input_end, next(k, source.tile_inputs()));
      copy_part(source, {{n, n_end}, {k, k_end}}, output, input, values);
    }
  }
  return values;
}

// As f32_to_bf16, in a form that the compiler turns into vectors.
inline uint16_t narrow(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const uint32_t quiet = (bits >> 16) | 0x40;
  return static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}

// Lays a block in steps, as the header says.
void store_block(const Values& values, BlockShape shape, DType type, void* target) {
  alignas(64) float steps[16][16];
  const int count = shape.inputs * shape.outputs / 16;
  for (int s = 0; s < count; ++s) {
    for (int l = 0; l < 16; ++l) {
      steps[s][l] = shape.outputs == 16 ? values.at[s][l] : values.at[2 * s + l % 2][l / 2];
    }
  }
  auto* bits = static_cast<uint16_t*>(target);
  if (type == DType::kF32) {
    std::memcpy(target, steps, static_cast<size_t>(count) * sizeof(steps[0]));
    return;
  }
  if (count == 1) {
    for (int l = 0; l < 16; ++l) bits[l] = narrow(steps[0][l]);
    return;
  }
  for (int s = 0; s < count; s += 2, bits += 32) {
    for (int l = 0; l < 16; ++l) {
      bits[2 * l] = narrow(steps[s][l]);
      bits[2 * l + 1] = narrow(steps[s + 1][l]);
    }
  }
}

// The matrix of the stack that holds an output, and its first one.
size_t matrix_of(const TileStack& stack, int64_t output, int64_t& first) {
  size_t i = 0;
  for (first = 0; output - first >= stack[i].outputs(); ++i) first += stack[i].outputs();
  return i;
}

}  // namespace

int64_t group_rows(int64_t inputs) {
  constexpr int64_t kGroupBytes = 1 << 20, kTile = 24, kMost = 384;
  const int64_t fitting = kGroupBytes / static_cast<int64_t>(scratch_floats(1, inputs) * 4);
  return std::clamp(fitting / kTile * kTile, kTile, kMost);
}

BlockShape block_shape(const TileStack& stack) {
  BlockShape shape;
  for (const TileMatrix& matrix : stack) {
    const Source source(matrix);
    if (source.tile_inputs() % 8 != 0) return {16, 1};
    if (source.tile_outputs() % 16 != 0) shape.outputs = 8;
    if (source.tile_inputs() % 16 != 0) shape.inputs = 8;
  }
  return shape;
}

Pattern find_blocks(const TileStack& stack, BlockShape shape) {
  Pattern pattern;
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
      Panel panel{first_output + n, static_cast<int32_t>(end - n),
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

void pack(const TileStack& stack, const Pattern& pattern, DType weight_type, void* values,
          Exec exec) {
  const int64_t block_bytes = pattern.block_bytes(weight_type);
  for (int64_t p = exec.begin; p < exec.end; ++p) {
    const Panel& panel = pattern.panels[static_cast<size_t>(p)];
    int64_t first = 0;
    const Source source(stack[matrix_of(stack, panel.output, first)]);
    for (int32_t b = panel.begin; b < panel.end; ++b) {
      const int64_t input = int64_t{pattern.blocks[static_cast<size_t>(b)]} * pattern.shape.inputs;
      char* block = static_cast<char*>(values) + b * block_bytes;
      store_block(read_block(source, pattern.shape, panel.output - first, input), pattern.shape,
                  weight_type, block);
    }
  }
}

}  // namespace tessera::tile_matmul
