#include <algorithm>
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

  float value(const char* tile, int64_t output, int64_t input) const {
    const int64_t row = (by_output_ ? output : input) % matrix_.tile.rows;
    const int64_t col = (by_output_ ? input : output) % matrix_.tile.cols;
    const char* source = tile + (row * matrix_.tile.cols + col) * value_bytes();
    float wide = 0;
    if (matrix_.dtype == DType::kF32) {
      std::memcpy(&wide, source, sizeof(wide));
      return wide;
    }
    uint16_t bits = 0;
    std::memcpy(&bits, source, sizeof(bits));
    return matrix_.dtype == DType::kF16 ? f16_to_f32(bits) : bf16_to_f32(bits);
  }

 private:
  int64_t value_bytes() const { return static_cast<int64_t>(size_bytes(matrix_.dtype)); }

  const TileMatrix& matrix_;
  bool by_output_;
};

// One block being packed: outputs from `output` and inputs from `input` on, of a matrix.
struct Target {
  BlockShape shape;
  int64_t output;
  int64_t input;
  DType type;
  void* values;

  void set(int64_t n, int64_t k, float value) const {
    const int64_t per_step = 16 / shape.outputs;
    const int64_t step = k / per_step, lane = n * per_step + k % per_step;
    if (type == DType::kF32) {
      static_cast<float*>(values)[step * 16 + lane] = value;
    } else {
      static_cast<uint16_t*>(values)[step / 2 * 32 + lane * 2 + step % 2] = f32_to_bf16(value);
    }
  }
};

void pack_block(const Source& source, const Target& target) {
  const int64_t output_end = std::min(target.output + target.shape.outputs, source.outputs());
  const int64_t input_end = std::min(target.input + target.shape.inputs, source.inputs());
  const auto next = [](int64_t at, int64_t step) { return (at / step + 1) * step; };
  for (int64_t n0 = target.output; n0 < output_end; n0 = next(n0, source.tile_outputs())) {
    const int64_t n1 = std::min(output_end, next(n0, source.tile_outputs()));
    for (int64_t k0 = target.input; k0 < input_end; k0 = next(k0, source.tile_inputs())) {
      const char* tile = source.tile(n0, k0);
      if (tile == nullptr) continue;
      const int64_t k1 = std::min(input_end, next(k0, source.tile_inputs()));
      for (int64_t n = n0; n < n1; ++n) {
        for (int64_t k = k0; k < k1; ++k) {
          target.set(n - target.output, k - target.input, source.value(tile, n, k));
        }
      }
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
      std::memset(block, 0, static_cast<size_t>(block_bytes));
      pack_block(source, {pattern.shape, panel.output - first, input, weight_type, block});
    }
  }
}

}  // namespace tessera::tile_matmul
