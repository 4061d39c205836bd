#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tune/torch/functions.h"

namespace tessera::training {
namespace {

// Windows that end many blocks of keys before the query, against torch's own operations.
TEST(Attention, SeesNothingBeforeItsWindow) {
  constexpr int64_t kRows = 330, kSize = 8;
  at::manual_seed(1);
  for (const int32_t window : {1, 12, 64, 100}) {
    SCOPED_TRACE(window);
    std::vector<at::Tensor> inputs, plain;
    for (int i = 0; i < 3; ++i) {
      inputs.push_back(at::randn({kRows, kSize}).set_requires_grad(true));
      plain.push_back(inputs.back().detach().to(at::kDouble).set_requires_grad(true));
    }
    const at::Tensor weights = at::randn({kRows, kSize});
    const std::vector<int32_t> offsets = {0, static_cast<int32_t>(kRows)};
    const at::Tensor found = attention(inputs[0], inputs[1], inputs[2],
                                       {.offsets = offsets,
                                        .query_heads = 1,
                                        .kv_heads = 1,
                                        .head_size = kSize,
                                        .scale = 0.5f,
                                        .mask = Mask::kCausal,
                                        .window = window});
    (found * weights).sum().backward();
    const at::Tensor ones = at::ones({kRows, kRows}, at::kBool);
    const at::Tensor hidden = at::logical_or(at::triu(ones, 1), at::tril(ones, -window));
    const at::Tensor expected = (at::matmul(plain[0], plain[1].t()) * 0.5)
                                    .masked_fill(hidden, -INFINITY)
                                    .softmax(1)
                                    .matmul(plain[2]);
    (expected * weights).sum().backward();
    // Sums of at most `window` products, of factors that are themselves such sums.
    const auto expect_near = [&](const at::Tensor& one, const at::Tensor& other) {
      const double largest = other.abs().max().item<double>();
      const double error = (one.to(at::kDouble) - other).abs().max().item<double>();
      EXPECT_LE(error, 4 * (window + kSize) * 0x1p-24 * std::max(1.0, largest));
    };
    expect_near(found.detach(), expected.detach());
    for (size_t i = 0; i < 3; ++i) expect_near(inputs[i].grad(), plain[i].grad());
  }
}

}  // namespace
}  // namespace tessera::training
