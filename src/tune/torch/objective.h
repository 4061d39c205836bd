#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "io/model_directory.h"
#include "model/sentence_encoder.h"
#include "pruning/schedule.h"
#include "tessera/tune.h"
#include "tune/batch.h"
#include "tune/torch/parameters.h"

namespace tessera::training {

// What a training makes smaller: the loss of its task, or the distance from a teacher.
class Objective {
 public:
  // Reads the teacher where there is one, which must have the student's shape, and the student's
  // schedule of cascade pruning, by which its tokens and heads leave.
  static Result<Objective> open(const TuneOptions& options, const ModelDirectory& home,
                                const OpenCheckpoint& source, const Architecture& student);

  // A number that backward() can be called of. Nothing drops out where it is only measured.
  enum class Use { kTraining, kMeasuring };
  torch::Tensor loss(const TrainedModel& model, const Batch& batch, Use use) const;

 private:
  explicit Objective(const TuneOptions& options) : options_(&options) {}
  Status read_teacher(const Architecture& student);
  std::vector<int64_t> rows_read(const TrainedModel& model, const Batch& batch) const;

  const TuneOptions* options_;
  SentenceEncoder encoder_;
  std::optional<PruningSchedule> schedule_;
  std::unique_ptr<OpenCheckpoint> teacher_source_;
  std::optional<TrainedModel> teacher_;
};

}  // namespace tessera::training
