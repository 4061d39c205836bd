#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tessera/export.h"
#include "tessera/names.h"
#include "tessera/status.h"

// Reading many texts from files: lines, and rows of CSV, TSV and JSON lines.
namespace tessera {

// A longer line (row of CSV) is refused: no tokenizer takes more than 256 MiB of text.
inline constexpr size_t kLineLimitBytes = size_t{1} << 28;

// kInvalidInput that names the first byte that belongs to no character.
TESSERA_API Status check_utf8(std::string_view text);

// Asked about five times a second while a reader waits for input; false: stop with kCancelled.
using KeepWaiting = std::function<bool()>;

// The lines of a file or of standard input, one at a time, in bounded memory.
class TESSERA_API LineReader {
 public:
  // "-" is standard input.
  static Result<std::unique_ptr<LineReader>> open(const std::string& path,
                                                  KeepWaiting keep_waiting = {});
  ~LineReader();
  LineReader(const LineReader&) = delete;
  LineReader& operator=(const LineReader&) = delete;

  // The next line without its LF, and the first one without a byte order mark; a last line needs no
  // LF. False at the end.
  Result<bool> next(std::string* line);
  // Whether next would give a line, the end or an error without waiting for input. Takes in what
  // has come of the line.
  bool ready();
  int64_t line() const { return line_; }  // number of the line that next gave last, from 1
  const std::string& name() const { return name_; }
  // kInvalidInput, "FILE, line 3: message"
  Status error(int64_t line, const std::string& message) const;

 private:
  LineReader(int file, std::string name, KeepWaiting keep_waiting);
  bool gather();
  void fill();

  int file_;
  std::string name_;
  KeepWaiting keep_waiting_;
  int64_t line_ = 0;
  std::unique_ptr<char[]> buffer_;
  size_t begin_ = 0, end_ = 0;  // what of the buffer is not yet in part_
  std::string part_;            // of the next line
  bool whole_ = false;          // part_ is all of it
  bool ended_ = false;          // nothing will come any more
  Status failed_;               // nothing more can be read
};

enum class DataFormat {
  kAuto,       // by the file's ending: .csv, .jsonl, .ndjson or .json; else TSV
  kCsv,        // RFC 4180
  kTsv,        // fields between tabs, no quotes
  kJsonLines,  // an object a line
};
constexpr auto names_of(DataFormat) { return enum_names("auto", "csv", "tsv", "jsonl"); }
TESSERA_API DataFormat format_of_file(const std::string& path, DataFormat format);

// Whether the first row of CSV and TSV holds names. kAuto: where a column is called by a name.
enum class HeaderRow { kAuto, kNone, kFirstRow };
constexpr auto names_of(HeaderRow) { return enum_names("auto", "none", "first_row"); }

struct RowOptions {
  DataFormat format = DataFormat::kAuto;
  HeaderRow header = HeaderRow::kAuto;
  std::vector<std::string> columns = {};  // names, numbers from 1, or keys of JSON lines
  KeepWaiting keep_waiting = {};
  // Names or keys; their fields follow those of `columns`, absent where the file has none. They do
  // not make the first row one of names.
  std::vector<std::string> optional_columns = {};
};

struct RowField {
  enum class Kind {
    kAbsent,  // JSON lines: no such key, or null; an optional column that is not there
    kText,
    kJson,  // JSON lines: a number, array, object, true or false; text is its JSON
  } kind = Kind::kAbsent;
  std::string text = {};
};
constexpr auto names_of(RowField::Kind) { return enum_names("absent", "text", "json"); }
struct Row {
  // One for each of RowOptions::columns and optional_columns.
  std::vector<RowField> fields = {};
  int64_t line = 0;  // where it begins, from 1
};

// The rows of a file or of standard input, one at a time. Blank lines are none.
class TESSERA_API RowReader {
 public:
  static Result<std::unique_ptr<RowReader>> open(const std::string& path,
                                                 const RowOptions& options);
  virtual ~RowReader() = default;

  // False at the end. kInvalidInput names file and line of a row that is wrong, or has too few
  // columns, or bytes that are not UTF-8 in those asked for.
  virtual Result<bool> next(Row* row) = 0;
  // Whether next would give a row, the end or an error without waiting for input.
  virtual bool ready() = 0;
  // After kInvalidInput: next() would go on behind that row. Not so where columns are not found.
  virtual bool can_go_on() const = 0;
  virtual const std::string& name() const = 0;  // of the file, for messages
};

}  // namespace tessera
