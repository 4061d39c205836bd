#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "io/model_directory.h"
#include "tessera/tune.h"
#include "tune/batch.h"
#include "tune/torch/objective.h"
#include "tune/torch/parameters.h"

namespace tessera::training {

// The loss on data that is not learnt from, and the parameters with which it was least.
class Validation {
 public:
  // Reads the data that the options name.
  static Result<Validation> open(const TuneOptions& options, const ModelDirectory& home,
                                 const Architecture& architecture);

  // The mean loss over the data, of at most kMostBatches batches, without dropout. Where it is the
  // least so far, the trained parameters are kept.
  double measure(TrainedModel& model, const Objective& objective);
  // Whether it has not fallen for as long as the options are patient.
  bool is_over() const { return patience_ > 0 && since_best_ >= patience_; }
  // Gives the model the parameters that were best; as it is where nothing was measured.
  void give_best(TrainedModel& model) const;
  std::optional<double> best_loss() const { return best_loss_; }

  // What it remembers, by name: kept in checkpoints.
  std::map<std::string, torch::Tensor> state() const;
  Status restore(const std::map<std::string, torch::Tensor>& state);

  static constexpr int64_t kMostBatches = 64;

 private:
  Validation() = default;

  std::unique_ptr<Batches> batches_;
  int64_t count_ = 0;  // of batches
  int64_t patience_ = 0;
  std::optional<double> best_loss_;
  int64_t since_best_ = 0;                     // measurements
  std::map<std::string, torch::Tensor> best_;  // values by the names of parameters
};

}  // namespace tessera::training
