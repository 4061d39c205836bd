#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "tessera/evaluate.h"
#include "tessera/tasks.h"

namespace tessera::evaluation {

// One evaluation at work: what was asked for, what has been found so far, and what is done about
// bad data.
struct Run {
  const EvaluationTask& task;
  const EvaluateOptions& options;
  Evaluation& result;

  // kCancelled when the caller wants no more.
  Status progress(const std::string& what, int64_t done, int64_t total) const;
  // Options for functions that report how many of `total` are done.
  TaskOptions task_options(const std::string& what, int64_t total) const;

  void note(std::string message);
  // An error, or a note and one more skipped: `message` names file and line.
  Status bad(const std::string& message);
  bool skips() const { return task.on_bad_data == OnBadData::kSkip; }
  // A text of the example at `place` was cut: an example that is noted, or bad data. True: the
  // example is to be used.
  Result<bool> use_cut(const std::string& place);
  // kUnsupported unless there is a model.
  Result<Model*> need(const std::shared_ptr<Model>& model) const;
};

// One function a kind. Each fills in method, settings, labels, counts (but skipped) and examples.
Status run_perplexity(Run& run, Model& model);
Status run_classification(Run& run, Model& model);
Status run_similarity(Run& run, Model& model);
Status run_retrieval(Run& run, Model& model);
Status run_questions(Run& run, Model& model);
Status run_data_to_text(Run& run, const std::shared_ptr<Model>& model);
Status run_agreement(Run& run, Model& model);

// A row of the user's data.
struct DataRow {
  std::string place;                // "FILE, line 3"
  std::vector<std::string> fields;  // of the columns asked for, none of them missing
};
// Whether a field may hold nothing but spaces.
enum class Blank { kBad, kTaken };
struct Columns {
  std::vector<std::string> names;
  Blank blank = Blank::kBad;
};
// The rows of the files, at most max_examples where there is such a limit. Bad ones end it or are
// left out; a file set without any row is an error either way.
enum class RowLimit { kMaxExamples, kNone };
Result<std::vector<DataRow>> read_rows(Run& run, const DataFile& file, const Columns& columns,
                                       RowLimit limit);
// All of a text file; lines that are not UTF-8 are bad data. Never empty.
Result<std::string> read_text(Run& run, const DataFile& file);
bool is_blank(std::string_view text);
int64_t count_words(std::string_view text);  // between ASCII white space

// "input 3: message" of a task's function as "PLACE: message"; texts_each: how many inputs an
// example has.
Status at_place(const Status& status, const std::vector<DataRow>& rows, size_t texts_each);

// Embeddings of rows' texts, L2-normalised f64 products left to the caller.
struct RowEmbeddings {
  size_t width = 0;
  std::vector<float> vectors;  // [rows, texts_each, width]
  std::vector<size_t> rows;    // indices of those in use, in their order
};
// The first texts_each fields of each row. Counts tokens and cut texts.
Result<RowEmbeddings> embed_rows(Run& run, Model& model, const std::vector<DataRow>& rows,
                                 size_t texts_each);

double dot(const float* a, const float* b, size_t width);
double cosine(const float* a, const float* b, size_t width);  // 0 where one has no length

}  // namespace tessera::evaluation
