#include "tune/torch/rounded.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <atomic>
#include <limits>

#include "formats/integer_rows.h"
#include "formats/u8_rows.h"
#include "kernels/quantize_rows_blockwise/quantize_rows_blockwise.h"
#include "kernels/quantize_rows_u8/quantize_rows_u8.h"

namespace tessera::training {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Numbers that a thread takes at a time: enough that dealing them costs nothing.
constexpr int64_t kPiece = 1 << 14;

// To nearest, ties to even, for |x| < 2^22, without a call: what the sum has no bits for is rounded
// away.
inline float to_nearest(float x) {
  constexpr float kShift = 12582912;  // 1.5 x 2^23
  return (x + kShift) - kShift;
}

// The integers of a precision, as floats.
struct Limits {
  float least, most;

  float nearest(float exact) const { return to_nearest(std::min(std::max(exact, least), most)); }
  // Whether the nearest integer is not one of them.
  bool cuts(float exact) const { return exact < least - 0.5f || exact > most + 0.5f; }
};

// Inputs of one output that share a scale, and where they lie among all weights.
struct Segment {
  int64_t place = 0;
  int64_t count = 0;
  float scale = 0;
  const float* input_scales = nullptr;  // null: all 1
  // By division, as files are rounded: an inverse takes some halves to the other side.
  float divisor() const { return scale == 0 ? std::numeric_limits<float>::infinity() : scale; }
};

// A matrix's integers, as a rounding cuts it.
class Grid {
 public:
  explicit Grid(const Parameter& weight)
      : rounding_(*weight.rounding),
        outputs_(weight.value.size(0)),
        inputs_(weight.value.size(1)),
        group_(rounding_.group == 0 ? inputs_ : rounding_.group),
        groups_((inputs_ + group_ - 1) / group_) {}

  Limits limits() const {
    return bits(rounding_.precision) == 8 ? Limits{-127, 127} : Limits{-8, 7};
  }

  // Calls visit(segment) for all, on all threads.
  template <typename Visit>
  void for_each(Visit visit) const {
    const int64_t piece = std::max<int64_t>(1, kPiece / std::max<int64_t>(1, inputs_));
    at::parallel_for(0, outputs_, piece, [&](int64_t begin, int64_t end) {
      for (int64_t output = begin; output < end; ++output) {
        for (int64_t g = 0; g < groups_; ++g) visit(segment(output, g));
      }
    });
  }

 private:
  Segment segment(int64_t output, int64_t group) const {
    const int64_t first = group * group_;
    return {.place = output * inputs_ + first,
            .count = std::min(group_, inputs_ - first),
            .scale = rounding_.scales[static_cast<size_t>(output * groups_ + group)],
            .input_scales =
                rounding_.input_scales.empty() ? nullptr : rounding_.input_scales.data() + first};
  }

  const SourceRounding& rounding_;
  int64_t outputs_, inputs_, group_, groups_;
};

// Calls take(i, w input_scale / scale) for each weight of a segment.
template <typename Take>
inline void each_exact(const Segment& segment, const float* weights, Take take) {
  const float divisor = segment.divisor();
  const float* __restrict values = weights + segment.place;
  if (const float* __restrict scales = segment.input_scales; scales != nullptr) {
    for (int64_t i = 0; i < segment.count; ++i) take(i, values[i] * scales[i] / divisor);
  } else {
    for (int64_t i = 0; i < segment.count; ++i) take(i, values[i] / divisor);
  }
}

// W of a segment, and how many of its weights saturate. With input scales a weight is rounded once,
// from f64, as files are read.
int32_t round_segment(const Segment& segment, const Limits& limits, const float* weights,
                      float* target) {
  const Limits limit = limits;
  float* __restrict rounded = target + segment.place;
  int32_t saturated = 0;
  each_exact(segment, weights, [&](int64_t i, float exact) {
    saturated += limit.cuts(exact) ? 1 : 0;
    rounded[i] = limit.nearest(exact);
  });
  const float scale = segment.scale;
  if (const float* __restrict scales = segment.input_scales; scales != nullptr) {
    for (int64_t i = 0; i < segment.count; ++i)
      rounded[i] = static_cast<float>(double{scale} * rounded[i] / scales[i]);
  } else {
    for (int64_t i = 0; i < segment.count; ++i) rounded[i] *= scale;
  }
  return saturated;
}

class RoundedValues : public torch::autograd::Function<RoundedValues> {
 public:
  static Tensor forward(AutogradContext* context, const Tensor& value, const Parameter* weight) {
    const Grid grid(*weight);
    const Limits limits = grid.limits();
    Tensor rounded = at::empty(value.sizes());
    const float* values = value.data_ptr<float>();
    float* target = rounded.data_ptr<float>();
    std::atomic<bool> saturates{false};
    grid.for_each([&](const Segment& segment) {
      if (round_segment(segment, limits, values, target) > 0)
        saturates.store(true, std::memory_order_relaxed);
    });
    if (saturates) context->save_for_backward({value});
    context->saved_data["weight"] = reinterpret_cast<int64_t>(weight);
    return rounded;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saturated = context->get_saved_variables();
    if (saturated.empty()) return {gradients[0], Tensor()};
    const auto* weight = reinterpret_cast<const Parameter*>(context->saved_data["weight"].toInt());
    const Tensor passed = gradients[0].contiguous();
    return {where_nearest(Grid(*weight), saturated.front(), passed), Tensor()};
  }

 private:
  static Tensor where_nearest(const Grid& grid, const Tensor& value, const Tensor& gradient) {
    const Limits limits = grid.limits();
    Tensor result = at::empty(gradient.sizes());
    const float* source = gradient.data_ptr<float>();
    float* target = result.data_ptr<float>();
    grid.for_each([&](const Segment& segment) {
      const float* __restrict from = source + segment.place;
      float* __restrict to = target + segment.place;
      each_exact(segment, value.data_ptr<float>(),
                 [&](int64_t i, float exact) { to[i] = limits.cuts(exact) ? 0 : from[i]; });
    });
    return result;
  }
};

// What a map's rows are rounded to: of 8 bits.
struct RowRounding {
  int64_t group = 0;               // as a rounding has it; 0: one scale a row, and a zero
  std::vector<float> multipliers;  // [inputs], or empty

  const float* factors() const { return multipliers.empty() ? nullptr : multipliers.data(); }
};

// values = x multipliers, rounded by row.
void round_by_row(const RowRounding& rounding, const Tensor& x, float* values) {
  const int64_t inputs = x.size(1);
  const U8RowsLayout layout = u8_rows_layout(x.size(0), inputs);
  const Tensor memory = at::empty({layout.bytes}, at::kByte);
  auto* bytes = memory.data_ptr<uint8_t>();
  const quantize_rows_u8::Args args{.x = x.data_ptr<float>(),
                                    .x_stride = inputs,
                                    .inputs = inputs,
                                    .multipliers = rounding.factors(),
                                    .values = bytes,
                                    .stride = layout.stride,
                                    .scales = reinterpret_cast<float*>(bytes + layout.scales),
                                    .zeros = reinterpret_cast<int32_t*>(bytes + layout.zeros)};
  at::parallel_for(0, x.size(0), 1, [&](int64_t begin, int64_t end) {
    quantize_rows_u8::kernels.run(args, {begin, end});
    for (int64_t row = begin; row < end; ++row) {
      const uint8_t* __restrict from = args.values + row * args.stride;
      float* __restrict to = values + row * inputs;
      const float scale = args.scales[row];
      const int32_t zero = args.zeros[row];
      for (int64_t k = 0; k < inputs; ++k) to[k] = scale * static_cast<float>(from[k] - zero);
    }
  });
}

// values = x multipliers, rounded by block.
void round_by_block(const RowRounding& rounding, const Tensor& x, float* values) {
  const int64_t inputs = x.size(1);
  const InputBlocks blocks = input_blocks(inputs, rounding.group);
  const Tensor memory = at::empty({integer_rows_bytes(blocks, RowForm::k8, x.size(0))}, at::kByte);
  const IntegerRows rows = integer_rows(blocks, RowForm::k8, x.size(0), memory.data_ptr());
  const quantize_rows_blockwise::Args args{.x = x.data_ptr<float>(),
                                           .x_stride = inputs,
                                           .multipliers = rounding.factors(),
                                           .blocks = blocks,
                                           .rows = rows};
  at::parallel_for(0, x.size(0), 1, [&](int64_t begin, int64_t end) {
    quantize_rows_blockwise::kernels.run(args, {begin, end});
    for (int64_t row = begin; row < end; ++row) {
      const int8_t* from = static_cast<const int8_t*>(rows.values) + row * rows.row_bytes;
      for_each_block(blocks, [&](int64_t block, int64_t first, int64_t count) {
        const float scale = rows.scales[row * blocks.count + block];
        float* to = values + row * inputs + first;
        for (int64_t k = 0; k < count; ++k) to[k] = scale * static_cast<float>(from[k]);
        from += (count + kStepInputs - 1) / kStepInputs * kStepInputs;
      });
    }
  });
}

class RoundedRows : public torch::autograd::Function<RoundedRows> {
 public:
  static Tensor forward(AutogradContext*, const Tensor& x, const SourceRounding* of) {
    const Tensor rows = x.contiguous();
    Tensor rounded = at::empty(rows.sizes());
    RowRounding rounding{.group = of->group};
    for (const float scale : of->input_scales) rounding.multipliers.push_back(1 / scale);
    const bool is_whole = of->precision == Precision::kInt8 && of->group == 0;
    (is_whole ? round_by_row : round_by_block)(rounding, rows, rounded.data_ptr<float>());
    if (!of->input_scales.empty()) rounded.mul_(at::tensor(of->input_scales));
    return rounded;
  }
  static variable_list backward(AutogradContext*, const variable_list& gradients) {
    return {gradients[0], Tensor()};
  }
};

}  // namespace

Tensor rounded_values(const Parameter& weight) {
  if (!weight.rounding || !weight.is_trained()) return weight.value;
  return RoundedValues::apply(weight.value, &weight);
}

Tensor rounded_rows(const Tensor& x, const Parameter& weight) {
  if (!weight.rounding || !has_integer_rows(weight.rounding->precision)) return x;
  return RoundedRows::apply(x, &*weight.rounding);
}

Integers integers_of(const Parameter& weight) {
  const SourceRounding& rounding = *weight.rounding;
  Integers integers{.precision = rounding.precision,
                    .outputs = weight.value.size(0),
                    .inputs = weight.value.size(1),
                    .group = rounding.group,
                    .scales = rounding.scales,
                    .input_scales = rounding.input_scales};
  integers.values.resize(static_cast<size_t>(weight.value.numel()));
  const Grid grid(weight);
  const Limits limits = grid.limits();
  const Tensor value = weight.value.detach();
  grid.for_each([&](const Segment& segment) {
    int8_t* target = integers.values.data() + segment.place;
    each_exact(segment, value.data_ptr<float>(), [&](int64_t i, float exact) {
      target[i] = static_cast<int8_t>(limits.nearest(exact));
    });
  });
  return integers;
}

}  // namespace tessera::training
