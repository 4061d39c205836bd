#include "model/embedding_steps.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/dtype.h"
#include "io/config.h"
#include "io/safetensors.h"
#include "model/pooling.h"

namespace tessera {
namespace {

constexpr int64_t kMostWidth = 1 << 24;

struct NamedFunction {
  std::string_view name;  // the last part of the module's path
  double (*function)(double);
};
// In the order of DenseStep::Function.
constexpr NamedFunction kFunctions[] = {
    {"Identity", [](double x) { return x; }},
    {"Tanh", [](double x) { return std::tanh(x); }},
    {"Sigmoid", [](double x) { return 1 / (1 + std::exp(-x)); }},
    {"ReLU", [](double x) { return std::max(x, 0.0); }},
    {"GELU", [](double x) { return x / 2 * (1 + std::erf(x / std::numbers::sqrt2)); }},
    {"SiLU", [](double x) { return x / (1 + std::exp(-x)); }},
};

Result<DenseStep::Function> activation_of(const Config& config) {
  constexpr std::string_view kKey = "activation_function", kUsual = "torch.nn.Tanh";
  TESSERA_ASSIGN_OR_RETURN(const std::string path, config.contains(kKey)
                                                       ? config.string(kKey)
                                                       : Result<std::string>(std::string(kUsual)));
  std::string known;
  for (size_t i = 0; i < std::size(kFunctions); ++i) {
    const std::string_view name = kFunctions[i].name;
    if (path.starts_with("torch.nn.") && path.substr(path.rfind('.') + 1) == name)
      return static_cast<DenseStep::Function>(i);
    known += fmt::format("{}{}", known.empty() ? "" : ", ", name);
  }
  return unsupported(fmt::format("{}: {}: expected one of torch.nn's {}, found \"{}\"",
                                 config.source(), kKey, known, path));
}

// The tensors of a module.
class Tensors {
 public:
  static Result<Tensors> open(const std::string& folder) {
    auto file = Safetensors::open(folder + "/model.safetensors");
    if (!file.ok()) {
      return Status(
          file.status().code(),
          file.status().message() + " (weights of a module as pytorch_model.bin are not read)");
    }
    return Tensors(folder, std::move(file).value());
  }

  Result<std::vector<float>> read(const std::string& name,
                                  const std::vector<int64_t>& shape) const {
    const auto found = file_.tensors().find(name);
    if (found == file_.tensors().end() || found->second.shape != shape) {
      return invalid_input(
          fmt::format("{}/model.safetensors: tensor \"{}\": expected it with shape [{}], found {}",
                      folder_, name, fmt::join(shape, ", "),
                      found == file_.tensors().end()
                          ? "no such name"
                          : fmt::format("[{}]", fmt::join(found->second.shape, ", "))));
    }
    const TensorView& view = found->second;
    if (view.dtype != DType::kF32 && view.dtype != DType::kF16 && view.dtype != DType::kBF16) {
      return invalid_input(
          fmt::format("{}/model.safetensors: tensor \"{}\": expected F32, F16 or BF16, found {}",
                      folder_, name, tessera::name(view.dtype)));
    }
    int64_t count = 1;
    for (const int64_t extent : shape) count *= extent;
    std::vector<float> values(static_cast<size_t>(count));
    convert_to_f32(view.data, view.dtype, count, values.data());
    const auto bad =
        std::find_if(values.begin(), values.end(), [](float x) { return !std::isfinite(x); });
    if (bad == values.end()) return values;
    return invalid_input(
        fmt::format("{}/model.safetensors: tensor \"{}\": expected finite "
                    "numbers, found {}",
                    folder_, name, *bad));
  }

 private:
  Tensors(std::string folder, Safetensors file)
      : folder_(std::move(folder)), file_(std::move(file)) {}

  std::string folder_;
  Safetensors file_;
};

// In partial sums, so that the loop is vectorised.
float dot(const float* a, const float* b, int64_t count) {
  constexpr int64_t kLanes = 16;
  float lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += a[i + lane] * b[i + lane];
  for (; i < count; ++i) lanes[0] += a[i] * b[i];
  for (int64_t half = kLanes / 2; half > 0; half /= 2)
    for (int64_t lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  return lanes[0];
}

void run(const DenseStep& step, std::vector<float>& x) {
  std::vector<float> y(static_cast<size_t>(step.outputs));
  double (*const function)(double) = kFunctions[static_cast<size_t>(step.activation)].function;
  for (int64_t o = 0; o < step.outputs; ++o) {
    const size_t i = static_cast<size_t>(o);
    const float sum = dot(step.weight.data() + o * step.inputs, x.data(), step.inputs);
    y[i] = static_cast<float>(function(sum + (step.bias.empty() ? 0 : step.bias[i])));
    if (step.residual == DenseStep::Residual::kIdentity) y[i] += x[i];
    if (step.residual == DenseStep::Residual::kProjected) {
      y[i] += dot(step.projection.data() + o * step.inputs, x.data(), step.inputs);
    }
  }
  x = std::move(y);
}

void run(const LayerNormStep& step, std::vector<float>& x) {
  constexpr double kEps = 1e-5;
  const double count = static_cast<double>(x.size());
  double mean = 0, variance = 0;
  for (const float value : x) mean += value / count;
  for (const float value : x) variance += (value - mean) * (value - mean) / count;
  const double factor = 1 / std::sqrt(variance + kEps);
  for (size_t i = 0; i < x.size(); ++i) {
    x[i] = static_cast<float>((x[i] - mean) * factor * step.weight[i] + step.bias[i]);
  }
}

void run(const NormaliseStep&, std::vector<float>& x) { normalise(x); }

Result<int64_t> outputs(const DenseStep& step, int64_t inputs) {
  if (step.inputs == inputs) return step.outputs;
  return invalid_input(
      fmt::format("in_features: expected {}, the numbers of the vectors before it, found {}",
                  inputs, step.inputs));
}

Result<int64_t> outputs(const LayerNormStep& step, int64_t inputs) {
  if (static_cast<int64_t>(step.weight.size()) == inputs) return inputs;
  return invalid_input(
      fmt::format("dimension: expected {}, the numbers of the vectors before it, found {}", inputs,
                  step.weight.size()));
}

Result<int64_t> outputs(const NormaliseStep&, int64_t inputs) { return inputs; }

}  // namespace

Result<EmbeddingStep> read_dense_step(const std::string& folder) {
  TESSERA_ASSIGN_OR_RETURN(const Config config, Config::read(folder + "/config.json"));
  constexpr std::string_view kSentence = "sentence_embedding";
  for (const char* key : {"module_input_name", "module_output_name"}) {
    TESSERA_ASSIGN_OR_RETURN(const std::string found, config.string_or(key, kSentence));
    if (found == kSentence) continue;
    return unsupported(fmt::format("{}/config.json: {}: expected {}, found \"{}\"", folder, key,
                                   kSentence, found));
  }
  DenseStep step;
  TESSERA_ASSIGN_OR_RETURN(step.inputs, config.integer("in_features", 1, kMostWidth));
  TESSERA_ASSIGN_OR_RETURN(step.outputs, config.integer("out_features", 1, kMostWidth));
  TESSERA_ASSIGN_OR_RETURN(step.activation, activation_of(config));
  TESSERA_ASSIGN_OR_RETURN(const Tensors tensors, Tensors::open(folder));
  TESSERA_ASSIGN_OR_RETURN(step.weight, tensors.read("linear.weight", {step.outputs, step.inputs}));
  TESSERA_ASSIGN_OR_RETURN(const auto bias, config.truth_or("bias", Config::Truth::kYes));
  if (bias == Config::Truth::kYes) {
    TESSERA_ASSIGN_OR_RETURN(step.bias, tensors.read("linear.bias", {step.outputs}));
  }
  TESSERA_ASSIGN_OR_RETURN(const auto residual,
                           config.truth_or("use_residual", Config::Truth::kNo));
  if (residual == Config::Truth::kNo) return EmbeddingStep(std::move(step));
  step.residual = DenseStep::Residual::kIdentity;
  if (step.inputs != step.outputs) {
    step.residual = DenseStep::Residual::kProjected;
    TESSERA_ASSIGN_OR_RETURN(step.projection,
                             tensors.read("residual.weight", {step.outputs, step.inputs}));
  }
  return EmbeddingStep(std::move(step));
}

Result<EmbeddingStep> read_layer_norm_step(const std::string& folder) {
  TESSERA_ASSIGN_OR_RETURN(const Config config, Config::read(folder + "/config.json"));
  TESSERA_ASSIGN_OR_RETURN(const int64_t size, config.integer("dimension", 1, kMostWidth));
  TESSERA_ASSIGN_OR_RETURN(const Tensors tensors, Tensors::open(folder));
  LayerNormStep step;
  TESSERA_ASSIGN_OR_RETURN(step.weight, tensors.read("norm.weight", {size}));
  TESSERA_ASSIGN_OR_RETURN(step.bias, tensors.read("norm.bias", {size}));
  return EmbeddingStep(std::move(step));
}

Result<int64_t> outputs_of(const EmbeddingStep& step, int64_t inputs) {
  return std::visit([&](const auto& each) { return outputs(each, inputs); }, step);
}

void apply(const EmbeddingStep& step, std::vector<float>& x) {
  std::visit([&](const auto& each) { run(each, x); }, step);
}

}  // namespace tessera
