#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "base/guarded.h"
#include "io/json.h"
#include "tessera/records.h"

namespace tessera {
namespace {

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

bool is_number(const std::string& text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string::npos;
}

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

// What both kinds of files have in common.
class Rows : public RowReader {
 public:
  Rows(std::unique_ptr<LineReader> lines, const RowOptions& options)
      : options_(options), lines_(std::move(lines)) {}

  Result<bool> next(Row* row) override {
    return guarded(name(), [&]() -> Result<bool> {
      Result<bool> more = read(row);
      row->line = begin_;
      return more;
    });
  }
  bool can_go_on() const override { return !broken_; }
  const std::string& name() const override { return lines_->name(); }

 protected:
  virtual Result<bool> read(Row* row) = 0;

  // A line less a CR at its end.
  Result<bool> next_line() {
    Result<bool> more = lines_->next(&line_);
    if (!more.ok()) broken_ = true;
    if (more.ok() && *more && line_.ends_with('\r')) line_.pop_back();
    return more;
  }
  Status error(const std::string& message) const {
    // Before the first line what is wrong is the file as a whole.
    if (begin_ == 0) return invalid_input(fmt::format("{}: {}", lines_->name(), message));
    return lines_->error(begin_, message);
  }

  RowOptions options_;
  std::unique_ptr<LineReader> lines_;
  std::string line_;
  int64_t begin_ = 0;  // the line where the row in work begins
  bool broken_ = false;
};

class TableRows : public Rows {
 public:
  using Rows::Rows;

 protected:
  Result<bool> read(Row* row) override {
    if (!started_) TESSERA_RETURN_IF_ERROR(start());
    TESSERA_ASSIGN_OR_RETURN(const bool more, next_row());
    if (!more) return false;
    if (row_.fields.size() < needed_) {
      return error(
          fmt::format("expected at least {} columns, found {}", needed_, row_.fields.size()));
    }
    row->fields.clear();
    for (const size_t column : columns_) {
      if (Status status = check_utf8(row_.fields[column]); !status.ok()) {
        return error(status.message());
      }
      row->fields.push_back({RowField::Kind::kText, row_.fields[column]});
    }
    return true;
  }

 private:
  Status start() {
    started_ = true;
    const bool named = std::any_of(options_.columns.begin(), options_.columns.end(),
                                   [](const std::string& column) { return !is_number(column); });
    std::vector<std::string> header;
    if (options_.header == HeaderRow::kFirstRow || (options_.header == HeaderRow::kAuto && named)) {
      const Result<bool> more = next_row();
      broken_ = !more.ok();
      if (!more.ok()) return more.status();
      if (!*more) return {};  // an empty file holds no rows
      header = row_.fields;
    }
    for (const std::string& column : options_.columns) {
      const Result<size_t> found = find_column(column, header);
      broken_ = !found.ok();
      if (!found.ok()) return error(found.status().message());
      columns_.push_back(*found);
      needed_ = std::max(needed_, *found + 1);
    }
    return {};
  }

  // Blank lines between rows are none.
  Result<bool> next_row() {
    const bool quotes = options_.format == DataFormat::kCsv;
    do {
      Result<bool> more = quotes ? lines_->next(&line_) : next_line();
      if (!more.ok()) broken_ = true;
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
      const Result<bool> whole = row_.feed(line_);
      if (!whole.ok()) return error(whole.status().message());
      if (*whole) return true;
      Result<bool> more = lines_->next(&line_);
      if (!more.ok()) broken_ = true;
      if (!more.ok()) return more;
      if (!*more) return error("expected a quote that ends the field, found the end of the file");
    }
  }

  bool started_ = false;
  std::vector<size_t> columns_;
  size_t needed_ = 0;  // columns of a row
  CsvRow row_;
};

class JsonRows : public Rows {
 public:
  using Rows::Rows;

 protected:
  using Json = nlohmann::json;
  // Values are written out again, which takes stack for each level.
  static constexpr int kDeepest = 64;

  Result<bool> read(Row* row) override {
    do {
      Result<bool> more = next_line();
      if (!more.ok() || !*more) return more;
    } while (line_.find_first_not_of(" \t") == std::string::npos);
    begin_ = lines_->line();
    if (Status status = check_utf8(line_); !status.ok()) return error(status.message());
    const bool is_first = !std::exchange(started_, true);
    if (is_first && line_[line_.find_first_not_of(" \t")] == '[') {
      return error(
          "expected JSON lines (.jsonl), an object on each, found an array: write each of its "
          "objects on a line of its own");
    }
    const Result<Json> json = parse();
    if (!json.ok()) return error(json.status().message());
    if (!json->is_object()) {
      return error(fmt::format("expected a JSON object, found {} {}", json->is_array() ? "an" : "a",
                               json->type_name()));
    }
    row->fields.clear();
    for (const std::string& key : options_.columns) row->fields.push_back(field(*json, key));
    return true;
  }

 private:
  // What the parser holds to be wrong, and what stands there.
  std::string wrong_syntax(const Json::parse_error& problem) const {
    std::string_view reason = problem.what();
    constexpr std::string_view kBefore = " - ", kBehind = "; last read";
    if (const size_t at = reason.find(kBefore); at != std::string_view::npos) {
      reason.remove_prefix(at + kBefore.size());
    }
    reason = reason.substr(0, reason.find(kBehind));
    constexpr size_t kShown = 20;
    const size_t begin = problem.byte < kShown ? 0 : problem.byte - kShown;
    return fmt::format("expected a JSON object, found an error at byte {} ({}), near {}",
                       problem.byte, reason, quote(line_.substr(begin, 2 * kShown)));
  }

  Result<Json> parse() const {
    bool deep = false;
    const auto look = [&](int depth, Json::parse_event_t, Json&) {
      deep = deep || depth > kDeepest;
      return depth <= kDeepest;
    };
    try {
      Json json = Json::parse(line_, look);
      if (deep) {
        return invalid_input(
            fmt::format("expected JSON of at most {} levels, found more", kDeepest));
      }
      return json;
    } catch (const Json::parse_error& problem) {
      return invalid_input(wrong_syntax(problem));
    } catch (const Json::out_of_range&) {
      return invalid_input("expected a JSON object, found a number in it that is too large");
    }
  }

  static RowField field(const Json& json, const std::string& key) {
    const auto found = json.find(key);
    if (found == json.end() || found->is_null()) return {};
    if (found->is_string()) return {RowField::Kind::kText, found->get<std::string>()};
    return {RowField::Kind::kJson, found->dump()};
  }

  bool started_ = false;
};

}  // namespace

DataFormat format_of_file(const std::string& path, DataFormat format) {
  if (format != DataFormat::kAuto) return format;
  if (path.ends_with(".csv")) return DataFormat::kCsv;
  for (const char* ending : {".jsonl", ".ndjson", ".json"}) {
    if (path.ends_with(ending)) return DataFormat::kJsonLines;
  }
  return DataFormat::kTsv;
}

Result<std::unique_ptr<RowReader>> RowReader::open(const std::string& path,
                                                   const RowOptions& options) {
  return guarded(path, [&]() -> Result<std::unique_ptr<RowReader>> {
    TESSERA_ASSIGN_OR_RETURN(std::unique_ptr<LineReader> lines,
                             LineReader::open(path, options.keep_waiting));
    RowOptions chosen = options;
    chosen.format = format_of_file(path, options.format);
    if (chosen.format == DataFormat::kJsonLines) {
      return std::unique_ptr<RowReader>(std::make_unique<JsonRows>(std::move(lines), chosen));
    }
    return std::unique_ptr<RowReader>(std::make_unique<TableRows>(std::move(lines), chosen));
  });
}

}  // namespace tessera
