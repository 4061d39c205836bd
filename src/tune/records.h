#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "tessera/tune.h"

namespace tessera::training {

struct Bytes {
  size_t begin = 0, end = 0;
};

// A row of labelled data, as text.
struct Record {
  std::string place;                // "FILE, line 3", for messages
  std::string text;                 // a question of kQuestionAnswering, a prompt of kDataToText
  std::optional<std::string> pair;  // the second text: a context, a completion
  std::string label;                // of kClassification
  std::optional<double> value;      // of kRegression and kEmbeddings
  std::vector<Bytes> words;         // of kTokenClassification: in the text, in their order
  std::vector<std::string> word_labels;
  std::optional<Bytes> answer;  // in the pair; none: it has none
};

struct Records {
  std::vector<Record> rows;         // at least one
  std::vector<std::string> labels;  // as published data spells the classes; empty: not known
};

// Reads files of a task with labels: columns of TSV and CSV with a header, keys of JSON lines,
// SQuAD's JSON, and the published files that `tessera eval` knows by their names. All texts are
// UTF-8. kInvalidInput names the file and the line of what is wrong.
Result<Records> read_records(TuneTask task, const std::vector<std::string>& paths);

}  // namespace tessera::training
