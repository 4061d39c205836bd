#include "tune/torch/validation.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>

namespace tessera::training {
namespace {

constexpr const char* kNumbers = "numbers";  // the best loss, and how long ago it was
constexpr const char* kValue = "value.";

// How many batches hold the data once, or so many that it is enough. Examples are sequences, pairs
// of them, or the tokens of one stream.
int64_t batches_of(const Batches& batches, const TuneOptions& options, bool is_stream) {
  int64_t number = 0;
  for (int64_t seen = 0; seen < batches.examples() && number < Validation::kMostBatches; ++number) {
    const Batch batch = batches.batch(number);
    const int64_t sequences =
        options.task == TuneTask::kEmbeddings ? batch.sequences() / 2 : batch.sequences();
    seen += is_stream ? batch.tokens() : sequences;
  }
  return number;
}

}  // namespace

Result<Validation> Validation::open(const TuneOptions& options, const ModelDirectory& home,
                                    const Architecture& architecture) {
  TuneOptions own = options;
  own.data = options.validate;
  // A batch of no fixed number of texts must hold the longest.
  if (own.batch > 0) own.batch_tokens = std::max(own.batch_tokens, 2 * architecture.max_positions);
  own.batch = 0;
  Validation validation;
  validation.patience_ = options.patience;
  TESSERA_ASSIGN_OR_RETURN(validation.batches_, read_batches(home, architecture, own));
  const bool is_stream = options.task == TuneTask::kCausalLm ||
                         (options.task == TuneTask::kDistil && architecture.is_decoder());
  validation.count_ = batches_of(*validation.batches_, options, is_stream);
  return validation;
}

double Validation::measure(TrainedModel& model, const Objective& objective) {
  const at::NoGradGuard no_gradients;
  double sum = 0;
  for (int64_t i = 0; i < count_; ++i) {
    const Batch batch = batches_->batch(i);
    sum += objective.loss(model, batch, Objective::Use::kMeasuring).item<double>();
  }
  const double loss = sum / static_cast<double>(count_);
  ++since_best_;
  if (best_loss_ && !(loss < *best_loss_)) return loss;
  best_loss_ = loss;
  since_best_ = 0;
  for (const Parameter* parameter : model.trained())
    best_[parameter->name] = parameter->value.detach().clone();
  return loss;
}

void Validation::give_best(TrainedModel& model) const {
  const at::NoGradGuard no_gradients;
  for (const auto& [name, value] : best_) {
    // A file may name what the model does not have.
    Parameter* parameter = model.find(name);
    if (parameter != nullptr && parameter->value.sizes() == value.sizes())
      parameter->value.copy_(value);
  }
}

std::map<std::string, at::Tensor> Validation::state() const {
  if (!best_loss_) return {};
  std::map<std::string, at::Tensor> state;
  state[kNumbers] = at::empty({2}, at::kDouble);
  state[kNumbers].data_ptr<double>()[0] = *best_loss_;
  state[kNumbers].data_ptr<double>()[1] = static_cast<double>(since_best_);
  for (const auto& [name, value] : best_) state[kValue + name] = value;
  return state;
}

Status Validation::restore(const std::map<std::string, at::Tensor>& state) {
  const auto numbers = state.find(kNumbers);
  if (numbers == state.end()) return {};
  if (numbers->second.scalar_type() != at::kDouble || numbers->second.numel() != 2)
    return invalid_input("expected two numbers of the validation, found others");
  best_loss_ = numbers->second.data_ptr<double>()[0];
  since_best_ = static_cast<int64_t>(numbers->second.data_ptr<double>()[1]);
  for (const auto& [name, value] : state) {
    if (name.starts_with(kValue)) best_[name.substr(std::string(kValue).size())] = value;
  }
  return {};
}

}  // namespace tessera::training
