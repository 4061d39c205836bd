#pragma once

#include <torch/types.h>

#include <string>
#include <vector>

#include "model/sentence_encoder.h"
#include "tune/batch.h"
#include "tune/torch/network.h"

namespace tessera::training {

// The vectors of sequences, [sequences, width], pooled and finished as the directory's sentence
// encoder has it.
torch::Tensor embed(const SentenceEncoder& encoder, const States& states);

// The loss of a task with labels, a mean over what is predicted; in f32.
//   tokens and classes   cross-entropy, with label smoothing
//   kRegression          mean squared difference
//   kQuestionAnswering   mean of the cross-entropies of first and last row
//   kEmbeddings          with values: mean squared difference of cosine and value; without: cross-
//                        entropy of each first text's cosines (times 20) to all second texts
torch::Tensor task_loss(const TuneOptions& options, const TrainedModel& model,
                        const SentenceEncoder& encoder, const Batch& batch, const States& states);

// The loss of a distillation, of the weights that the options give. Rows that the student's layers
// no longer have are not compared there.
torch::Tensor distil_loss(const DistilOptions& options, const TrainedModel& student,
                          const TrainedModel& teacher, const SentenceEncoder& encoder,
                          const Batch& batch, const States& student_states,
                          const States& teacher_states);

}  // namespace tessera::training
