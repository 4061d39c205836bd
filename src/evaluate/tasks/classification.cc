#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>
#include <utility>

#include "evaluate/logistic.h"
#include "evaluate/run.h"
#include "runtime/model_state.h"

namespace tessera::evaluation {
namespace {

struct LabelledData {
  std::vector<DataRow> rows;  // fields: text, perhaps pair, label
  std::vector<int32_t> expected;
  size_t texts = 1;  // of a row
};

Result<std::vector<DataRow>> read_labelled(Run& run, const DataFile& file, RowLimit limit) {
  const DataColumns& names = run.task.data.columns;
  std::vector<std::string> columns{names.text};
  if (!names.pair.empty()) columns.push_back(names.pair);
  columns.push_back(names.label);
  return read_rows(run, file, {std::move(columns)}, limit);
}

// Labels as the data spells them, with what they are in the order of the classifier.
using Labels = std::vector<std::string>;

std::optional<int32_t> find_label(const Labels& labels, const std::string& label) {
  const auto found = std::find(labels.begin(), labels.end(), label);
  if (found == labels.end()) return std::nullopt;
  return static_cast<int32_t>(found - labels.begin());
}

Result<LabelledData> with_labels(Run& run, std::vector<DataRow> rows, const Labels& labels) {
  LabelledData data;
  data.texts = run.task.data.columns.pair.empty() ? 1 : 2;
  for (DataRow& row : rows) {
    const std::optional<int32_t> label = find_label(labels, row.fields.back());
    if (!label) {
      TESSERA_RETURN_IF_ERROR(
          run.bad(fmt::format("{}: expected a label of {}, found \"{}\"", row.place,
                              fmt::join(labels, ", "), row.fields.back())));
      continue;
    }
    data.rows.push_back(std::move(row));
    data.expected.push_back(*label);
  }
  return data;
}

// One class makes F1 and Matthews' coefficient mean nothing.
Status check_classes(Run& run, std::span<const int32_t> expected) {
  if (expected.empty()) {
    return invalid_input("expected at least one example that can be used, found none");
  }
  const bool differ = std::any_of(expected.begin(), expected.end(),
                                  [&](int32_t label) { return label != expected[0]; });
  if (differ) return {};
  const std::string message = fmt::format(
      "{}: expected examples of several labels, found only \"{}\"",
      fmt::join(run.task.data.paths, ", "), run.result.labels[static_cast<size_t>(expected[0])]);
  if (!run.skips()) return invalid_input(message);
  run.note(message + ": f1 and matthews say nothing");
  return {};
}

void add_example(Run& run, const DataRow& row, int32_t expected, int32_t found) {
  const Labels& labels = run.result.labels;
  run.result.examples.push_back(
      {.id = row.place,
       .score = expected == found ? 1.0 : 0.0,
       .output = labels[static_cast<size_t>(found)],
       .expected = labels[static_cast<size_t>(expected)],
       .values = {static_cast<double>(expected), static_cast<double>(found)}});
}

Status set_labels(Run& run, Labels labels) {
  if (labels.size() < 2) {
    return invalid_input(
        fmt::format("expected at least two labels, found {}", fmt::join(labels, ", ")));
  }
  int32_t positive = static_cast<int32_t>(labels.size()) - 1;
  if (!run.task.positive_label.empty()) {
    const std::optional<int32_t> found = find_label(labels, run.task.positive_label);
    if (!found) {
      return invalid_input(fmt::format("expected the positive label to be one of {}, found \"{}\"",
                                       fmt::join(labels, ", "), run.task.positive_label));
    }
    positive = *found;
  }
  run.result.settings = {static_cast<double>(labels.size()), static_cast<double>(positive)};
  run.result.labels = std::move(labels);
  return {};
}

// The data's labels in the order of the head's.
Result<Labels> head_labels(const Run& run, const ModelInfo& info,
                           const std::vector<DataRow>& rows) {
  if (!run.task.labels.empty()) {
    if (run.task.labels.size() == info.labels.size()) return run.task.labels;
    return invalid_input(fmt::format("expected {} labels, as many as the model has ({}), found {}",
                                     info.labels.size(), fmt::join(info.labels, ", "),
                                     run.task.labels.size()));
  }
  const bool named = std::any_of(rows.begin(), rows.end(), [&](const DataRow& row) {
    return find_label(info.labels, row.fields.back()).has_value();
  });
  if (named) return info.labels;
  Labels numbers;
  for (size_t i = 0; i < info.labels.size(); ++i) numbers.push_back(fmt::format("{}", i));
  return numbers;
}

Status run_head(Run& run, Model& model) {
  TESSERA_ASSIGN_OR_RETURN(std::vector<DataRow> rows,
                           read_labelled(run, run.task.data, RowLimit::kMaxExamples));
  TESSERA_ASSIGN_OR_RETURN(const Labels labels, head_labels(run, model.info(), rows));
  TESSERA_RETURN_IF_ERROR(set_labels(run, labels));
  TESSERA_ASSIGN_OR_RETURN(const LabelledData data, with_labels(run, std::move(rows), labels));
  TESSERA_RETURN_IF_ERROR(check_classes(run, data.expected));
  std::vector<TaskInput> inputs;
  for (const DataRow& row : data.rows) {
    TaskInput& input = inputs.emplace_back(TaskInput{.text = row.fields[0]});
    if (data.texts == 2) input.pair = row.fields[1];
  }
  const auto found =
      classify(model, inputs, run.task_options("classifying", static_cast<int64_t>(inputs.size())));
  if (!found.ok()) return at_place(found.status(), data.rows, 1);
  for (size_t i = 0; i < data.rows.size(); ++i) {
    run.result.counts.tokens += (*found)[i].tokens;
    if ((*found)[i].truncated) {
      TESSERA_ASSIGN_OR_RETURN(const bool use, run.use_cut(data.rows[i].place));
      if (!use) continue;
    }
    add_example(run, data.rows[i], data.expected[i], (*found)[i].best);
  }
  run.result.method = "head";
  return {};
}

// What a probe sees of data.
struct Features {
  size_t width = 0;
  std::vector<float> values;  // [rows, width]
  std::vector<int32_t> expected;
  std::vector<size_t> rows;
  LabelledRows view(size_t labels) const { return {values, expected, width, labels}; }
  std::span<const float> row(size_t i) const { return std::span(values).subspan(i * width, width); }
};

Result<Features> features_of(Run& run, Model& model, const LabelledData& data) {
  TESSERA_ASSIGN_OR_RETURN(RowEmbeddings embedded, embed_rows(run, model, data.rows, data.texts));
  Features features;
  features.rows = embedded.rows;
  for (const size_t row : features.rows) features.expected.push_back(data.expected[row]);
  features.width = embedded.width * data.texts;
  features.values = std::move(embedded.vectors);
  if (data.texts == 1) return features;
  // (u, v) becomes (|u - v|, u * v), in place.
  for (size_t i = 0; i < features.rows.size(); ++i) {
    float* const u = features.values.data() + i * features.width;
    float* const v = u + embedded.width;
    for (size_t j = 0; j < embedded.width; ++j) {
      const float difference = std::abs(u[j] - v[j]), product = u[j] * v[j];
      u[j] = difference;
      v[j] = product;
    }
  }
  return features;
}

double accuracy(const LogisticRegression& probe, const Features& features) {
  int64_t right = 0;
  for (size_t i = 0; i < features.rows.size(); ++i) {
    right += probe.predict(features.row(i)) == features.expected[i] ? 1 : 0;
  }
  return static_cast<double>(right) / static_cast<double>(features.rows.size());
}

// The probe of the strength that does best on dev, of equals the least.
Result<LogisticRegression> choose(Run& run, const Features& train, const Features& dev,
                                  double* strength) {
  constexpr int kFirst = -6, kLast = 6, kStep = 2;  // powers of 2
  const size_t labels = run.result.labels.size();
  std::optional<LogisticRegression> best;
  double best_accuracy = -1;
  for (int power = kFirst; power <= kLast; power += kStep) {
    const double trial = std::ldexp(1.0, power);
    TESSERA_ASSIGN_OR_RETURN(LogisticRegression probe,
                             LogisticRegression::fit(train.view(labels), trial, [&] {
                               return run.progress("training the probe", (power - kFirst) / kStep,
                                                   (kLast - kFirst) / kStep + 1);
                             }));
    const double found = accuracy(probe, dev);
    if (found <= best_accuracy) continue;
    best_accuracy = found;
    *strength = trial;
    best = std::move(probe);
  }
  return *std::move(best);
}

// A model while nothing leaves in it.
class Dense {
 public:
  explicit Dense(ModelState& state)
      : state_(state), pruning_(std::exchange(state.pruning, PruningSchedule())) {}
  Dense(const Dense&) = delete;
  Dense& operator=(const Dense&) = delete;
  ~Dense() { state_.pruning = std::move(pruning_); }

 private:
  ModelState& state_;
  std::optional<PruningSchedule> pruning_;
};

Result<LogisticRegression> train_probe(Run& run, Model& model, std::vector<DataRow> train_rows) {
  const Labels& labels = run.result.labels;
  TESSERA_ASSIGN_OR_RETURN(const LabelledData data,
                           with_labels(run, std::move(train_rows), labels));
  TESSERA_ASSIGN_OR_RETURN(const Features train, features_of(run, model, data));
  double strength = run.task.probe.strength;
  if (strength == 0 && !run.task.dev.paths.empty()) {
    TESSERA_ASSIGN_OR_RETURN(std::vector<DataRow> dev_rows,
                             read_labelled(run, run.task.dev, RowLimit::kNone));
    TESSERA_ASSIGN_OR_RETURN(const LabelledData dev_data,
                             with_labels(run, std::move(dev_rows), labels));
    TESSERA_ASSIGN_OR_RETURN(const Features dev, features_of(run, model, dev_data));
    if (dev.rows.empty()) return invalid_input("expected examples in the dev file, found none");
    TESSERA_ASSIGN_OR_RETURN(LogisticRegression probe, choose(run, train, dev, &strength));
    run.result.method = fmt::format("linear probe, C = {} chosen on dev", strength);
    return probe;
  }
  if (strength == 0) strength = 1;
  run.result.method = fmt::format("linear probe, C = {}", strength);
  return LogisticRegression::fit(train.view(labels.size()), strength,
                                 [&] { return run.progress("training the probe", 0, 0); });
}

// As the task's probe option says.
Result<LogisticRegression> train_as_asked(Run& run, Model& model, std::vector<DataRow> train_rows) {
  ModelState& state = state_of(model);
  if (run.task.probe.model == ProbeModel::kSame || !state.pruning)
    return train_probe(run, model, std::move(train_rows));
  if (!state.pruning->planes.empty()) {
    return unsupported(
        "probe: expected a pruning schedule without key_bits for a probe of the dense model, as "
        "the cache has them whatever leaves, found some");
  }
  const Dense dense(state);
  Result<LogisticRegression> probe = train_probe(run, model, std::move(train_rows));
  run.result.method += ", trained without pruning";
  return probe;
}

Status run_probe(Run& run, Model& model) {
  if (run.task.train.paths.empty()) {
    return invalid_input(
        fmt::format("expected a file to train a probe on, since {} has no head that classifies "
                    "texts, found none",
                    model.info().directory));
  }
  TESSERA_ASSIGN_OR_RETURN(std::vector<DataRow> train_rows,
                           read_labelled(run, run.task.train, RowLimit::kNone));
  Labels labels = run.task.labels;
  if (labels.empty()) {
    std::set<std::string> found;
    for (const DataRow& row : train_rows) found.insert(row.fields.back());
    labels.assign(found.begin(), found.end());
  }
  TESSERA_RETURN_IF_ERROR(set_labels(run, std::move(labels)));
  // Before the training, which takes the time.
  TESSERA_ASSIGN_OR_RETURN(std::vector<DataRow> rows,
                           read_labelled(run, run.task.data, RowLimit::kMaxExamples));
  TESSERA_ASSIGN_OR_RETURN(const LabelledData data,
                           with_labels(run, std::move(rows), run.result.labels));
  TESSERA_RETURN_IF_ERROR(check_classes(run, data.expected));
  TESSERA_ASSIGN_OR_RETURN(const LogisticRegression probe,
                           train_as_asked(run, model, std::move(train_rows)));
  TESSERA_ASSIGN_OR_RETURN(const Features features, features_of(run, model, data));
  for (size_t i = 0; i < features.rows.size(); ++i) {
    add_example(run, data.rows[features.rows[i]], features.expected[i],
                probe.predict(features.row(i)));
  }
  return {};
}

}  // namespace

Status run_classification(Run& run, Model& model) {
  if (model.info().head == Head::kSequenceClassification) return run_head(run, model);
  return run_probe(run, model);
}

}  // namespace tessera::evaluation
