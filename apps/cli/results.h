#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cli/partial_file.h"
#include "cli/records.h"
#include "cli/terminal.h"

namespace tessera::cli {

enum class ResultFormat { kLines, kJson, kCsv, kTsv, kNpy, kSafetensors };

// What a verb's results can be.
enum class ResultKind { kTexts, kVectors };

struct ResultOptions {
  std::optional<std::string> file;  // else standard output
  bool json = false;                // lines of JSON whatever the file is called
  ResultKind kind = ResultKind::kTexts;
  std::vector<std::string> keys;  // of the verb's JSON objects

  // From the records' options.
  std::vector<std::string> kept;  // columns carried over
  bool keeps_always = false;      // they were asked for
};

// By the ending of the file, else lines. A usage error where the verb cannot write it.
ResultFormat format_of(const ResultOptions& options);

// Where the results of records go: standard output, or a file that is put in place when it is
// whole. A row for each record, in order; columns that are carried over stand before what the verb
// says: behind tabs in lines, as members of JSON objects, as columns of CSV and TSV, and in a file
// of their own beside matrices (x.ids.txt beside x.npy). A record that was skipped has an object
// with its "line" and "error", an empty row, or one of NaN.
class Results {
 public:
  explicit Results(ResultOptions options);

  Status open();
  // A line of text or of JSON, with its end.
  Status add(const Record& record, std::string_view line);
  // For formats of vectors (writes_vectors); all of one length.
  Status add(const Record& record, std::span<const float> vector);
  Status add_skipped(const Record& record);
  // Lines that belong to no record.
  Status add_text(std::string_view text);
  // Makes what was added readable for others.
  Status flush();
  // After all of them: puts a file in place.
  Status finish();
  // Instead: leaves what was added. Where it is, and empty if nothing is.
  std::string leave();

  bool writes_vectors() const { return format_ > ResultFormat::kJson; }
  bool writes_json() const { return format_ == ResultFormat::kJson; }
  bool is_shown() const { return file_ == nullptr && is_terminal(stdout); }
  // Values that are carried over, between tabs; empty where there are none.
  std::string kept_text(const Record& record) const;
  int64_t rows() const { return rows_; }

 private:
  bool is_matrix() const { return format_ >= ResultFormat::kNpy; }
  char separator() const { return format_ == ResultFormat::kCsv ? ',' : '\t'; }
  Status put(std::string_view text);
  std::string kept_members(const Record& record) const;
  std::string kept_cells(const Record& record) const;
  Status begin(const Record& record, size_t width);
  Status add_row(const Record& record, std::span<const float> vector);
  std::string head() const;

  ResultOptions options_;
  ResultFormat format_;
  Output out_;
  std::unique_ptr<PartialFile> file_;  // null: standard output
  std::unique_ptr<PartialFile> ids_;   // of the columns carried over, beside a matrix
  int64_t rows_ = 0;
  std::optional<size_t> width_;  // of vectors, known from the first one
  bool has_kept_ = false;        // the table has columns that are carried over
  std::vector<Record> waiting_;  // skipped before the first vector
  std::string text_;
};

// "interrupted after 5 of 9 texts"; without a total where it is not known.
std::string interrupted_after(int64_t done, const std::optional<int64_t>& total,
                              std::string_view unit);
// The failure of a run that skipped whatever it was given.
Status all_were_skipped(int64_t count, std::string_view unit);

}  // namespace tessera::cli
