#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "cli/inputs.h"
#include "cli/lines.h"
#include "cli/records.h"
#include "cli/terminal.h"

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

// What all formats of files have in common.
class FileReader : public RecordReader {
 public:
  FileReader(const RecordOptions& options, std::unique_ptr<LineReader> lines)
      : options_(options), lines_(std::move(lines)) {}

  std::string place(const Record& record) const override {
    return fmt::format("{}, line {}", lines_->name(), record.line);
  }

 protected:
  // A line less a CR at its end.
  Result<bool> next_line() {
    Result<bool> more = lines_->next(&line_);
    if (more.ok() && *more && line_.ends_with('\r')) line_.pop_back();
    return more;
  }
  // The next one that is not blank, with which a record begins.
  Result<bool> next_filled_line() {
    Result<bool> more = next_line();
    while (more.ok() && *more && is_blank()) more = next_line();
    if (more.ok() && *more) begin_ = lines_->line();
    return more;
  }
  bool is_blank() const { return line_.find_first_not_of(" \t") == std::string::npos; }
  Status error(const std::string& message) const {
    // Before the first line what is wrong is the file as a whole.
    if (begin_ == 0) return invalid_input(fmt::format("{}: {}", lines_->name(), message));
    return lines_->error(begin_, message);
  }
  Result<bool> finished(Record* record) const {
    record->line = begin_;
    for (const auto* text : {&record->text, &record->pair}) {
      if (!*text) continue;
      if (Status status = check_utf8(**text); !status.ok()) return error(status.message());
    }
    return true;
  }

  RecordOptions options_;
  std::unique_ptr<LineReader> lines_;
  std::string line_;
  int64_t begin_ = 0;  // the line where the record in work begins
};

class TextLineReader : public FileReader {
 public:
  using FileReader::FileReader;

 protected:
  Result<bool> read(Record* record) override {
    Result<bool> more = next_line();
    if (!more.ok() || !*more) return more;
    begin_ = lines_->line();
    record->text = std::move(line_);
    return finished(record);
  }
};

class IdLineReader : public FileReader {
 public:
  using FileReader::FileReader;

 protected:
  Result<bool> read(Record* record) override {
    if (Result<bool> more = next_filled_line(); !more.ok() || !*more) return more;
    Result<std::vector<int32_t>> ids = parse_ids(line_);
    if (!ids.ok()) return error(ids.status().message());
    record->tokens = TokenSequence{std::move(ids).value(), {}};
    return finished(record);
  }
};

// One row of CSV, of as many lines as its quotes ask for.
class CsvRow {
 public:
  std::vector<std::string> fields;

  void clear() {
    fields.assign(1, {});
    state_ = State::kBegin;
  }
  // Takes a line without its LF. False: the row goes on in the next line.
  Result<bool> feed(std::string_view line) {
    for (size_t i = 0; i < line.size(); ++i) {
      const char c = line[i];
      const bool is_last_cr = c == '\r' && i + 1 == line.size();
      if (state_ == State::kQuoted) {
        if (c == '"') {
          state_ = State::kQuote;
        } else {
          fields.back() += c;
        }
      } else if (is_last_cr) {
        break;
      } else if (c == ',') {
        fields.emplace_back();
        state_ = State::kBegin;
      } else if (c == '"' && state_ != State::kPlain) {
        // The first of a field opens it; the second of two stands for one.
        if (state_ == State::kQuote) fields.back() += c;
        state_ = State::kQuoted;
      } else if (state_ == State::kQuote) {
        return invalid_input(fmt::format(
            "expected a comma, a line end or another quote behind a quote, found \"{}\"", c));
      } else {
        fields.back() += c;
        state_ = State::kPlain;
      }
    }
    if (state_ == State::kQuoted) fields.back() += '\n';
    return state_ != State::kQuoted;
  }

 private:
  enum class State { kBegin, kPlain, kQuoted, kQuote };
  State state_ = State::kBegin;
};

// A column's number from 0, by its number from 1 or by its name in the header.
Result<size_t> find_column(const std::string& column, const std::vector<std::string>& header) {
  const auto named = std::find(header.begin(), header.end(), column);
  if (named != header.end()) return static_cast<size_t>(named - header.begin());
  size_t number = 0;
  const auto [end, problem] = std::from_chars(column.data(), column.data() + column.size(), number);
  if (problem == std::errc() && end == column.data() + column.size() && number > 0) {
    return number - 1;
  }
  if (header.empty()) {
    return invalid_input(fmt::format("expected columns from 1, found \"{}\"", column));
  }
  return invalid_input(
      fmt::format("expected a column \"{}\", found {}", column, fmt::join(header, ", ")));
}

bool is_number(const std::string& text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string::npos;
}

class TableReader : public FileReader {
 public:
  using FileReader::FileReader;

 protected:
  Result<bool> read(Record* record) override {
    if (!started_) {
      if (Status status = start(); !status.ok()) return status;
    }
    Result<bool> more = next_row();
    if (!more.ok() || !*more) return more;
    const size_t needed = std::max(column_, pair_column_.value_or(0)) + 1;
    if (row_.fields.size() < needed) {
      return error(
          fmt::format("expected at least {} columns, found {}", needed, row_.fields.size()));
    }
    if (pair_column_) record->pair = row_.fields[*pair_column_];
    record->text = std::move(row_.fields[column_]);
    return finished(record);
  }

 private:
  Status start() {
    started_ = true;
    const std::string column = options_.column.value_or("1");
    std::optional<std::string> pair_column = options_.pair_column;
    if (!pair_column && options_.pairs == RecordPair::kRequired) pair_column = "2";
    std::vector<std::string> header;
    if (options_.header || !is_number(column) || (pair_column && !is_number(*pair_column))) {
      Result<bool> more = next_row();
      if (!more.ok()) return more.status();
      if (!*more) return {};  // an empty file holds no records
      header = row_.fields;
    }
    Result<size_t> found = find_column(column, header);
    if (!found.ok()) return error(found.status().message());
    column_ = *found;
    if (!pair_column) return {};
    found = find_column(*pair_column, header);
    if (!found.ok()) return error(found.status().message());
    pair_column_ = *found;
    return {};
  }

  // Blank lines between rows are none.
  Result<bool> next_row() {
    const bool quotes = format_of(options_) == RecordFormat::kCsv;
    do {
      Result<bool> more = quotes ? lines_->next(&line_) : next_line();
      if (!more.ok() || !*more) return more;
    } while (line_.empty() || line_ == "\r");
    begin_ = lines_->line();
    return quotes ? csv_row() : tsv_row();
  }

  Result<bool> tsv_row() {
    row_.fields.clear();
    for (std::string_view rest = line_;;) {
      const size_t tab = rest.find('\t');
      row_.fields.emplace_back(rest.substr(0, tab));
      if (tab == std::string_view::npos) return true;
      rest.remove_prefix(tab + 1);
    }
  }

  Result<bool> csv_row() {
    row_.clear();
    for (size_t bytes = line_.size();; bytes += line_.size()) {
      if (bytes > kLineLimitBytes) {
        return error(
            fmt::format("expected at most {} bytes in a row, found more", kLineLimitBytes));
      }
      Result<bool> whole = row_.feed(line_);
      if (!whole.ok()) return error(whole.status().message());
      if (*whole) return true;
      Result<bool> more = lines_->next(&line_);
      if (!more.ok()) return more;
      if (!*more) return error("expected a quote that ends the field, found the end of the file");
    }
  }

  bool started_ = false;
  size_t column_ = 0;
  std::optional<size_t> pair_column_;
  CsvRow row_;
};

class JsonReader : public FileReader {
 public:
  JsonReader(const RecordOptions& options, std::unique_ptr<LineReader> lines)
      : FileReader(options, std::move(lines)) {
    if (options_.column) options_.text_key = *options_.column;
    if (options_.pair_column) options_.pair_key = *options_.pair_column;
  }

 protected:
  Result<bool> read(Record* record) override {
    if (Result<bool> more = next_filled_line(); !more.ok() || !*more) return more;
    if (Status status = check_utf8(line_); !status.ok()) return error(status.message());
    Json json;
    try {
      json = Json::parse(line_);
    } catch (const Json::parse_error& problem) {
      return error(fmt::format("expected a JSON object, found an error at byte {}", problem.byte));
    } catch (const Json::out_of_range&) {
      return error("expected a JSON object, found a number in it that is too large");
    }
    if (!json.is_object()) {
      return error(fmt::format("expected a JSON object, found {}", described(json)));
    }
    if (Status status = take(json, record); !status.ok()) return error(status.message());
    record->line = begin_;
    return true;
  }

 private:
  static std::string described(const Json& json) {
    return fmt::format("{} {}", json.is_array() || json.is_object() ? "an" : "a", json.type_name());
  }

  Status take(const Json& json, Record* record) const {
    if (Status status = take_text(json, options_.text_key, &record->text); !status.ok()) {
      return status;
    }
    if (Status status = take_text(json, options_.pair_key, &record->pair); !status.ok()) {
      return status;
    }
    if (Status status = take_messages(json, &record->messages); !status.ok()) return status;
    std::optional<std::vector<int32_t>> ids, type_ids;
    if (Status status = take_ids(json, options_.ids_key, &ids); !status.ok()) return status;
    if (Status status = take_ids(json, options_.type_ids_key, &type_ids); !status.ok()) {
      return status;
    }
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
      return invalid_input(fmt::format("expected \"{}\", found none", options_.ids_key));
    }
    if (!record.text) {
      return invalid_input(wants_ids
                               ? fmt::format("expected \"{}\" or \"{}\", found neither",
                                             options_.text_key, options_.ids_key)
                               : fmt::format("expected \"{}\", found none", options_.text_key));
    }
    if (options_.pairs == RecordPair::kRequired && !record.pair) {
      return invalid_input(fmt::format("expected \"{}\", found none", options_.pair_key));
    }
    if (options_.pairs == RecordPair::kNone && record.pair) {
      return invalid_input(
          fmt::format("expected one text, found \"{}\" as well", options_.pair_key));
    }
    return {};
  }

  // null is the same as nothing.
  static Status take_text(const Json& json, const std::string& key,
                          std::optional<std::string>* text) {
    const auto found = json.find(key);
    if (found == json.end() || found->is_null()) return {};
    if (!found->is_string()) {
      return invalid_input(
          fmt::format("expected \"{}\" as a string, found {}", key, described(*found)));
    }
    *text = found->get<std::string>();
    return {};
  }

  Status take_messages(const Json& json, std::vector<ChatMessage>* messages) const {
    const auto found =
        options_.messages_key.empty() ? json.end() : json.find(options_.messages_key);
    if (found == json.end() || found->is_null()) return {};
    const auto is_message = [](const Json& each) {
      const auto is_text = [&](const char* key) {
        return each.contains(key) && each.at(key).is_string();
      };
      return each.is_object() && is_text("role") && is_text("content");
    };
    if (!found->is_array() || found->empty() ||
        !std::all_of(found->begin(), found->end(), is_message)) {
      return invalid_input(
          fmt::format("expected \"{}\" as an array of objects with texts \"role\" and \"content\"",
                      options_.messages_key));
    }
    for (const Json& each : *found) {
      messages->push_back({each.at("role"), each.at("content")});
    }
    return {};
  }

  static Status take_ids(const Json& json, const std::string& key,
                         std::optional<std::vector<int32_t>>* ids) {
    const auto found = json.find(key);
    if (found == json.end() || found->is_null()) return {};
    const auto is_id = [](const Json& each) {
      return each.is_number_unsigned() && each.get<uint64_t>() <= INT32_MAX;
    };
    if (!found->is_array() || !std::all_of(found->begin(), found->end(), is_id)) {
      return invalid_input(
          fmt::format("expected \"{}\" as an array of integers from 0 to 2147483647", key));
    }
    *ids = found->get<std::vector<int32_t>>();
    return {};
  }
};

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
  Result<std::unique_ptr<LineReader>> lines = LineReader::open(options.file.value_or("-"));
  if (!lines.ok()) return lines.status();
  std::unique_ptr<LineReader> from = std::move(lines).value();
  switch (format) {
    case RecordFormat::kCsv:
    case RecordFormat::kTsv:
      return Reader(std::make_unique<TableReader>(options, std::move(from)));
    case RecordFormat::kJsonLines:
      return Reader(std::make_unique<JsonReader>(options, std::move(from)));
    case RecordFormat::kIds:
      return Reader(std::make_unique<IdLineReader>(options, std::move(from)));
    case RecordFormat::kAuto:
    case RecordFormat::kLines:
      break;
  }
  return Reader(std::make_unique<TextLineReader>(options, std::move(from)));
}

}  // namespace tessera::cli
