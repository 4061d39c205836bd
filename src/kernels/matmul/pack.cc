#include <algorithm>
#include <bit>
#include <cstring>

#include "formats/panels.h"
#include "kernels/matmul/matmul.h"

namespace tessera::matmul {
namespace {

// Values of a source row that are converted at a time: whole cache lines of 64 rows at once stay
// within L1.
constexpr int64_t kRun = 64;

// As f16_to_f32, in a form that the compiler turns into vectors.
inline float widen_f16(uint16_t bits) {
  const uint32_t magnitude = uint32_t{bits & 0x7fffu} << 13;
  // Multiplying by 2^112 moves the exponent's bias and makes subnormals normal.
  const float scaled = std::bit_cast<float>(magnitude) * 0x1p112f;
  const uint32_t special = magnitude >= 0x0f800000u ? 0x7f800000u : 0u;
  const uint32_t sign = uint32_t{bits & 0x8000u} << 16;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(scaled) | special | sign);
}

// `count` (at most kRun) values from a source that need not be aligned, as the bits of the target
// type.
void load_as(const char* source, DType dtype, int64_t count, float* target) {
  if (dtype == DType::kF32) {
    std::memcpy(target, source, static_cast<size_t>(count) * 4);
    return;
  }
  uint16_t bits[kRun];
  std::memcpy(bits, source, static_cast<size_t>(count) * 2);
  if (dtype == DType::kF16) {
    for (int64_t i = 0; i < count; ++i) target[i] = widen_f16(bits[i]);
  } else {
    for (int64_t i = 0; i < count; ++i) target[i] = bf16_to_f32(bits[i]);
  }
}
void load_as(const char* source, DType dtype, int64_t count, uint16_t* target) {
  if (dtype == DType::kBF16) {
    std::memcpy(target, source, static_cast<size_t>(count) * 2);
    return;
  }
  float values[kRun];
  load_as(source, dtype, count, values);
  for (int64_t i = 0; i < count; ++i) target[i] = f32_to_bf16(values[i]);
}

// Outputs [first, first + count) of one matrix, at `column` of a panel.
struct Segment {
  const DenseView* matrix;
  int64_t first, count, column;

  const char* source(int64_t row, int64_t col) const {
    return static_cast<const char*>(matrix->data) +
           (row * matrix->cols + col) * static_cast<int64_t>(size_bytes(matrix->dtype));
  }
};

// T is float or, for bf16, uint16_t. Both layouts are, in lanes of 32 bits, the transpose [lane of
// inputs][output]: a lane is one f32 input or a pair of bf16 inputs.
template <typename T>
constexpr int64_t kPerLane = 4 / sizeof(T);

template <typename T>
void pack_output_rows(const Segment& segment, uint32_t* panel) {
  alignas(64) uint32_t lanes[kPanelOutputs][kRun / kPerLane<T>];
  const int64_t inputs = segment.matrix->inputs();
  for (int64_t k = 0; k < inputs; k += kRun) {
    const int64_t run = std::min(kRun, inputs - k);
    for (int64_t n = 0; n < segment.count; ++n) {
      T values[kRun] = {};
      load_as(segment.source(segment.first + n, k), segment.matrix->dtype, run, values);
      std::memcpy(lanes[n], values, sizeof(values));
    }
    uint32_t* target = panel + k / kPerLane<T> * kPanelOutputs + segment.column;
    const int64_t rows = (run + kPerLane<T> - 1) / kPerLane<T>;
    for (int64_t lane = 0; lane < rows; ++lane, target += kPanelOutputs) {
      for (int64_t n = 0; n < segment.count; ++n) target[n] = lanes[n][lane];
    }
  }
}

template <typename T>
void pack_input_rows(const Segment& segment, uint32_t* panel) {
  const int64_t inputs = segment.matrix->inputs();
  for (int64_t k = 0; k < inputs; k += kPerLane<T>) {
    T values[kPerLane<T>][kPanelOutputs] = {};
    for (int64_t i = 0; i < std::min(kPerLane<T>, inputs - k); ++i) {
      load_as(segment.source(k + i, segment.first), segment.matrix->dtype, segment.count,
              values[i]);
    }
    uint32_t* target = panel + k / kPerLane<T> * kPanelOutputs + segment.column;
    for (int64_t n = 0; n < segment.count; ++n) {
      T lane[kPerLane<T>];
      for (int64_t i = 0; i < kPerLane<T>; ++i) lane[i] = values[i][n];
      std::memcpy(target + n, lane, sizeof(lane));
    }
  }
}

template <typename T>
void pack_panel(const DenseStack& weights, int64_t index, uint32_t* panel, int64_t panel_lanes) {
  int64_t column = 0, start = 0;
  const int64_t first = index * kPanelOutputs;
  for (const DenseView& matrix : weights) {
    const int64_t begin = std::max(first, start);
    const int64_t end = std::min(first + kPanelOutputs, start + matrix.outputs());
    if (begin < end) {
      const Segment segment{&matrix, begin - start, end - begin, begin - first};
      if (matrix.order == MatrixOrder::kOutputRows) {
        pack_output_rows<T>(segment, panel);
      } else {
        pack_input_rows<T>(segment, panel);
      }
      column = end - first;
    }
    start += matrix.outputs();
  }
  const int64_t used = (weights.front().inputs() + kPerLane<T> - 1) / kPerLane<T>;
  if (column < kPanelOutputs) {
    for (int64_t lane = 0; lane < used; ++lane) {
      std::fill(panel + lane * kPanelOutputs + column, panel + (lane + 1) * kPanelOutputs, 0u);
    }
  }
  std::fill(panel + used * kPanelOutputs, panel + panel_lanes * kPanelOutputs, 0u);
}

}  // namespace

void pack(const DenseStack& weights, DType weight_type, void* panels, Exec exec) {
  if (weights.empty()) return;
  const int64_t elements = panel_elements(weight_type, weights.front().inputs());
  for (int64_t index = exec.begin; index < exec.end; ++index) {
    char* panel = static_cast<char*>(panels) +
                  index * elements * static_cast<int64_t>(size_bytes(weight_type));
    auto* lanes = reinterpret_cast<uint32_t*>(panel);
    if (weight_type == DType::kF32) {
      pack_panel<float>(weights, index, lanes, elements / kPanelOutputs);
    } else {
      pack_panel<uint16_t>(weights, index, lanes, elements / kPanelOutputs / 2);
    }
  }
}

}  // namespace tessera::matmul
