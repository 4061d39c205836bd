#include <fmt/format.h>

#include <charconv>
#include <cmath>

#include "evaluate/run.h"

namespace tessera::evaluation {
namespace {

Result<double> parse_score(const DataRow& row, const std::string& text) {
  double score = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), score);
  if (error == std::errc() && end == text.data() + text.size() && std::isfinite(score)) {
    return score;
  }
  return invalid_input(
      fmt::format("{}: expected a number as score, found \"{}\"", row.place, text));
}

// Two values at least, or no correlation exists.
Status check_spread(const Run& run) {
  for (const size_t column : {0, 1}) {
    bool differ = false;
    for (const EvaluatedExample& example : run.result.examples) {
      differ = differ || example.values[column] != run.result.examples[0].values[column];
    }
    if (!differ) {
      return invalid_input(fmt::format("{}: expected {} that differ, found one value only",
                                       fmt::join(run.task.data.paths, ", "),
                                       column == 0 ? "similarities" : "scores"));
    }
  }
  return {};
}

}  // namespace

Status run_similarity(Run& run, Model& model) {
  const DataColumns& names = run.task.data.columns;
  if (names.pair.empty()) {
    return invalid_input("expected the column of the second text, found none");
  }
  TESSERA_ASSIGN_OR_RETURN(const std::vector<DataRow> found,
                           read_rows(run, run.task.data, {{names.text, names.pair, names.score}},
                                     RowLimit::kMaxExamples));
  std::vector<DataRow> rows;
  std::vector<double> scores;
  for (const DataRow& row : found) {
    const Result<double> score = parse_score(row, row.fields[2]);
    if (!score.ok()) {
      TESSERA_RETURN_IF_ERROR(run.bad(score.status().message()));
      continue;
    }
    rows.push_back(row);
    scores.push_back(*score);
  }
  TESSERA_ASSIGN_OR_RETURN(const RowEmbeddings embedded, embed_rows(run, model, rows, 2));
  for (size_t i = 0; i < embedded.rows.size(); ++i) {
    const size_t row = embedded.rows[i];
    const float* const first = embedded.vectors.data() + 2 * i * embedded.width;
    const double similarity = cosine(first, first + embedded.width, embedded.width);
    run.result.examples.push_back({.id = rows[row].place,
                                   .score = similarity,
                                   .output = fmt::format("{:.6f}", similarity),
                                   .expected = rows[row].fields[2],
                                   .values = {similarity, scores[row]}});
  }
  run.result.method = "cosine of embeddings";
  if (run.result.examples.empty()) {
    return invalid_input("expected at least one example that can be used, found none");
  }
  return check_spread(run);
}

}  // namespace tessera::evaluation
