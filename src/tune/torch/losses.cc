#include "tune/torch/losses.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <variant>

#include "tune/torch/recompute.h"

namespace tessera::training {
namespace {

using torch::Tensor;

constexpr double kContrastiveScale = 20;  // of sentence-transformers

Tensor labels_of(const Batch& batch) { return indices({batch.labels.begin(), batch.labels.end()}); }

Tensor select(const Tensor& x, std::vector<int64_t> rows) {
  return at::index_select(x, 0, indices(std::move(rows)));
}

Tensor entropy(const Tensor& logits, const Tensor& labels, double smoothing) {
  return at::cross_entropy_loss(logits, labels, {}, at::Reduction::Mean, -100, smoothing);
}

// The mean over rows of a loss that reads what the head gives of them, which is computed in parts
// where the logits of all rows would take much memory.
using RowsLoss = std::function<Tensor(const Tensor& rows, int64_t first)>;  // a mean over the rows
Tensor mean_over_rows(const TrainedModel& model, const Tensor& rows, const RowsLoss& loss) {
  constexpr int64_t kMostLogits = int64_t{1} << 23;
  const int64_t count = rows.size(0);
  const int64_t most = std::max<int64_t>(1, kMostLogits / model.architecture.vocabulary_size);
  if (count <= most) return loss(rows, 0);
  const auto share_of = [&](const Tensor& some, int64_t first) {
    const double share = static_cast<double>(some.size(0)) / static_cast<double>(count);
    return loss(some, first) * share;
  };
  return loss_by_parts(share_of, rows, most, trained_values(model));
}

// One pooling of a sequence's states, [rows, size].
Tensor pooled(Pooling pooling, const Tensor& x) {
  const int64_t n = x.size(0);
  switch (pooling) {
    case Pooling::kFirstToken:
      return x[0];
    case Pooling::kLastToken:
      return x[n - 1];
    case Pooling::kMax:
      return at::amax(x, {0});
    case Pooling::kMean:
      return at::mean(x, {0});
    case Pooling::kMeanSqrtLength:
      return at::sum(x, {0}) / std::sqrt(static_cast<double>(n));
    case Pooling::kWeightedMean: {
      const Tensor weights = at::arange(1, n + 1, x.options()).unsqueeze(1);
      return at::sum(x * weights, {0}) / at::sum(weights);
    }
  }
  return x[0];
}

Tensor vector_of(const std::vector<float>& values, std::vector<int64_t> shape) {
  return torch::tensor(values).view(shape);
}

Tensor run(DenseStep::Function function, const Tensor& x) {
  switch (function) {
    case DenseStep::Function::kIdentity:
      return x;
    case DenseStep::Function::kTanh:
      return at::tanh(x);
    case DenseStep::Function::kSigmoid:
      return at::sigmoid(x);
    case DenseStep::Function::kRelu:
      return at::relu(x);
    case DenseStep::Function::kGelu:
      return at::gelu(x);
    case DenseStep::Function::kSilu:
      return at::silu(x);
  }
  return x;
}

// The steps behind the pooling are not trained.
Tensor apply(const DenseStep& step, const Tensor& x) {
  Tensor y = at::matmul(x, vector_of(step.weight, {step.outputs, step.inputs}).t());
  if (!step.bias.empty()) y = y + torch::tensor(step.bias);
  y = run(step.activation, y);
  switch (step.residual) {
    case DenseStep::Residual::kNone:
      return y;
    case DenseStep::Residual::kIdentity:
      return y + x;
    case DenseStep::Residual::kProjected:
      return y + at::matmul(x, vector_of(step.projection, {step.outputs, step.inputs}).t());
  }
  return y;
}
Tensor apply(const LayerNormStep& step, const Tensor& x) {
  return at::layer_norm(x, {x.size(-1)}, torch::tensor(step.weight), torch::tensor(step.bias),
                        1e-5);
}
Tensor apply(const NormaliseStep&, const Tensor& x) {
  return x / at::clamp_min(at::norm(x, 2, {-1}, true), 1e-12);
}

// Cosines of the rows of two matrices, one by one.
Tensor cosines(const Tensor& a, const Tensor& b) { return at::cosine_similarity(a, b, 1, 1e-8); }

Tensor embedding_loss(const Tensor& vectors, const Batch& batch, double smoothing) {
  const Tensor pairs = vectors.view({-1, 2, vectors.size(1)});
  const Tensor first = pairs.select(1, 0), second = pairs.select(1, 1);
  if (!batch.values.empty())
    return at::mse_loss(cosines(first, second), torch::tensor(batch.values));
  const Tensor a = apply(NormaliseStep(), first), b = apply(NormaliseStep(), second);
  const Tensor scores = at::matmul(a, b.t()) * kContrastiveScale;
  return entropy(scores, at::arange(scores.size(0)), smoothing);
}

// Of the first and of the last row of an answer, a distribution over the rows of each sequence.
Tensor answer_loss(const Tensor& logits, const Batch& batch, double smoothing) {
  std::vector<Tensor> losses;
  for (int64_t s = 0; s < batch.sequences(); ++s) {
    const int64_t first = batch.offsets[static_cast<size_t>(s)];
    const int64_t rows = batch.offsets[static_cast<size_t>(s) + 1] - first;
    const Tensor both = logits.narrow(0, first, rows).t();  // [2, rows]
    const int64_t label = 2 * s;
    losses.push_back(entropy(both,
                             indices({batch.labels[static_cast<size_t>(label)],
                                      batch.labels[static_cast<size_t>(label) + 1]}),
                             smoothing));
  }
  return at::mean(at::stack(losses));
}

// sum p log(p / q) over the last axis, a mean over the rows; logits of the teacher give p.
Tensor divergence(const Tensor& student, const Tensor& teacher, double temperature) {
  const Tensor log_q = at::log_softmax(student / temperature, -1);
  const Tensor log_p = at::log_softmax(teacher / temperature, -1);
  // What a mask hides has probability 0 in both.
  const Tensor terms = at::where(log_p.isinf(), torch::zeros({}), at::exp(log_p) * (log_p - log_q));
  const Tensor rows = at::sum(terms, {-1});
  return at::mean(rows) * temperature * temperature;
}

// The mean squared difference for each of the teacher's mean squares: layers with large states do
// not outweigh the others.
Tensor relative_difference(const Tensor& student, const Tensor& teacher) {
  return at::mse_loss(student, teacher) / at::clamp_min(at::mean(teacher * teacher), 1e-12);
}

// A model's architecture and what its layers gave.
struct Computed {
  const Architecture& architecture;
  const States& states;
};

// Of the attention that every query pays, a mean over layers, sequences, heads and queries.
Tensor attention_divergence(const Computed& student, const Computed& teacher, const Batch& batch) {
  std::vector<Tensor> means;
  for (int32_t layer = 0; layer < student.architecture.layer_count(); ++layer) {
    const auto scores = [&](const Computed& of, int64_t sequence) {
      return attention_scores(of.architecture, layer, batch, sequence, of.states);
    };
    for (int64_t s = 0; s < batch.sequences(); ++s) {
      means.push_back(divergence(scores(student, s), scores(teacher, s), 1));
    }
  }
  return at::mean(at::stack(means));
}

// The logits of labels: of all rows, or of those that the head reads.
Tensor head_logits(const TrainedModel& model, const Batch& batch, const Tensor& last) {
  const bool reads_one = model.architecture.head == Head::kSequenceClassification;
  return head(model, reads_one ? select(last, head_rows(model, batch)) : last);
}

// Of labels that hold or not, each for itself: sum p log(p / q) over both, a mean over all.
Tensor divergence_of_labels(const Tensor& student, const Tensor& teacher) {
  const Tensor p = at::sigmoid(teacher);
  return at::mean(p * (at::log_sigmoid(teacher) - at::log_sigmoid(student)) +
                  (1 - p) * (at::log_sigmoid(-teacher) - at::log_sigmoid(-student)));
}

// How far what a head predicts is from what the teacher's predicts: numbers by their squared
// difference, else the divergence of the distributions that the logits are, for question answering
// over the rows of each sequence.
Tensor logits_loss(const Architecture& a, const Batch& batch, const Tensor& student,
                   const Tensor& teacher, double temperature) {
  if (a.head == Head::kQuestionAnswering) {
    std::vector<Tensor> losses;
    for (size_t s = 0; s + 1 < batch.offsets.size(); ++s) {
      const int64_t first = batch.offsets[s], rows = batch.offsets[s + 1] - first;
      losses.push_back(divergence(student.narrow(0, first, rows).t(),
                                  teacher.narrow(0, first, rows).t(), temperature));
    }
    return at::mean(at::stack(losses));
  }
  if (a.head == Head::kSequenceClassification) {
    if (a.labels == 1 || a.label_scores == LabelScores::kLogits)
      return at::mse_loss(student, teacher);
    if (a.label_scores != LabelScores::kSoftmax) return divergence_of_labels(student, teacher);
  }
  return divergence(student, teacher, temperature);
}

// The same of a model and its teacher, from their last states.
Tensor head_loss(const TrainedModel& student, const TrainedModel& teacher, const Batch& batch,
                 const Tensor& last, const Tensor& teacher_last, double temperature) {
  const Architecture& a = student.architecture;
  if (a.head != Head::kCausalLm && a.head != Head::kMaskedLm) {
    return logits_loss(a, batch, head_logits(student, batch, last),
                       head_logits(teacher, batch, teacher_last), temperature);
  }
  return mean_over_rows(student, last, [&](const Tensor& some, int64_t first) {
    return divergence(head(student, some),
                      head(teacher, teacher_last.narrow(0, first, some.size(0))), temperature);
  });
}

}  // namespace

torch::Tensor embed(const SentenceEncoder& encoder, const States& states) {
  std::vector<Tensor> vectors;
  for (size_t s = 0; s + 1 < states.pooled_offsets.size(); ++s) {
    const int64_t first = states.pooled_offsets[s];
    const Tensor x = states.pooled.narrow(0, first, states.pooled_offsets[s + 1] - first);
    std::vector<Tensor> parts;
    for (const Pooling pooling : encoder.poolings) parts.push_back(pooled(pooling, x));
    vectors.push_back(at::cat(parts, 0));
  }
  Tensor result = at::stack(vectors);
  for (const EmbeddingStep& step : encoder.steps)
    result = std::visit([&](const auto& one) { return apply(one, result); }, step);
  return encoder.dimensions > 0 ? result.narrow(1, 0, encoder.dimensions) : result;
}

torch::Tensor task_loss(const TuneOptions& options, const TrainedModel& model,
                        const SentenceEncoder& encoder, const Batch& batch, const States& states) {
  const double smoothing = options.label_smoothing;
  const auto rows = [&] { return select(states.last, {batch.rows.begin(), batch.rows.end()}); };
  const auto sequence_logits = [&] {
    return head(model, select(states.last, head_rows(model, batch)));
  };
  switch (options.task) {
    case TuneTask::kCausalLm:
    case TuneTask::kMaskedLm:
    case TuneTask::kDataToText: {
      const Tensor labels = labels_of(batch);
      return mean_over_rows(model, rows(), [&](const Tensor& some, int64_t first) {
        return entropy(head(model, some), labels.narrow(0, first, some.size(0)), smoothing);
      });
    }
    case TuneTask::kTokenClassification:
      return entropy(head(model, rows()), labels_of(batch), smoothing);
    case TuneTask::kClassification:
      return entropy(sequence_logits(), labels_of(batch), smoothing);
    case TuneTask::kRegression:
      return at::mse_loss(sequence_logits().select(1, 0), torch::tensor(batch.values));
    case TuneTask::kQuestionAnswering:
      return answer_loss(head(model, states.last), batch, smoothing);
    case TuneTask::kEmbeddings:
      return embedding_loss(embed(encoder, states), batch, smoothing);
    case TuneTask::kDistil:
      break;
  }
  return {};
}

torch::Tensor distil_loss(const DistilOptions& options, const TrainedModel& student,
                          const TrainedModel& teacher, const SentenceEncoder& encoder,
                          const Batch& batch, const States& student_states,
                          const States& teacher_states) {
  Tensor loss = torch::zeros({});
  const size_t layers = student_states.hidden.size();
  if (options.hidden > 0) {
    Tensor sum = torch::zeros({});
    for (size_t i = 1; i < layers; ++i) {
      const Tensor& rows = student_states.rows[i];
      const Tensor& target = teacher_states.hidden[i];
      sum = sum + relative_difference(student_states.hidden[i],
                                      rows.defined() ? at::index_select(target, 0, rows) : target);
    }
    loss = loss + sum * (options.hidden / static_cast<double>(layers - 1));
  }
  const bool has_head = student.architecture.head != Head::kNone;
  if (!has_head && options.embedding > 0) {
    const Tensor cosine = cosines(embed(encoder, student_states), embed(encoder, teacher_states));
    loss = loss + at::mean(1 - cosine) * options.embedding;
  }
  if (has_head && options.logits > 0) {
    loss = loss + head_loss(student, teacher, batch, student_states.last, teacher_states.last,
                            options.temperature) *
                      options.logits;
  }
  if (options.attention > 0) {
    loss = loss + attention_divergence({student.architecture, student_states},
                                       {teacher.architecture, teacher_states}, batch) *
                      options.attention;
  }
  return loss;
}

}  // namespace tessera::training
