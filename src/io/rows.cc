#include <fmt/format.h>

#include <algorithm>
#include <cctype>
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

// Whether to wait for what has not come yet.
enum class Patience { kNone, kAny };
// True: there is one; false: the end. Nothing: it has not come yet.
using Found = std::optional<Result<bool>>;

// What both kinds of files have in common.
class Rows : public RowReader {
 public:
  Rows(std::unique_ptr<LineReader> lines, const RowOptions& options)
      : options_(options), lines_(std::move(lines)) {}

  Result<bool> next(Row* row) override {
    return guarded(name(), [&]() -> Result<bool> {
      const Found found = found_ ? std::exchange(found_, std::nullopt) : gather(Patience::kAny);
      row->line = begin_;
      if (!found->ok() || !**found) return *found;
      row->fields.clear();
      TESSERA_RETURN_IF_ERROR(fill(row));
      return true;
    });
  }
  bool ready() override {
    if (found_) return true;
    const Result<bool> gathered = guarded(name(), [&]() -> Result<bool> {
      found_ = gather(Patience::kNone);
      return found_.has_value();
    });
    if (!gathered.ok()) found_ = gathered.status();
    return found_.has_value();
  }
  bool can_go_on() const override { return !broken_; }
  const std::string& name() const override { return lines_->name(); }

 protected:
  // Takes in the lines of the next row, whose first one begin_ names.
  virtual Found gather(Patience patience) = 0;
  // The fields of the row that was gathered.
  virtual Status fill(Row* row) = 0;

  Found next_line(Patience patience) {
    if (patience == Patience::kNone && !lines_->ready()) return std::nullopt;
    Result<bool> more = lines_->next(&line_);
    if (!more.ok()) broken_ = true;
    return more;
  }
  void drop_cr() {
    if (line_.ends_with('\r')) line_.pop_back();
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

 private:
  Found found_;  // by ready(), for next() to give
};

class TableRows : public Rows {
 public:
  using Rows::Rows;

 protected:
  Found gather(Patience patience) override {
    if (!started_) {
      std::vector<std::string> header;
      if (has_header()) {
        const Found found = gather_row(patience);
        if (!found) return found;
        broken_ = !found->ok();
        if (!found->ok() || !**found) return found;  // an empty file holds no rows
        header = row_.fields;
      }
      started_ = true;
      if (Status status = find_columns(header); !status.ok()) {
        broken_ = true;
        return status;
      }
    }
    return gather_row(patience);
  }

  Status fill(Row* row) override {
    const std::vector<std::string>& fields = row_.fields;
    if (fields.size() < needed_) {
      return error(fmt::format("expected at least {} columns, found {}", needed_, fields.size()));
    }
    for (const size_t column : columns_) {
      RowField& field = row->fields.emplace_back();
      if (column >= fields.size()) continue;
      if (Status status = check_utf8(fields[column]); !status.ok()) return error(status.message());
      field = {RowField::Kind::kText, fields[column]};
    }
    return {};
  }

 private:
  bool has_header() const {
    if (options_.header != HeaderRow::kAuto) return options_.header == HeaderRow::kFirstRow;
    return std::any_of(options_.columns.begin(), options_.columns.end(),
                       [](const std::string& column) { return !is_number(column); });
  }

  Status find_columns(const std::vector<std::string>& header) {
    for (const std::string& column : options_.columns) {
      const Result<size_t> found = find_column(column, header);
      if (!found.ok()) return error(found.status().message());
      columns_.push_back(*found);
      needed_ = std::max(needed_, *found + 1);
    }
    for (const std::string& column : options_.optional_columns) {
      const auto named = std::find(header.begin(), header.end(), column);
      columns_.push_back(named == header.end() ? std::string::npos
                                               : static_cast<size_t>(named - header.begin()));
    }
    return {};
  }

  Found gather_row(Patience patience) {
    for (;;) {
      Found found = next_line(patience);
      if (!found || !found->ok()) return found;
      if (!**found && std::exchange(open_, false)) {
        return error("expected a quote that ends the field, found the end of the file");
      }
      if (!**found) return found;
      if (!open_) {
        if (line_.empty() || line_ == "\r") continue;  // blank lines between rows are none
        begin_ = lines_->line();
      }
      if (options_.format != DataFormat::kCsv) {
        split_at_tabs();
        return true;
      }
      const Result<bool> whole = take_line();
      open_ = whole.ok() && !*whole;
      if (!open_) return whole;
    }
  }

  void split_at_tabs() {
    drop_cr();
    row_.fields.clear();
    for (std::string_view rest = line_;;) {
      const size_t tab = rest.find('\t');
      row_.fields.emplace_back(rest.substr(0, tab));
      if (tab == std::string_view::npos) return;
      rest.remove_prefix(tab + 1);
    }
  }

  // False: the row goes on.
  Result<bool> take_line() {
    if (!open_) {
      row_.clear();
      bytes_ = 0;
    }
    bytes_ += line_.size();
    if (bytes_ > kLineLimitBytes) {
      return error(fmt::format("expected at most {} bytes in a row, found more", kLineLimitBytes));
    }
    Result<bool> whole = row_.feed(line_);
    if (!whole.ok()) return error(whole.status().message());
    return whole;
  }

  bool started_ = false;
  std::vector<size_t> columns_;  // npos: an optional one that is not there
  size_t needed_ = 0;            // columns of a row
  CsvRow row_;
  bool open_ = false;  // the row in row_ goes on in the next line
  size_t bytes_ = 0;   // of its lines so far
};

class JsonRows : public Rows {
 public:
  using Rows::Rows;

 protected:
  using Json = nlohmann::json;
  // Values are written out again, which takes stack for each level.
  static constexpr int kDeepest = 64;

  Found gather(Patience patience) override {
    do {
      Found found = next_line(patience);
      if (!found || !found->ok() || !**found) return found;
      drop_cr();
    } while (line_.find_first_not_of(" \t") == std::string::npos);
    begin_ = lines_->line();
    return true;
  }

  Status fill(Row* row) override {
    if (Status status = check_utf8(line_); !status.ok()) return error(status.message());
    const bool is_first = !std::exchange(started_, true);
    if (is_first && line_[line_.find_first_not_of(" \t")] == '[') {
      broken_ = true;  // its lines are no objects that could be taken one by one
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
    for (const auto* columns : {&options_.columns, &options_.optional_columns}) {
      for (const std::string& key : *columns) row->fields.push_back(field(*json, key));
    }
    return {};
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
  std::string name = path;
  for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  if (name.ends_with(".csv")) return DataFormat::kCsv;
  for (const char* ending : {".jsonl", ".ndjson", ".json"}) {
    if (name.ends_with(ending)) return DataFormat::kJsonLines;
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
