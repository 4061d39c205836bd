#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "cli/inputs.h"
#include "cli/records.h"
#include "cli/terminal.h"
#include "tessera/records.h"

namespace tessera::cli {
namespace {

using Json = nlohmann::json;

// Records of one chunk are held together with what is made of them.
constexpr size_t kChunkBytes = size_t{1} << 20;

size_t bytes_of(const Record& record) {
  size_t bytes = record.text.value_or("").size() + record.pair.value_or("").size();
  if (record.tokens) bytes += record.tokens->ids.size() * sizeof(int32_t);
  for (const ChatMessage& message : record.messages) bytes += message.content.size();
  return bytes;
}

// Texts or ids of the command line.
class ArgumentReader : public RecordReader {
 public:
  explicit ArgumentReader(const RecordOptions& options) : options_(options) {}

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

 private:
  RecordOptions options_;
  size_t next_ = 0;
};

bool wait_on() { return !Interrupt::requested(); }

// Records that are lines.
class FileReader : public RecordReader {
 public:
  explicit FileReader(std::unique_ptr<LineReader> lines) : lines_(std::move(lines)) {}

  std::string place(const Record& record) const override {
    return fmt::format("{}, line {}", lines_->name(), record.line);
  }

 protected:
  // A line less a CR at its end.
  Result<bool> next_line(Record* record) {
    Result<bool> more = lines_->next(&line_);
    if (more.ok() && *more && line_.ends_with('\r')) line_.pop_back();
    record->line = lines_->line();
    return more;
  }
  Status error(const Record& record, const std::string& message) const {
    return lines_->error(record.line, message);
  }

  std::unique_ptr<LineReader> lines_;
  std::string line_;
};

class TextLineReader : public FileReader {
 public:
  using FileReader::FileReader;

 protected:
  Result<bool> read(Record* record) override {
    Result<bool> more = next_line(record);
    if (!more.ok() || !*more) return more;
    if (Status status = check_utf8(line_); !status.ok()) return error(*record, status.message());
    record->text = std::move(line_);
    return true;
  }
};

class IdLineReader : public FileReader {
 public:
  using FileReader::FileReader;

 protected:
  Result<bool> read(Record* record) override {
    do {
      Result<bool> more = next_line(record);
      if (!more.ok() || !*more) return more;
    } while (line_.find_first_not_of(" \t") == std::string::npos);
    Result<std::vector<int32_t>> ids = parse_ids(line_);
    if (!ids.ok()) return error(*record, ids.status().message());
    record->tokens = TokenSequence{std::move(ids).value(), {}};
    return true;
  }
};

// Records that are rows of a table or objects of JSON lines.
class RowRecordReader : public RecordReader {
 public:
  static Result<std::unique_ptr<RecordReader>> open(const RecordOptions& options,
                                                    RowOptions row_options) {
    row_options.keep_waiting = wait_on;
    Result<std::unique_ptr<RowReader>> rows =
        RowReader::open(options.file.value_or("-"), row_options);
    if (!rows.ok()) return rows.status();
    return std::unique_ptr<RecordReader>(
        new RowRecordReader(options, std::move(row_options.columns), std::move(rows).value()));
  }

  std::string place(const Record& record) const override {
    return fmt::format("{}, line {}", rows_->name(), record.line);
  }

 protected:
  Result<bool> read(Record* record) override {
    Result<bool> more = rows_->next(&row_);
    if (!more.ok() || !*more) return more;
    record->line = row_.line;
    if (Status status = take(record); !status.ok()) {
      return invalid_input(fmt::format("{}: {}", place(*record), status.message()));
    }
    return true;
  }

 private:
  // keys: of the text, the pair, the ids, the type ids and the messages, as far as there are any.
  RowRecordReader(const RecordOptions& options, std::vector<std::string> keys,
                  std::unique_ptr<RowReader> rows)
      : options_(options), keys_(std::move(keys)), rows_(std::move(rows)) {
    is_json_ = format_of(options) == RecordFormat::kJsonLines;
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
  Row row_;
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

Result<std::vector<Record>> RecordReader::next(size_t most) {
  std::vector<Record> records;
  for (size_t bytes = 0; !ended_ && records.size() < most && bytes < kChunkBytes;) {
    Record record;
    Result<bool> more = read(&record);
    if (!more.ok()) failed_ = more.status();
    ended_ = !more.ok() || !*more;
    if (ended_) break;
    bytes += bytes_of(record);
    records.push_back(std::move(record));
  }
  if (records.empty() && !failed_.ok()) return failed_;
  return records;
}

Result<std::unique_ptr<RecordReader>> RecordReader::open(const RecordOptions& options) {
  using Reader = std::unique_ptr<RecordReader>;
  if (!options.texts.empty() || !options.ids.empty()) {
    return Reader(std::make_unique<ArgumentReader>(options));
  }
  const RecordFormat format = format_of(options);
  if (!options.file && is_terminal(stdin)) {
    fmt::print(stderr, "One {} a line, then Ctrl-D:\n",
               format == RecordFormat::kLines ? "text" : "input");
  }
  if (format == RecordFormat::kCsv || format == RecordFormat::kTsv) return open_table(options);
  if (format == RecordFormat::kJsonLines) return open_json(options);
  Result<std::unique_ptr<LineReader>> lines = LineReader::open(options.file.value_or("-"), wait_on);
  if (!lines.ok()) return lines.status();
  if (format == RecordFormat::kIds) {
    return Reader(std::make_unique<IdLineReader>(std::move(lines).value()));
  }
  return Reader(std::make_unique<TextLineReader>(std::move(lines).value()));
}

}  // namespace tessera::cli
