#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cli/options.h"
#include "tessera/chat.h"
#include "tessera/records.h"
#include "tessera/tasks.h"

namespace tessera::cli {

// One input of a verb.
struct Record {
  std::optional<std::string> text;
  std::optional<std::string> pair;      // the text that belongs to it
  std::optional<TokenSequence> tokens;  // where ids were given
  std::vector<ChatMessage> messages;    // a conversation instead of texts
  std::vector<RowField> kept;           // what the results carry over: one for each of kept_names
  int64_t number = 0;                   // among all, from 1
  int64_t line = 0;   // where it begins in its file, or its place on the command line; from 1
  std::string error;  // where it could not be read: why, with its place; nothing else is there then
};

// Ids, where there are some, and otherwise the texts.
TaskInput as_input(const Record& record);
std::vector<TaskInput> as_inputs(std::span<const Record> records);

enum class RecordFormat {
  kAuto,       // by the file's ending, else RecordOptions::usual
  kLines,      // a text a line
  kCsv,        // RFC 4180
  kTsv,        // fields between tabs, no quotes
  kJsonLines,  // an object a line
  kIds,        // "5,9,3" or "[5, 9, 3]" a line
};

// What a verb can use.
enum class RecordContent { kTextOrIds, kText, kIds };
enum class RecordPair { kNone, kOptional, kRequired };

// What a record that is wrong does to the others.
enum class OnError { kStop, kSkip };

// What a verb says of its inputs, and what the user chose.
struct RecordOptions {
  // The verb's part, to be set before add_record_options.
  RecordContent content = RecordContent::kTextOrIds;
  RecordPair pairs = RecordPair::kNone;
  RecordFormat usual = RecordFormat::kLines;
  const char* pair_options = "--pair";  // as messages call what gives second texts
  // Keys of JSON lines, of which --column and --pair-column replace the first two.
  std::string text_key = "text", pair_key = "pair";
  std::string ids_key = "ids", type_ids_key = "type_ids";
  std::string messages_key;  // of [{"role", "content"}]; empty: none

  // The user's part. Texts, ids or a file; none of them: standard input.
  std::vector<std::string> texts;
  std::vector<std::string> text_pairs;  // none, or as many as texts
  std::vector<std::vector<int32_t>> ids;
  std::optional<std::string> file;  // "-": standard input
  RecordFormat format = RecordFormat::kAuto;
  // Name or number (from 1) of CSV's and TSV's columns; by default the first and, where a pair is
  // required, the second. A name needs a row of names.
  std::optional<std::string> column, pair_column;
  bool header = false;  // the first row of CSV and TSV holds names
  // Columns or keys that results carry over; none: the one called "id", where there is one.
  std::vector<std::string> keep_columns;
  OnError on_error = OnError::kStop;
};

// The format in force.
RecordFormat format_of(const RecordOptions& options);
// What Record::kept holds.
std::vector<std::string> kept_names(const RecordOptions& options);

// Declares --file, --format, --column, --pair-column, --header, --keep-columns, --on-error, --ids
// and --pair, as far as `options` says that the verb can use them. The texts of the command line
// come from parse_records.
void add_record_options(Parser& parser, RecordOptions* options);

// Only those that say how a file is read, and the checks of them that parse_records does (it throws
// usage errors), for a verb that names its file itself.
void add_format_options(Parser& parser, RecordOptions* options);
void check_records(const RecordOptions& options);
bool has_format_options(const RecordOptions& options);  // given by the user

// parse() for verbs whose TEXT arguments are records: those behind MODEL, and behind "--" also such
// as begin with "-". Checks that what was given goes together.
std::optional<int> parse_records(Parser& parser, const Arguments& arguments,
                                 RecordOptions* options);

// How much a chunk may hold: records, and bytes of their texts.
struct ChunkLimits {
  size_t records = 8192;
  size_t bytes = size_t{1} << 20;
};

// Inputs in their order, a chunk at a time, so that an endless input needs bounded memory.
class RecordReader {
 public:
  // Needs only the file to be there. `options` is copied.
  static Result<std::unique_ptr<RecordReader>> open(const RecordOptions& options);
  virtual ~RecordReader() = default;

  // Waits for one record and takes those that can be had without waiting for more, as far as the
  // limits go; none at the end. With OnError::kSkip a record that is wrong comes with its error.
  // Else that is a status that names the line; the records before it have been given then.
  // kCancelled: interrupted while waiting.
  Result<std::vector<Record>> next(const ChunkLimits& limits);
  // Whether next would not wait.
  bool ready() { return ended_ || has_come(); }
  // How many records are left, read for that; nothing where it would take long to know.
  std::optional<int64_t> count_rest();

  // Where a record stands: "standard input, line 3", "text 3"; empty for the only one of the
  // command line.
  virtual std::string place(const Record& record) const = 0;
  // How many there are; none when that is not known beforehand.
  virtual std::optional<int64_t> total() const { return std::nullopt; }
  // What the user should know when all was read; empty: nothing.
  virtual std::string remark() const { return ""; }

 protected:
  explicit RecordReader(OnError on_error) : on_error_(on_error) {}
  // False at the end. The record has its line also where it is wrong.
  virtual Result<bool> read(Record* record) = 0;
  // Whether read would not wait.
  virtual bool has_come() = 0;
  // After an error of read: it would go on behind the record.
  virtual bool can_go_on() const = 0;

 private:
  bool may_skip(const Status& wrong) const;

  OnError on_error_;
  int64_t given_ = 0;
  Status failed_;  // found behind records that had to be given first
  bool ended_ = false;
};

}  // namespace tessera::cli
