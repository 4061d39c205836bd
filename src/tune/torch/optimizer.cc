#include "tune/torch/optimizer.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>

namespace tessera::training {
namespace {

// Numbers that a thread takes at a time: enough that dealing them costs nothing.
constexpr int64_t kPiece = 1 << 14;

struct Factors {
  // new1, new2: 1 - beta1 and 1 - beta2; root: 1 / sqrt(1 - beta2^t)
  float scale, new1, beta2, new2, rate, decay, root, epsilon;
};

struct Numbers {
  float* weights;
  const float* gradients;
  float* first;
  float* second;
};

// [begin, end) of the numbers, which do not overlap each other.
void update(const Numbers& numbers, int64_t begin, int64_t end, const Factors& factors) {
  const Factors f = factors;
  float* __restrict weights = numbers.weights;
  const float* __restrict gradients = numbers.gradients;
  float* __restrict first = numbers.first;
  float* __restrict second = numbers.second;
  for (int64_t i = begin; i < end; ++i) {
    const float g = gradients[i] * f.scale;
    const float m = first[i] + f.new1 * (g - first[i]);
    const float v = second[i] * f.beta2 + f.new2 * g * g;
    first[i] = m;
    second[i] = v;
    weights[i] = weights[i] * f.decay - f.rate * m / (std::sqrt(v) * f.root + f.epsilon);
  }
}

// Rows [begin, end) of the tiles that a mask keeps, neighbours in a row at a time.
void update_kept(const Numbers& numbers, const TileMask& mask, int64_t begin, int64_t end,
                 const Factors& factors) {
  const int64_t columns = mask.tile_cols();
  for (int64_t row = begin; row < end; ++row) {
    const int64_t tile_row = row / mask.tile.rows;
    for (int64_t c = 0; c < columns;) {
      if (!mask.keeps(tile_row, c)) {
        ++c;
        continue;
      }
      const int64_t from = row * mask.cols + c * mask.tile.cols;
      while (c < columns && mask.keeps(tile_row, c)) ++c;
      const int64_t to = row * mask.cols + std::min<int64_t>(c * mask.tile.cols, mask.cols);
      update(numbers, from, to, factors);
    }
  }
}

void update(const Parameter& parameter, const Numbers& numbers, const Factors& factors) {
  if (!parameter.mask) {
    at::parallel_for(0, parameter.value.numel(), kPiece,
                     [&](int64_t begin, int64_t end) { update(numbers, begin, end, factors); });
    return;
  }
  const TileMask& mask = *parameter.mask;
  const int64_t rows = std::max<int64_t>(1, kPiece / std::max<int64_t>(1, mask.cols));
  at::parallel_for(0, mask.rows, rows, [&](int64_t begin, int64_t end) {
    update_kept(numbers, mask, begin, end, factors);
  });
}

// Of pieces of one length, so that the sum is the same however they are dealt.
double sum_of_squares(const at::Tensor& gradient) {
  const int64_t pieces = (gradient.numel() + kPiece - 1) / kPiece;
  std::vector<double> sums(static_cast<size_t>(pieces));
  const float* values = gradient.data_ptr<float>();
  at::parallel_for(0, pieces, 1, [&](int64_t first, int64_t last) {
    for (int64_t piece = first; piece < last; ++piece) {
      const int64_t end = std::min(gradient.numel(), (piece + 1) * kPiece);
      double sum = 0;
      for (int64_t i = piece * kPiece; i < end; ++i)
        sum += static_cast<double>(values[i]) * static_cast<double>(values[i]);
      sums[static_cast<size_t>(piece)] = sum;
    }
  });
  double sum = 0;
  for (const double piece : sums) sum += piece;
  return sum;
}

}  // namespace

AdamW::AdamW(const OptimizerOptions& options, const std::vector<Parameter*>& trained)
    : options_(options) {
  const at::NoGradGuard no_gradients;
  for (Parameter* parameter : trained) {
    slots_.push_back({parameter, at::zeros(parameter->value.sizes(), at::kFloat),
                      at::zeros(parameter->value.sizes(), at::kFloat)});
  }
}

double AdamW::gradient_norm() const {
  double sum = 0;
  for (const Slot& slot : slots_) {
    const at::Tensor& gradient = slot.parameter->value.grad();
    if (gradient.defined()) sum += sum_of_squares(gradient.contiguous());
  }
  return std::sqrt(sum);
}

void AdamW::step(double rate, double scale) {
  const at::NoGradGuard no_gradients;
  ++steps_;
  const auto t = static_cast<double>(steps_);
  const double first_bias = 1 - std::pow(options_.beta1, t);
  const double second_bias = 1 - std::pow(options_.beta2, t);
  for (Slot& slot : slots_) {
    Parameter& parameter = *slot.parameter;
    if (!parameter.value.grad().defined()) continue;
    const at::Tensor gradient = parameter.value.grad().contiguous();
    const bool decays =
        parameter.kind == Parameter::Kind::kMatrix || parameter.kind == Parameter::Kind::kTable;
    const Factors factors{static_cast<float>(scale),
                          static_cast<float>(1 - options_.beta1),
                          static_cast<float>(options_.beta2),
                          static_cast<float>(1 - options_.beta2),
                          static_cast<float>(rate / first_bias),
                          static_cast<float>(1 - (decays ? rate * options_.weight_decay : 0)),
                          static_cast<float>(1 / std::sqrt(second_bias)),
                          static_cast<float>(options_.epsilon)};
    update(parameter,
           {parameter.value.data_ptr<float>(), gradient.data_ptr<float>(),
            slot.first.data_ptr<float>(), slot.second.data_ptr<float>()},
           factors);
    parameter.value.mutable_grad().reset();
  }
}

}  // namespace tessera::training
