#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "base/guarded.h"
#include "evaluate/metrics.h"
#include "io/json.h"
#include "io/json_at.h"
#include "tessera/evaluate.h"

namespace tessera {
namespace {

std::string number(double value) {
  return std::isfinite(value) ? fmt::format("{}", value) : std::string("null");
}

std::string numbers(std::span<const double> values) {
  std::string list;
  for (const double value : values) list += (list.empty() ? "" : ",") + number(value);
  return "[" + list + "]";
}

std::string texts(std::span<const std::string> values) {
  std::string list;
  for (const std::string& value : values) list += (list.empty() ? "" : ",") + to_json_string(value);
  return "[" + list + "]";
}

std::string metric_json(const Metric& metric) {
  return fmt::format(R"({{"name":{},"value":{},"low":{},"high":{},"better":"{}"}})",
                     to_json_string(metric.name), number(metric.value), number(metric.low),
                     number(metric.high), metric.better == Better::kHigher ? "higher" : "lower");
}

std::string difference_json(const MetricDifference& difference) {
  return fmt::format(
      R"({{"name":{},"value":{},"base":{},"difference":{},"low":{},"high":{},"p_value":{}}})",
      to_json_string(difference.name), number(difference.value), number(difference.base),
      number(difference.difference), number(difference.low), number(difference.high),
      number(difference.p_value));
}

std::string example_json(const EvaluatedExample& example) {
  return fmt::format(R"({{"id":{},"score":{},"output":{},"expected":{},"values":{}}})",
                     to_json_string(example.id), number(example.score),
                     to_json_string(example.output), to_json_string(example.expected),
                     numbers(example.values));
}

template <typename Values, typename Write>
std::string list_json(const Values& values, Write write) {
  std::string list;
  for (const auto& value : values) list += (list.empty() ? "" : ",") + write(value);
  return "[" + list + "]";
}

std::string counts_json(const EvaluationCounts& counts) {
  return fmt::format(
      R"({{"examples":{},"skipped":{},"cut":{},"tokens":{},"scored_tokens":{},"words":{},"bytes":{}}})",
      counts.examples, counts.skipped, counts.cut, counts.tokens, counts.scored_tokens,
      counts.words, counts.bytes);
}

// Absent is nothing; null is NaN.
Result<double> read_number(const JsonAt& object, const char* key) {
  TESSERA_ASSIGN_OR_RETURN(const JsonAt value, object.need(key));
  if (value.value().is_null()) return std::numeric_limits<double>::quiet_NaN();
  constexpr double kMost = std::numeric_limits<double>::max();
  return value.number(-kMost, kMost);
}

Result<std::vector<JsonAt>> read_list(const JsonAt& object, const char* key) {
  TESSERA_ASSIGN_OR_RETURN(const JsonAt list, object.need(key));
  return list.list(0, SIZE_MAX);
}

Result<std::vector<double>> read_numbers(const JsonAt& object, const char* key) {
  TESSERA_ASSIGN_OR_RETURN(const std::vector<JsonAt> list, read_list(object, key));
  std::vector<double> values;
  for (const JsonAt& each : list) {
    constexpr double kMost = std::numeric_limits<double>::max();
    TESSERA_ASSIGN_OR_RETURN(const double value, each.number(-kMost, kMost));
    values.push_back(value);
  }
  return values;
}

Result<std::vector<std::string>> read_texts(const JsonAt& object, const char* key) {
  TESSERA_ASSIGN_OR_RETURN(const std::vector<JsonAt> list, read_list(object, key));
  std::vector<std::string> values;
  for (const JsonAt& each : list) {
    TESSERA_ASSIGN_OR_RETURN(std::string value, each.text());
    values.push_back(std::move(value));
  }
  return values;
}

Result<Metric> read_metric(const JsonAt& object) {
  Metric metric;
  TESSERA_ASSIGN_OR_RETURN(metric.name, object.text_or("name", ""));
  TESSERA_ASSIGN_OR_RETURN(metric.value, read_number(object, "value"));
  TESSERA_ASSIGN_OR_RETURN(metric.low, read_number(object, "low"));
  TESSERA_ASSIGN_OR_RETURN(metric.high, read_number(object, "high"));
  TESSERA_ASSIGN_OR_RETURN(const JsonAt better, object.need("better"));
  TESSERA_ASSIGN_OR_RETURN(metric.better, better.one_of<Better>());
  return metric;
}

Result<EvaluatedExample> read_example(const JsonAt& object) {
  EvaluatedExample example;
  TESSERA_ASSIGN_OR_RETURN(example.id, object.text_or("id", ""));
  TESSERA_ASSIGN_OR_RETURN(example.score, read_number(object, "score"));
  TESSERA_ASSIGN_OR_RETURN(example.output, object.text_or("output", ""));
  TESSERA_ASSIGN_OR_RETURN(example.expected, object.text_or("expected", ""));
  TESSERA_ASSIGN_OR_RETURN(example.values, read_numbers(object, "values"));
  return example;
}

Result<EvaluationCounts> read_counts(const JsonAt& object) {
  EvaluationCounts counts;
  const std::array fields = {std::pair{"examples", &counts.examples},
                             std::pair{"skipped", &counts.skipped},
                             std::pair{"cut", &counts.cut},
                             std::pair{"tokens", &counts.tokens},
                             std::pair{"scored_tokens", &counts.scored_tokens},
                             std::pair{"words", &counts.words},
                             std::pair{"bytes", &counts.bytes}};
  for (const auto& [key, target] : fields) {
    TESSERA_ASSIGN_OR_RETURN(*target, object.integer_or(key, 0, 0, INT64_MAX));
  }
  return counts;
}

Status read_parts(const JsonAt& root, Evaluation* evaluation) {
  TESSERA_ASSIGN_OR_RETURN(evaluation->labels, read_texts(root, "labels"));
  TESSERA_ASSIGN_OR_RETURN(evaluation->settings, read_numbers(root, "settings"));
  TESSERA_ASSIGN_OR_RETURN(evaluation->notes, read_texts(root, "notes"));
  TESSERA_ASSIGN_OR_RETURN(const std::vector<JsonAt> metrics, read_list(root, "metrics"));
  for (const JsonAt& each : metrics) {
    TESSERA_ASSIGN_OR_RETURN(Metric metric, read_metric(each));
    evaluation->metrics.push_back(std::move(metric));
  }
  TESSERA_ASSIGN_OR_RETURN(const JsonAt counts, root.need("counts"));
  TESSERA_ASSIGN_OR_RETURN(evaluation->counts, read_counts(counts));
  TESSERA_ASSIGN_OR_RETURN(const std::vector<JsonAt> examples, read_list(root, "examples"));
  for (const JsonAt& each : examples) {
    TESSERA_ASSIGN_OR_RETURN(EvaluatedExample example, read_example(each));
    evaluation->examples.push_back(std::move(example));
  }
  return {};
}

Result<Evaluation> read_evaluation(std::string_view text, const std::string& source) {
  TESSERA_ASSIGN_OR_RETURN(const Json json, parse_json(text, source));
  const JsonAt root(json, source);
  Evaluation evaluation;
  TESSERA_ASSIGN_OR_RETURN(const JsonAt kind, root.need("kind"));
  TESSERA_ASSIGN_OR_RETURN(evaluation.kind, kind.one_of<EvaluationKind>());
  TESSERA_ASSIGN_OR_RETURN(evaluation.task, root.text_or("task", ""));
  TESSERA_ASSIGN_OR_RETURN(evaluation.split, root.text_or("split", ""));
  TESSERA_ASSIGN_OR_RETURN(evaluation.model, root.text_or("model", ""));
  TESSERA_ASSIGN_OR_RETURN(evaluation.method, root.text_or("method", ""));
  TESSERA_ASSIGN_OR_RETURN(evaluation.seconds, read_number(root, "seconds"));
  TESSERA_RETURN_IF_ERROR(read_parts(root, &evaluation));
  // Whoever compares it finds values that fit.
  TESSERA_RETURN_IF_ERROR(MetricSet::of(evaluation).status());
  return evaluation;
}

}  // namespace

std::string evaluation_json(const Evaluation& evaluation,
                            std::span<const MetricDifference> differences, WithExamples examples) {
  std::string json = fmt::format(
      R"({{"task":{},"split":{},"kind":"{}","model":{},"method":{},"metrics":{},"counts":{},"seconds":{})",
      to_json_string(evaluation.task), to_json_string(evaluation.split), name(evaluation.kind),
      to_json_string(evaluation.model), to_json_string(evaluation.method),
      list_json(evaluation.metrics, metric_json), counts_json(evaluation.counts),
      number(evaluation.seconds));
  if (!differences.empty()) json += ",\"differences\":" + list_json(differences, difference_json);
  json += fmt::format(R"(,"labels":{},"settings":{},"notes":{})", texts(evaluation.labels),
                      numbers(evaluation.settings), texts(evaluation.notes));
  if (examples == WithExamples::kYes) {
    json += ",\"examples\":" + list_json(evaluation.examples, example_json);
  }
  return json + "}";
}

Result<Evaluation> evaluation_from_json(std::string_view json, const std::string& source) {
  return guarded(source, [&] { return read_evaluation(json, source); });
}

}  // namespace tessera
