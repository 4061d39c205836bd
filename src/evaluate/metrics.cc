#include "evaluate/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/status.h"
#include "evaluate/text_score.h"

namespace tessera {
namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

std::vector<Metric> names_of(EvaluationKind kind, std::span<const double> settings) {
  switch (kind) {
    case EvaluationKind::kPerplexity:
      return {{.name = "perplexity", .better = Better::kLower},
              {.name = "bits_per_byte", .better = Better::kLower},
              {.name = "word_perplexity", .better = Better::kLower}};
    case EvaluationKind::kClassification:
      return {{.name = "accuracy"}, {.name = "f1"}, {.name = "matthews"}};
    case EvaluationKind::kSimilarity:
      return {{.name = "spearman"}, {.name = "pearson"}};
    case EvaluationKind::kRetrieval: {
      std::vector<Metric> metrics;
      for (const double depth : settings) {
        metrics.push_back(
            {.name = fmt::format("{}@{}", metrics.empty() ? "ndcg" : "recall", depth)});
      }
      return metrics;
    }
    case EvaluationKind::kQuestionAnswering:
      return {{.name = "f1"}, {.name = "exact_match"}};
    case EvaluationKind::kDataToText:
      return {{.name = "bleu"}, {.name = "nist"}};
    case EvaluationKind::kAgreement:
      break;
  }
  if (!settings.empty() && settings[0] == 0) return {{.name = "cosine"}};
  return {{.name = "kl", .better = Better::kLower}, {.name = "top1_agreement"}};
}

size_t width_of(EvaluationKind kind, size_t metrics) {
  switch (kind) {
    case EvaluationKind::kPerplexity:
      return 4;
    case EvaluationKind::kDataToText:
      return TextScore::kValues;
    case EvaluationKind::kAgreement:
      return metrics == 1 ? 1 : 3;
    case EvaluationKind::kClassification:
    case EvaluationKind::kSimilarity:
      return 2;
    default:
      return metrics;
  }
}

Status check_settings(const Evaluation& evaluation) {
  const size_t found = evaluation.settings.size();
  const bool ok = evaluation.kind == EvaluationKind::kClassification
                      ? found == 2 && evaluation.settings[0] >= 2 && evaluation.settings[0] < 1e6
                      : evaluation.kind != EvaluationKind::kRetrieval || found > 0;
  if (ok) return {};
  return invalid_input(fmt::format("{}: expected the settings of its metrics, found {} numbers",
                                   evaluation.task, found));
}

bool is_label(double value, double labels) {
  return value >= 0 && value < labels && value == std::floor(value);
}

// Ranks from 1 of a value's drawn examples in their order, ties averaged.
std::vector<double> ranks(std::span<const double> values, std::span<const uint32_t> order,
                          std::span<const int32_t> counts) {
  std::vector<double> ranks(values.size());
  double before = 0;
  for (size_t begin = 0, end = 0; begin < order.size(); begin = end) {
    double ties = 0;
    for (; end < order.size() && values[order[end]] == values[order[begin]]; ++end) {
      ties += counts[order[end]];
    }
    for (size_t i = begin; i < end; ++i) ranks[order[i]] = before + (ties + 1) / 2;
    before += ties;
  }
  return ranks;
}

// 2 tp / (2 tp + fp + fn) of one label; 0 where it neither occurs nor is predicted.
double f1_of(double hits, double expected, double predicted) {
  return expected + predicted == 0 ? 0 : 2 * hits / (expected + predicted);
}

}  // namespace

double pearson(std::span<const double> x, std::span<const double> y,
               std::span<const int32_t> counts) {
  double n = 0, mean_x = 0, mean_y = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    n += counts[i];
    mean_x += counts[i] * x[i];
    mean_y += counts[i] * y[i];
  }
  mean_x /= n;
  mean_y /= n;
  double xx = 0, yy = 0, xy = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    xx += counts[i] * (x[i] - mean_x) * (x[i] - mean_x);
    yy += counts[i] * (y[i] - mean_y) * (y[i] - mean_y);
    xy += counts[i] * (x[i] - mean_x) * (y[i] - mean_y);
  }
  return xx > 0 && yy > 0 ? xy / std::sqrt(xx * yy) : kNone;
}

Result<MetricSet> MetricSet::of(const Evaluation& evaluation) {
  TESSERA_RETURN_IF_ERROR(check_settings(evaluation));
  MetricSet set;
  set.kind_ = evaluation.kind;
  set.settings_ = evaluation.settings;
  set.named_ = names_of(set.kind_, set.settings_);
  set.examples_ = evaluation.examples.size();
  set.width_ = width_of(set.kind_, set.named_.size());
  for (const EvaluatedExample& example : evaluation.examples) {
    bool ok = example.values.size() == set.width_;
    for (const double value : example.values) {
      ok = ok && std::isfinite(value) &&
           (set.kind_ != EvaluationKind::kClassification || is_label(value, set.settings_[0]));
    }
    if (!ok) {
      return invalid_input(fmt::format("{}: {}: expected {} values that its metrics can use",
                                       evaluation.task, example.id, set.width_));
    }
    set.values_.insert(set.values_.end(), example.values.begin(), example.values.end());
  }
  if (set.examples_ == 0) {
    return invalid_input(
        fmt::format("{}: expected at least one example, found none", evaluation.task));
  }
  if (set.kind_ != EvaluationKind::kSimilarity) return set;
  for (size_t column = 0; column < 2; ++column) {
    std::vector<uint32_t>& order = set.order_.emplace_back(set.examples_);
    std::iota(order.begin(), order.end(), 0U);
    std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
      return set.values_[2 * a + column] < set.values_[2 * b + column];
    });
  }
  return set;
}

std::vector<Metric> MetricSet::metrics() const {
  std::vector<Metric> metrics = named_;
  const std::vector<double> values = compute(std::vector<int32_t>(examples_, 1));
  for (size_t i = 0; i < metrics.size(); ++i) {
    metrics[i].value = values[i];
    metrics[i].low = metrics[i].high = kNone;
  }
  return metrics;
}

std::vector<double> MetricSet::compute(std::span<const int32_t> counts) const {
  switch (kind_) {
    case EvaluationKind::kPerplexity:
      return perplexity(counts);
    case EvaluationKind::kClassification:
      return classification(counts);
    case EvaluationKind::kSimilarity:
      return similarity(counts);
    case EvaluationKind::kDataToText:
      return data_to_text(counts);
    case EvaluationKind::kAgreement:
      return agreement(counts);
    case EvaluationKind::kRetrieval:
    case EvaluationKind::kQuestionAnswering:
      break;
  }
  return means(counts);
}

std::vector<double> MetricSet::sums(std::span<const int32_t> counts) const {
  std::vector<double> sums(width_);
  for (size_t i = 0; i < examples_; ++i) {
    if (counts[i] == 0) continue;
    for (size_t j = 0; j < width_; ++j) sums[j] += counts[i] * values_[i * width_ + j];
  }
  return sums;
}

std::vector<double> MetricSet::perplexity(std::span<const int32_t> counts) const {
  const std::vector<double> sum = sums(counts);
  return {std::exp(sum[0] / sum[1]), sum[0] / std::log(2.0) / sum[3], std::exp(sum[0] / sum[2])};
}

std::vector<double> MetricSet::classification(std::span<const int32_t> counts) const {
  const auto labels = static_cast<size_t>(settings_[0]);
  std::vector<double> expected(labels), predicted(labels), hits(labels);
  double n = 0, right = 0;
  for (size_t i = 0; i < examples_; ++i) {
    const auto truth = static_cast<size_t>(values_[2 * i]);
    const auto found = static_cast<size_t>(values_[2 * i + 1]);
    n += counts[i];
    expected[truth] += counts[i];
    predicted[found] += counts[i];
    if (truth == found) hits[truth] += counts[i];
    if (truth == found) right += counts[i];
  }
  double f1 = 0;
  if (labels == 2) {
    const auto positive = static_cast<size_t>(settings_[1] == 0 ? 0 : 1);
    f1 = f1_of(hits[positive], expected[positive], predicted[positive]);
  } else {
    for (size_t i = 0; i < labels; ++i) f1 += f1_of(hits[i], expected[i], predicted[i]);
    f1 /= static_cast<double>(labels);
  }
  // Gorodkin 2004, eq. 8; 0 where one side has one label only.
  double both = 0, squares_expected = 0, squares_predicted = 0;
  for (size_t i = 0; i < labels; ++i) {
    both += expected[i] * predicted[i];
    squares_expected += expected[i] * expected[i];
    squares_predicted += predicted[i] * predicted[i];
  }
  const double spread = (n * n - squares_expected) * (n * n - squares_predicted);
  return {right / n, f1, spread > 0 ? (right * n - both) / std::sqrt(spread) : 0};
}

std::vector<double> MetricSet::similarity(std::span<const int32_t> counts) const {
  std::vector<double> x, y;
  for (size_t i = 0; i < examples_; ++i) {
    x.push_back(values_[2 * i]);
    y.push_back(values_[2 * i + 1]);
  }
  const std::vector<double> x_ranks = ranks(x, order_[0], counts);
  const std::vector<double> y_ranks = ranks(y, order_[1], counts);
  return {tessera::pearson(x_ranks, y_ranks, counts), tessera::pearson(x, y, counts)};
}

std::vector<double> MetricSet::means(std::span<const int32_t> counts) const {
  const double n = std::accumulate(counts.begin(), counts.end(), 0.0);
  // Percent, as SQuAD's script gives them.
  const double unit = kind_ == EvaluationKind::kQuestionAnswering ? 100 : 1;
  std::vector<double> means = sums(counts);
  for (double& mean : means) mean *= unit / n;
  return means;
}

std::vector<double> MetricSet::data_to_text(std::span<const int32_t> counts) const {
  const TextScore score(sums(counts));
  return {score.bleu(), score.nist()};
}

std::vector<double> MetricSet::agreement(std::span<const int32_t> counts) const {
  if (width_ == 1) return means(counts);
  const std::vector<double> sum = sums(counts);
  return {sum[0] / sum[2], sum[1] / sum[2]};
}

void put_first(std::string_view name, std::vector<Metric>* metrics) {
  const auto found = std::find_if(metrics->begin(), metrics->end(),
                                  [&](const Metric& metric) { return metric.name == name; });
  if (found != metrics->end()) std::rotate(metrics->begin(), found, found + 1);
}

}  // namespace tessera
