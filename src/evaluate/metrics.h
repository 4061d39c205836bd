#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "tessera/evaluate.h"

namespace tessera {

// Sums of EvaluatedExample::values by kind:
//   kPerplexity        nats, tokens, words, bytes
//   kClassification    expected label, predicted label
//   kSimilarity        cosine, score
//   kRetrieval         ndcg, recall at each depth
//   kQuestionAnswering f1, exact match, 0 to 1
//   kDataToText        see TextScore
//   kAgreement         nats, agreeing tokens, tokens; or cosine
// and Evaluation::settings:
//   kClassification    labels, positive label
//   kRetrieval         depth of ndcg, depths of recall
//   kAgreement         1: causal, 0: encoder

// The metrics of an evaluation as functions of how often each example is drawn.
class MetricSet {
 public:
  // kInvalidInput for values that do not fit the kind.
  static Result<MetricSet> of(const Evaluation& evaluation);

  size_t examples() const { return examples_; }
  // In the order of the kind, with their values for the examples as they are.
  std::vector<Metric> metrics() const;
  // counts: [examples]; the result: in the order of metrics(), NaN where there is none.
  std::vector<double> compute(std::span<const int32_t> counts) const;

 private:
  std::vector<double> sums(std::span<const int32_t> counts) const;
  std::vector<double> perplexity(std::span<const int32_t> counts) const;
  std::vector<double> classification(std::span<const int32_t> counts) const;
  std::vector<double> similarity(std::span<const int32_t> counts) const;
  std::vector<double> means(std::span<const int32_t> counts) const;
  std::vector<double> data_to_text(std::span<const int32_t> counts) const;
  std::vector<double> agreement(std::span<const int32_t> counts) const;

  EvaluationKind kind_ = EvaluationKind::kClassification;
  std::vector<double> settings_;
  std::vector<Metric> named_;  // without values
  size_t examples_ = 0, width_ = 0;
  std::vector<double> values_;                // [examples, width]
  std::vector<std::vector<uint32_t>> order_;  // kSimilarity: examples by each of the two values
};

// Pearson's correlation of weighted points; NaN where one of the two does not vary.
double pearson(std::span<const double> x, std::span<const double> y,
               std::span<const int32_t> counts);

// Metrics with percentile intervals (Efron & Tibshirani 1993, 13.3). on_progress may be empty.
using BootstrapProgress = std::function<Status(int64_t done, int64_t total)>;
Result<std::vector<Metric>> with_intervals(const MetricSet& metrics,
                                           const BootstrapOptions& options,
                                           const BootstrapProgress& on_progress);

// The metric of that name first, where there is one.
void put_first(std::string_view name, std::vector<Metric>* metrics);

}  // namespace tessera
