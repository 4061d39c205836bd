#include <algorithm>
#include <cstring>

#include "kernels/group_matmul/group_matmul.h"

namespace tessera::group_matmul {
namespace {

// A block of one panel's weights.
struct Block {
  const Layout& layout;
  const unsigned char* data;

  double scale(int64_t column) const {
    float value = 0;
    convert_to_f32(data + column * static_cast<int64_t>(size_bytes(layout.scale_type)),
                   layout.scale_type, 1, &value);
    return value;
  }
  int64_t weight(int64_t k, int64_t column) const {
    const auto* steps = data + kPanelOutputs * static_cast<int64_t>(size_bytes(layout.scale_type));
    const int64_t four = k / 4, byte = column * 4 + k % 4;
    if (layout.bits == 8) return steps[four * kPanelOutputs * 4 + byte] - 128;
    const int pair = steps[four / 2 * kPanelOutputs * 4 + byte];
    return (four % 2 == 0 ? pair & 0xf : pair >> 4) - 8;
  }
};

// Input k of a block of a row, whose values begin at `values`.
int64_t value(const IntegerRows& rows, const char* values, int64_t k) {
  const auto byte = [&](int64_t at) { return int64_t{static_cast<signed char>(values[at])}; };
  const int64_t place = k % 4 == 1 ? k + 1 : k % 4 == 2 ? k - 1 : k;
  switch (rows.form) {
    case RowForm::k8:
      return byte(k);
    case RowForm::k16:
      return reinterpret_cast<const int16_t*>(values)[place];
    case RowForm::k16Split:
      return 256 * byte(rows.row_bytes / 2 + k) + byte(k);
  }
  return 0;
}

double sum_of(const Args& args, int64_t m, int64_t n) {
  const Layout& layout = args.weights;
  const InputBlocks& blocks = layout.blocks;
  const char* values = static_cast<const char*>(args.x.values) + m * args.x.row_bytes;
  const auto* data =
      static_cast<const unsigned char*>(args.panels) + n / kPanelOutputs * panel_bytes(layout);
  double sum = 0;
  for_each_block(blocks, [&](int64_t b, int64_t, int64_t inputs) {
    const Block block{layout, data};
    int64_t integers = 0;
    for (int64_t k = 0; k < inputs; ++k)
      integers += value(args.x, values, k) * block.weight(k, n % kPanelOutputs);
    sum += args.x.scales[m * blocks.count + b] * block.scale(n % kPanelOutputs) *
           static_cast<double>(integers);
    const int64_t steps = (inputs + kStepInputs - 1) / kStepInputs;
    values += steps * kStepInputs * value_bytes(args.x.form);
    data += kPanelOutputs * (static_cast<int64_t>(size_bytes(layout.scale_type)) +
                             steps * kStepInputs * layout.bits / 8);
  });
  return sum;
}

}  // namespace

void ref(const Args& args, Exec exec) noexcept {
  const int64_t end = std::min(exec.end * kPanelOutputs, args.weights.outputs);
  for (int64_t m = 0; m < args.rows; ++m) {
    for (int64_t n = exec.begin * kPanelOutputs; n < end; ++n) {
      const double sum = sum_of(args, m, n) + (args.bias != nullptr ? args.bias[n] : 0);
      // The activation family's reference is the one definition of f.
      const float before = static_cast<float>(sum);
      float after = 0;
      activation::ref({.function = args.activation, .x = &before, .cols = 1, .y = &after}, {0, 1});
      if (args.residual != nullptr) after += args.residual[m * args.residual_stride + n];
      args.y[m * args.y_stride + n] = after;
    }
  }
}

}  // namespace tessera::group_matmul
