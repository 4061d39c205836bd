#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "base/status.h"

// What sentence-transformers puts behind the pooling of a sentence.
namespace tessera {

// y = activation(weight x + bias) [+ residual x, or + x where residual is empty]. weight and
// residual: [outputs, inputs]; bias may be empty. Sums in 16 partial sums of f32: an error of at
// most (inputs / 16 + 5) eps times the sum of the absolute products.
struct DenseStep {
  enum class Residual { kNone, kIdentity, kProjected };
  enum class Function { kIdentity, kTanh, kSigmoid, kRelu, kGelu, kSilu };

  int64_t inputs = 0, outputs = 0;
  std::vector<float> weight, bias, projection;
  Residual residual = Residual::kNone;
  Function activation = Function::kIdentity;
};
// y = (x - mean) / sqrt(variance + 1e-5) * weight + bias
struct LayerNormStep {
  std::vector<float> weight, bias;
};
struct NormaliseStep {};
using EmbeddingStep = std::variant<DenseStep, LayerNormStep, NormaliseStep>;

// Reads config.json and model.safetensors of a module's folder.
Result<EmbeddingStep> read_dense_step(const std::string& folder);
Result<EmbeddingStep> read_layer_norm_step(const std::string& folder);

// The width of the vectors that a step gives for vectors of `inputs` numbers; kInvalidInput where
// it takes vectors of another width.
Result<int64_t> outputs_of(const EmbeddingStep& step, int64_t inputs);
// In place; x grows or shrinks with a dense step.
void apply(const EmbeddingStep& step, std::vector<float>& x);

}  // namespace tessera
