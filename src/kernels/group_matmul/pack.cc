#include <algorithm>
#include <cstring>

#include "kernels/group_matmul/group_matmul.h"

namespace tessera::group_matmul {
namespace {

int64_t scale_bytes(const Layout& layout) {
  return static_cast<int64_t>(size_bytes(layout.scale_type));
}

constexpr int64_t step_count(int64_t inputs) { return (inputs + kStepInputs - 1) / kStepInputs; }

// Outputs [first, first + count) of one matrix, at `column` of a panel.
struct Segment {
  const QuantizedMatrix& matrix;
  int64_t first, count, column;
};

void pack_scales(const Segment& segment, const Layout& layout, int64_t group, char* scales) {
  for (int64_t n = 0; n < segment.count; ++n) {
    const float scale = segment.matrix.scale(segment.first + n, group);
    const uint16_t half = f32_to_f16(scale);
    const void* source =
        layout.scale_type == DType::kF32 ? static_cast<const void*>(&scale) : &half;
    const auto bytes = static_cast<size_t>(scale_bytes(layout));
    std::memcpy(scales + (segment.column + n) * scale_bytes(layout), source, bytes);
  }
}

// Integers of one step as the four bytes, or two times four, of an output.
struct Step {
  uint32_t words[2];
};

// The bytes of 8 inputs of 4 bits, input 2 i in the low half of byte i, as a step has them.
uint32_t interleave(uint32_t nibbles) {
  const auto spread = [](uint32_t four) {
    four = (four | four << 8) & 0x00ff00ffu;
    return (four | four << 4) & 0x0f0f0f0fu;
  };
  return spread(nibbles & 0xffffu) | spread(nibbles >> 16) << 4;
}

Step whole_step(const QuantizedMatrix& matrix, int64_t output, int64_t input) {
  const auto* row = static_cast<const char*>(matrix.values) + output * matrix.row_bytes();
  Step step{};
  if (bits(matrix.precision) == 8) {
    std::memcpy(step.words, row + input, 8);
    for (uint32_t& word : step.words) word ^= 0x80808080u;
  } else {
    std::memcpy(step.words, row + input / 2, 4);
    step.words[0] = interleave(step.words[0]);
  }
  return step;
}

// `count` inputs that begin anywhere, padded with zeros.
Step part_step(const QuantizedMatrix& matrix, int64_t output, int64_t input, int64_t count) {
  uint8_t integers[kStepInputs];
  const int32_t zero = bits(matrix.precision) == 8 ? 128 : 8;
  for (int64_t k = 0; k < kStepInputs; ++k) {
    const int32_t q = k < count ? matrix.integer(output, input + k) : 0;
    integers[k] = static_cast<uint8_t>(q + zero);
  }
  if (zero == 8) {
    for (int64_t k = 0; k < 4; ++k)
      integers[k] = static_cast<uint8_t>(integers[k] | integers[k + 4] << 4);
  }
  Step step{};
  std::memcpy(step.words, integers, sizeof(step.words));
  return step;
}

void pack_steps(const Segment& segment, int64_t begin, int64_t count, char* target) {
  const QuantizedMatrix& matrix = segment.matrix;
  const int32_t words = bits(matrix.precision) == 8 ? 2 : 1;
  for (int64_t k = 0; k < count; k += kStepInputs, target += words * kPanelOutputs * 4) {
    const bool whole = count - k >= kStepInputs && (words == 2 || (begin + k) % 2 == 0);
    for (int64_t n = 0; n < segment.count; ++n) {
      const int64_t output = segment.first + n;
      const Step step =
          whole ? whole_step(matrix, output, begin + k)
                : part_step(matrix, output, begin + k, std::min(kStepInputs, count - k));
      for (int32_t w = 0; w < words; ++w)
        std::memcpy(target + (w * kPanelOutputs + segment.column + n) * 4, &step.words[w], 4);
    }
  }
}

void pack_segment(const Segment& segment, const Layout& layout, char* panel) {
  for_each_block(layout.blocks, [&](int64_t, int64_t begin, int64_t count) {
    pack_scales(segment, layout, begin / layout.blocks.group, panel);
    panel += kPanelOutputs * scale_bytes(layout);
    pack_steps(segment, begin, count, panel);
    panel += step_count(count) * kPanelOutputs * kStepInputs * layout.bits / 8;
  });
}

}  // namespace

int64_t panel_bytes(const Layout& layout) {
  return kPanelOutputs * (layout.blocks.count * scale_bytes(layout) +
                          layout.blocks.steps * kStepInputs * layout.bits / 8);
}

void pack(const std::vector<QuantizedMatrix>& stack, const Layout& layout, void* panels,
          Exec exec) {
  const int64_t bytes = panel_bytes(layout);
  for (int64_t index = exec.begin; index < exec.end; ++index) {
    char* panel = static_cast<char*>(panels) + index * bytes;
    const int64_t first = index * kPanelOutputs;
    if (first + kPanelOutputs > layout.outputs) std::memset(panel, 0, static_cast<size_t>(bytes));
    int64_t start = 0;
    for (const QuantizedMatrix& matrix : stack) {
      const int64_t begin = std::max(first, start);
      const int64_t end = std::min(first + kPanelOutputs, start + matrix.outputs());
      if (begin < end)
        pack_segment({matrix, begin - start, end - begin, begin - first}, layout, panel);
      start += matrix.outputs();
    }
  }
}

}  // namespace tessera::group_matmul
