#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cli/options.h"
#include "tessera/evaluate.h"

namespace tessera::cli {

// What stands behind `tessera eval`.
struct EvalOptions {
  ModelOptions model;
  bool has_model = false;  // MODEL was given
  std::string task;
  std::vector<std::string> data;
  std::optional<std::string> split, base, reference;
  // Users' own files.
  std::optional<std::string> format, text, pair, label, score, id;
  std::optional<std::string> train, dev, labels, positive, queries, judgements;
  bool header = false;
  // What single tasks take.
  std::optional<int64_t> window, stride, depth, overlap, max_answer_tokens, beams, max_tokens;
  std::optional<double> strength;
  std::optional<std::string> probe, predictions, prompt, stop;
  // All of them.
  std::optional<int64_t> max_examples, resamples, seed;
  std::optional<double> confidence;
  std::optional<std::string> on_error, output, examples_file;
  bool refuse_long = false, json = false;
};

// Declares them.
void add_eval_options(Parser& parser, EvalOptions* options);
// The task that they describe, less the reference model. Usage errors are kInvalidInput. The parser
// is the one that has parsed them.
Result<EvaluationTask> eval_task(const Parser& parser, const EvalOptions& options);

}  // namespace tessera::cli
