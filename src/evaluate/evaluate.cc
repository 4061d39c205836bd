#include "tessera/evaluate.h"

#include <fmt/format.h>

#include <chrono>

#include "base/guarded.h"
#include "evaluate/metrics.h"
#include "evaluate/run.h"

namespace tessera {
namespace {

Status run_kind(evaluation::Run& run, const std::shared_ptr<Model>& model) {
  if (run.task.kind == EvaluationKind::kDataToText) {
    return evaluation::run_data_to_text(run, model);
  }
  TESSERA_ASSIGN_OR_RETURN(Model* const needed, run.need(model));
  switch (run.task.kind) {
    case EvaluationKind::kPerplexity:
      return evaluation::run_perplexity(run, *needed);
    case EvaluationKind::kClassification:
      return evaluation::run_classification(run, *needed);
    case EvaluationKind::kSimilarity:
      return evaluation::run_similarity(run, *needed);
    case EvaluationKind::kRetrieval:
      return evaluation::run_retrieval(run, *needed);
    case EvaluationKind::kQuestionAnswering:
      return evaluation::run_questions(run, *needed);
    case EvaluationKind::kAgreement:
      return evaluation::run_agreement(run, *needed);
    case EvaluationKind::kDataToText:
      break;
  }
  return invalid_input("expected a kind of evaluation, found an unknown one");
}

Result<Evaluation> run_task(const std::shared_ptr<Model>& model, const EvaluationTask& task,
                            const EvaluateOptions& options) {
  if (task.max_examples < 0) {
    return invalid_input(
        fmt::format("max_examples: expected 0 or more, found {}", task.max_examples));
  }
  Evaluation result{.kind = task.kind, .task = task.name, .split = task.split};
  if (model != nullptr) result.model = model->info().directory;
  evaluation::Run run{task, options, result};
  const auto start = std::chrono::steady_clock::now();
  TESSERA_RETURN_IF_ERROR(run_kind(run, model));
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  result.counts.examples = static_cast<int64_t>(result.examples.size());
  TESSERA_ASSIGN_OR_RETURN(const MetricSet metrics, MetricSet::of(result));
  TESSERA_ASSIGN_OR_RETURN(
      result.metrics, with_intervals(metrics, options.bootstrap, [&](int64_t done, int64_t total) {
        return run.progress("resampling", done, total);
      }));
  put_first(task.main_metric, &result.metrics);
  return result;
}

}  // namespace

Result<Evaluation> evaluate(const std::shared_ptr<Model>& model, const EvaluationTask& task,
                            const EvaluateOptions& options) {
  return guarded("evaluate", [&] { return run_task(model, task, options); });
}

}  // namespace tessera
