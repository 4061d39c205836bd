#include "tune/torch/objective.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>

#include "tune/torch/cascade.h"
#include "tune/torch/losses.h"
#include "tune/torch/network.h"

namespace tessera::training {
namespace {

std::string shape_of(const Architecture& architecture) {
  return fmt::format("{} layers of width {} with {} heads, {} tokens and {} labels",
                     architecture.layer_count(), architecture.hidden_size,
                     architecture.layer_count() > 0 ? architecture.layer(0).query_heads : 0,
                     architecture.vocabulary_size, architecture.labels);
}

}  // namespace

Result<Objective> Objective::open(const TuneOptions& options, const ModelDirectory& home,
                                  const OpenCheckpoint& source, const Architecture& student) {
  Objective objective(options);
  TESSERA_ASSIGN_OR_RETURN(objective.encoder_, read_sentence_encoder(home));
  if (!options.distil.teacher.empty()) TESSERA_RETURN_IF_ERROR(objective.read_teacher(student));
  TESSERA_ASSIGN_OR_RETURN(objective.schedule_, read_saved_schedule(source, student));
  if (objective.schedule_ && options.distil.attention > 0) {
    return unsupported(
        "expected a model without a schedule of cascade pruning to compare its attention with the "
        "teacher's, found one with a schedule");
  }
  if (objective.schedule_ && options.recompute == TuneOptions::Recompute::kYes) {
    return unsupported(
        "expected a model without a schedule of cascade pruning to compute its layers again, found "
        "one with a schedule");
  }
  return objective;
}

// The rows that somebody reads alone, which therefore never leave.
std::vector<int64_t> Objective::rows_read(const TrainedModel& model, const Batch& batch) const {
  const Head head = model.architecture.head;
  if (head == Head::kSequenceClassification) return head_rows(model, batch);
  if (head == Head::kMaskedLm) return {batch.rows.begin(), batch.rows.end()};
  std::vector<int64_t> rows;
  const auto pools = [&](Pooling pooling) {
    return head == Head::kNone && std::find(encoder_.poolings.begin(), encoder_.poolings.end(),
                                            pooling) != encoder_.poolings.end();
  };
  for (size_t s = 0; s + 1 < batch.offsets.size(); ++s) {
    if (pools(Pooling::kFirstToken)) rows.push_back(batch.offsets[s]);
    if (pools(Pooling::kLastToken)) rows.push_back(batch.offsets[s + 1] - 1);
  }
  return rows;
}

Status Objective::read_teacher(const Architecture& student) {
  TESSERA_ASSIGN_OR_RETURN(const ModelDirectory home, find_model(options_->distil.teacher));
  TESSERA_ASSIGN_OR_RETURN(teacher_source_, OpenCheckpoint::open(home.transformer));
  TESSERA_ASSIGN_OR_RETURN(teacher_, read_model(*teacher_source_));
  const std::string expected = shape_of(student), found = shape_of(teacher_->architecture);
  if (expected == found && student.head == teacher_->architecture.head) return {};
  return invalid_input(
      fmt::format("{}: expected a teacher of the same shape and head ({}), found {}",
                  home.transformer, expected, found));
}

at::Tensor Objective::loss(const TrainedModel& model, const Batch& batch, Use use) const {
  const std::vector<int64_t> kept = schedule_ ? rows_read(model, batch) : std::vector<int64_t>();
  ForwardOptions how{.schedule = schedule_ ? &*schedule_ : nullptr, .kept = kept};
  if (options_->distil.attention == 0) how.attention = ForwardOptions::Attention::kDropped;
  if (use == Use::kTraining) {
    if (options_->recompute == TuneOptions::Recompute::kYes) how.inner = InnerStates::kRecomputed;
    how.dropout = options_->dropout;
    how.update_dropout = options_->lora ? options_->lora->dropout : 0;
  }
  const States states = forward(model, batch, how);
  if (!teacher_) return task_loss(*options_, model, encoder_, batch, states);
  States targets;
  {
    const at::NoGradGuard no_gradients;
    targets = forward(*teacher_, batch, {.attention = how.attention});
  }
  return distil_loss(options_->distil, model, *teacher_, encoder_, batch, states, targets);
}

}  // namespace tessera::training
