#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <chrono>
#include <iterator>
#include <nlohmann/json.hpp>
#include <utility>

#include "cli/inputs.h"
#include "cli/records.h"
#include "cli/terminal.h"
#include "tessera/records.h"

namespace tessera::cli {
namespace {

using Json = nlohmann::json;

size_t bytes_of(const Record& record) {
  size_t bytes = record.text.value_or("").size() + record.pair.value_or("").size();
  if (record.tokens) bytes += record.tokens->ids.size() * sizeof(int32_t);
  for (const ChatMessage& message : record.messages) bytes += message.content.size();
  return bytes;
}

// Texts or ids of the command line.
class ArgumentReader : public RecordReader {
 public:
  explicit ArgumentReader(const RecordOptions& options)
      : RecordReader(options.on_error), options_(options) {}

  std::string place(const Record& record) const override {
    if (*total() == 1) return "";
    return fmt::format("{} {}", options_.ids.empty() ? "text" : "--ids", record.line);
  }
  std::optional<int64_t> total() const override {
    return static_cast<int64_t>(std::max(options_.texts.size(), options_.ids.size()));
  }

 protected:
  Result<bool> read(Record* record) override {
    const size_t i = next_++;
    if (i >= static_cast<size_t>(*total())) return false;
    record->line = static_cast<int64_t>(i) + 1;
    if (!options_.ids.empty()) {
      record->tokens = TokenSequence{options_.ids[i], {}};
      return true;
    }
    record->text = options_.texts[i];
    if (!options_.text_pairs.empty()) record->pair = options_.text_pairs[i];
    for (const std::string& text : {*record->text, record->pair.value_or("")}) {
      if (Status status = check_utf8(text); !status.ok()) {
        const std::string where = place(*record);
        return invalid_input(where.empty() ? status.message()
                                           : fmt::format("{}: {}", where, status.message()));
      }
    }
    return true;
  }
  bool has_come() override { return true; }
  bool can_go_on() const override { return true; }

 private:
  RecordOptions options_;
  size_t next_ = 0;
};

// What first cells of tables are called, in lower case, and hardly ever say.
constexpr std::array kColumnNames = {
    "id",        "idx",      "index",     "text",    "texts",       "sentence", "sentences",
    "sentence1", "label",    "labels",    "title",   "name",        "question", "questions",
    "query",     "document", "documents", "context", "content",     "body",     "review",
    "reviews",   "premise",  "prompt",    "input",   "abstract",    "category", "score",
    "date",      "author",   "message",   "comment", "description", "key",      "pair"};

bool is_column_name(std::string cell) {
  for (char& c : cell) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return std::find(kColumnNames.begin(), kColumnNames.end(), cell) != kColumnNames.end();
}

bool wait_on() { return !Interrupt::requested(); }

// Records that are lines.
class FileReader : public RecordReader {
 public:
  FileReader(const RecordOptions& options, std::unique_ptr<LineReader> lines)
      : RecordReader(options.on_error), lines_(std::move(lines)) {}

  std::string place(const Record& record) const override {
    return fmt::format("{}, line {}", lines_->name(), record.line);
  }

 protected:
  // What a line without its end says.
  virtual Status take(std::string& line, Record* record) = 0;
  virtual bool is_record(const std::string& line) const = 0;

  Result<bool> read(Record* record) override {
    while (!has_line_) {
      Result<bool> more = next_line();
      if (!more.ok() || !*more) return more;
    }
    has_line_ = false;
    record->line = lines_->line();
    if (Status status = take(line_, record); !status.ok()) {
      return lines_->error(record->line, status.message());
    }
    return true;
  }
  bool has_come() override {
    while (!has_line_ && lines_->ready()) {
      const Result<bool> more = next_line();
      if (!more.ok() || !*more) return true;  // read says so again
    }
    return has_line_;
  }
  bool can_go_on() const override { return !broken_; }

 private:
  Result<bool> next_line() {
    Result<bool> more = lines_->next(&line_);
    broken_ = !more.ok();
    if (!more.ok() || !*more) return more;
    if (line_.ends_with('\r')) line_.pop_back();
    has_line_ = is_record(line_);
    return true;
  }

  std::unique_ptr<LineReader> lines_;
  std::string line_;
  bool has_line_ = false;  // line_ is the next record
  bool broken_ = false;
};

class TextLineReader : public FileReader {
 public:
  using FileReader::FileReader;

 protected:
  bool is_record(const std::string&) const override { return true; }
  Status take(std::string& line, Record* record) override {
    if (Status status = check_utf8(line); !status.ok()) return status;
    record->text = std::move(line);
    return {};
  }
};

class IdLineReader : public FileReader {
 public:
  using FileReader::FileReader;

 protected:
  bool is_record(const std::string& line) const override {
    return line.find_first_not_of(" \t") != std::string::npos;
  }
  Status take(std::string& line, Record* record) override {
    Result<std::vector<int32_t>> ids = parse_ids(line);
    if (!ids.ok()) return ids.status();
    record->tokens = TokenSequence{std::move(ids).value(), {}};
    return {};
  }
};

// Records that are rows of a table or objects of JSON lines.
class RowRecordReader : public RecordReader {
 public:
  static Result<std::unique_ptr<RecordReader>> open(const RecordOptions& options,
                                                    RowOptions row_options) {
    row_options.keep_waiting = wait_on;
    auto& kept = options.keep_columns.empty() ? row_options.optional_columns : row_options.columns;
    const size_t own = row_options.columns.size();
    for (const std::string& name : kept_names(options)) kept.push_back(name);
    Result<std::unique_ptr<RowReader>> rows =
        RowReader::open(options.file.value_or("-"), row_options);
    if (!rows.ok()) return rows.status();
    return std::unique_ptr<RecordReader>(new RowRecordReader(
        options,
        {row_options.columns.begin(), row_options.columns.begin() + static_cast<ptrdiff_t>(own)},
        std::move(rows).value()));
  }

  std::string place(const Record& record) const override {
    return fmt::format("{}, line {}", rows_->name(), record.line);
  }
  std::string remark() const override {
    for (size_t i = 0; started_ && i < kept_is_there_.size(); ++i) {
      if (kept_is_there_[i]) continue;
      return fmt::format("{}: --keep-columns names \"{}\", which no line has", rows_->name(),
                         options_.keep_columns[i]);
    }
    return "";
  }

 protected:
  Result<bool> read(Record* record) override {
    Result<bool> more = rows_->next(&row_);
    record->line = row_.line;
    if (!more.ok() || !*more) return more;
    if (!std::exchange(started_, true)) look_at_first();
    for (size_t i = 0; i < kept_is_there_.size(); ++i) {
      const RowField& field = row_.fields[keys_.size() + i];
      kept_is_there_[i] = kept_is_there_[i] || field.kind != RowField::Kind::kAbsent;
    }
    const auto kept = row_.fields.begin() + static_cast<ptrdiff_t>(keys_.size());
    record->kept.assign(std::make_move_iterator(kept), std::make_move_iterator(row_.fields.end()));
    row_.fields.resize(keys_.size());
    if (Status status = take(record); !status.ok()) {
      return invalid_input(fmt::format("{}: {}", place(*record), status.message()));
    }
    return true;
  }
  bool has_come() override { return rows_->ready(); }
  bool can_go_on() const override { return rows_->can_go_on(); }

 private:
  // keys: of the text, the pair, the ids, the type ids and the messages, as far as there are any.
  RowRecordReader(const RecordOptions& options, std::vector<std::string> keys,
                  std::unique_ptr<RowReader> rows)
      : RecordReader(options.on_error),
        options_(options),
        keys_(std::move(keys)),
        rows_(std::move(rows)),
        kept_is_there_(options.keep_columns.size()) {
    is_json_ = format_of(options) == RecordFormat::kJsonLines;
  }

  // A row of names that nobody said is one would be taken for a text.
  void look_at_first() const {
    const auto is_named = [](const std::string& column) {
      return column.find_first_not_of("0123456789") != std::string::npos;
    };
    if (is_json_ || options_.header || !options_.keep_columns.empty() ||
        std::any_of(keys_.begin(), keys_.end(), is_named) || !is_column_name(row_.fields[0].text)) {
      return;
    }
    warn(fmt::format(
        "{}: the first row, \"{}\", looks like names of columns and is taken for a text: choose "
        "one with --column NAME, or add --header",
        rows_->name(), row_.fields[0].text));
  }

  Status take(Record* record) {
    if (Status status = take_text(0, &record->text); !status.ok()) return status;
    if (Status status = take_text(1, &record->pair); !status.ok()) return status;
    if (!is_json_) return {};
    if (Status status = take_messages(&record->messages); !status.ok()) return status;
    std::optional<std::vector<int32_t>> ids, type_ids;
    if (Status status = take_ids(2, &ids); !status.ok()) return status;
    if (Status status = take_ids(3, &type_ids); !status.ok()) return status;
    if (ids) {
      record->tokens =
          TokenSequence{std::move(*ids), std::move(type_ids).value_or(std::vector<int32_t>())};
    }
    return check(*record);
  }

  Status check(const Record& record) const {
    const bool wants_text = options_.content != RecordContent::kIds;
    const bool wants_ids = options_.content != RecordContent::kText;
    if ((wants_ids && record.tokens) || !record.messages.empty()) return {};
    if (!wants_text) {
      return invalid_input(fmt::format("expected \"{}\", found none", keys_[2]));
    }
    if (!record.text) {
      return invalid_input(
          wants_ids ? fmt::format("expected \"{}\" or \"{}\", found neither", keys_[0], keys_[2])
                    : fmt::format("expected \"{}\", found none", keys_[0]));
    }
    if (options_.pairs == RecordPair::kRequired && !record.pair) {
      return invalid_input(fmt::format("expected \"{}\", found none", keys_[1]));
    }
    if (options_.pairs == RecordPair::kNone && record.pair) {
      return invalid_input(fmt::format("expected one text, found \"{}\" as well", keys_[1]));
    }
    return {};
  }

  Status take_text(size_t column, std::optional<std::string>* text) {
    if (column >= row_.fields.size()) return {};
    RowField& field = row_.fields[column];
    if (field.kind == RowField::Kind::kAbsent) return {};
    if (field.kind == RowField::Kind::kJson) {
      const Json json = Json::parse(field.text);
      return invalid_input(fmt::format("expected \"{}\" as a string, found {} {}", keys_[column],
                                       json.is_array() || json.is_object() ? "an" : "a",
                                       json.type_name()));
    }
    *text = std::move(field.text);
    return {};
  }

  Status take_messages(std::vector<ChatMessage>* messages) const {
    constexpr size_t kColumn = 4;
    if (kColumn >= row_.fields.size()) return {};
    const RowField& field = row_.fields[kColumn];
    if (field.kind == RowField::Kind::kAbsent) return {};
    const auto is_message = [](const Json& each) {
      const auto is_text = [&](const char* key) {
        return each.contains(key) && each.at(key).is_string();
      };
      return each.is_object() && is_text("role") && is_text("content");
    };
    const Json found = field.kind == RowField::Kind::kJson ? Json::parse(field.text) : Json();
    if (!found.is_array() || found.empty() ||
        !std::all_of(found.begin(), found.end(), is_message)) {
      return invalid_input(
          fmt::format("expected \"{}\" as an array of objects with texts \"role\" and \"content\"",
                      keys_[kColumn]));
    }
    for (const Json& each : found) messages->push_back({each.at("role"), each.at("content")});
    return {};
  }

  Status take_ids(size_t column, std::optional<std::vector<int32_t>>* ids) const {
    const RowField& field = row_.fields[column];
    if (field.kind == RowField::Kind::kAbsent) return {};
    const auto is_id = [](const Json& each) {
      return each.is_number_unsigned() && each.get<uint64_t>() <= INT32_MAX;
    };
    const Json found = field.kind == RowField::Kind::kJson ? Json::parse(field.text) : Json();
    if (!found.is_array() || !std::all_of(found.begin(), found.end(), is_id)) {
      return invalid_input(fmt::format(
          "expected \"{}\" as an array of integers from 0 to 2147483647", keys_[column]));
    }
    *ids = found.get<std::vector<int32_t>>();
    return {};
  }

  RecordOptions options_;
  std::vector<std::string> keys_;
  std::unique_ptr<RowReader> rows_;
  bool is_json_ = false;
  bool started_ = false;  // the first row was read
  Row row_;
  std::vector<bool> kept_is_there_;  // for each of --keep-columns, so far
};

Result<std::unique_ptr<RecordReader>> open_table(const RecordOptions& options) {
  RowOptions rows;
  rows.format = format_of(options) == RecordFormat::kCsv ? DataFormat::kCsv : DataFormat::kTsv;
  rows.header = options.header ? HeaderRow::kFirstRow : HeaderRow::kAuto;
  rows.columns = {options.column.value_or("1")};
  if (options.pair_column) {
    rows.columns.push_back(*options.pair_column);
  } else if (options.pairs == RecordPair::kRequired) {
    rows.columns.emplace_back("2");
  }
  return RowRecordReader::open(options, std::move(rows));
}

Result<std::unique_ptr<RecordReader>> open_json(const RecordOptions& options) {
  RowOptions rows;
  rows.format = DataFormat::kJsonLines;
  rows.columns = {options.column.value_or(options.text_key),
                  options.pair_column.value_or(options.pair_key), options.ids_key,
                  options.type_ids_key};
  if (!options.messages_key.empty()) rows.columns.push_back(options.messages_key);
  return RowRecordReader::open(options, std::move(rows));
}

}  // namespace

bool RecordReader::may_skip(const Status& wrong) const {
  return on_error_ == OnError::kSkip && wrong.code() == StatusCode::kInvalidInput && can_go_on();
}

Result<std::vector<Record>> RecordReader::next(const ChunkLimits& limits) {
  std::vector<Record> records;
  for (size_t bytes = 0; !ended_ && records.size() < limits.records && bytes < limits.bytes;) {
    // What was read is not held back for what has not been written yet.
    if (!records.empty() && !has_come()) break;
    Record record;
    const Result<bool> more = read(&record);
    if (!more.ok() && may_skip(more.status())) {
      record = {
          .kept = std::move(record.kept), .line = record.line, .error = more.status().message()};
    } else {
      // An interrupt is no end: what is left can still be counted.
      if (more.status().code() == StatusCode::kCancelled) return more.status();
      if (!more.ok()) failed_ = more.status();
      ended_ = !more.ok() || !*more;
      if (ended_) break;
    }
    bytes += bytes_of(record);
    record.number = ++given_;
    records.push_back(std::move(record));
  }
  if (records.empty() && !failed_.ok()) return failed_;
  return records;
}

std::optional<int64_t> RecordReader::count_rest() {
  constexpr std::chrono::milliseconds kMost(500);
  const auto start = std::chrono::steady_clock::now();
  for (int64_t count = 0;;) {
    if (ended_) return count;
    if (!has_come() || std::chrono::steady_clock::now() - start > kMost) return std::nullopt;
    Record record;
    const Result<bool> more = read(&record);
    if (!more.ok() && !may_skip(more.status())) return std::nullopt;
    ended_ = more.ok() && !*more;
    count += ended_ ? 0 : 1;
  }
}

Result<std::unique_ptr<RecordReader>> RecordReader::open(const RecordOptions& options) {
  using Reader = std::unique_ptr<RecordReader>;
  if (!options.texts.empty() || !options.ids.empty()) {
    return Reader(std::make_unique<ArgumentReader>(options));
  }
  const RecordFormat format = format_of(options);
  if (!options.file && is_terminal(stdin)) {
    say(fmt::format("One {} a line; Ctrl-D ends.\n",
                    format == RecordFormat::kLines ? "text" : "input"));
  }
  if (format == RecordFormat::kCsv || format == RecordFormat::kTsv) return open_table(options);
  if (format == RecordFormat::kJsonLines) return open_json(options);
  Result<std::unique_ptr<LineReader>> lines = LineReader::open(options.file.value_or("-"), wait_on);
  if (!lines.ok()) return lines.status();
  if (format == RecordFormat::kIds) {
    return Reader(std::make_unique<IdLineReader>(options, std::move(lines).value()));
  }
  return Reader(std::make_unique<TextLineReader>(options, std::move(lines).value()));
}

}  // namespace tessera::cli
