#include "evaluate/run.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "io/mapped_file.h"
#include "runtime/tasks/embeddings.h"
#include "tessera/records.h"

namespace tessera::evaluation {
namespace {

constexpr size_t kMostNotes = 1000;
constexpr size_t kMostTextBytes = size_t{1} << 30;
constexpr int64_t kRowsBetweenLooks = 4096;

// The fields of a row that was read, or what is missing.
Result<DataRow> data_row(const RowReader& reader, const Row& row, const Columns& columns) {
  DataRow data{fmt::format("{}, line {}", reader.name(), row.line), {}};
  for (size_t i = 0; i < row.fields.size(); ++i) {
    const RowField& field = row.fields[i];
    const bool missing = field.kind == RowField::Kind::kAbsent ||
                         (columns.blank == Blank::kBad && is_blank(field.text));
    if (missing) {
      return invalid_input(fmt::format("{}: expected something in column \"{}\", found nothing",
                                       data.place, columns.names[i]));
    }
    data.fields.push_back(field.text);
  }
  return data;
}

Status read_file(Run& run, RowReader& reader, const Columns& columns, size_t most,
                 std::vector<DataRow>* rows) {
  for (Row row; rows->size() < most;) {
    if (row.line % kRowsBetweenLooks == 0) {
      TESSERA_RETURN_IF_ERROR(run.progress("reading", static_cast<int64_t>(rows->size()), 0));
    }
    const Result<bool> more = reader.next(&row);
    if (!more.ok()) {
      if (more.status().code() != StatusCode::kInvalidInput || !reader.can_go_on()) {
        return more.status();
      }
      TESSERA_RETURN_IF_ERROR(run.bad(more.status().message()));
      continue;
    }
    if (!*more) return {};
    Result<DataRow> data = data_row(reader, row, columns);
    if (data.ok()) {
      rows->push_back(std::move(data).value());
    } else {
      TESSERA_RETURN_IF_ERROR(run.bad(data.status().message()));
    }
  }
  return {};
}

Status check_paths(const DataFile& file) {
  if (!file.paths.empty()) return {};
  return invalid_input("expected a data file, found none");
}

}  // namespace

Status Run::progress(const std::string& what, int64_t done, int64_t total) const {
  if (!options.on_progress || options.on_progress(what, done, total)) return {};
  return {StatusCode::kCancelled, "cancelled"};
}

TaskOptions Run::task_options(const std::string& what, int64_t total) const {
  TaskOptions found;
  found.too_long =
      task.on_long_text == OnLongText::kBad && !skips() ? TooLong::kRefuse : TooLong::kCut;
  if (options.on_progress) {
    found.on_progress = [this, what, total](int64_t done) {
      return options.on_progress(what, done, total);
    };
  }
  return found;
}

void Run::note(std::string message) {
  if (result.notes.size() < kMostNotes) result.notes.push_back(std::move(message));
}

Status Run::bad(const std::string& message) {
  if (!skips()) return invalid_input(message);
  ++result.counts.skipped;
  note(message + ": left out");
  return {};
}

Result<bool> Run::use_cut(const std::string& place) {
  if (task.on_long_text == OnLongText::kBad) {
    TESSERA_RETURN_IF_ERROR(
        bad(place + ": expected a text no longer than the model's context, found a longer one"));
    return false;
  }
  ++result.counts.cut;
  note(place + ": longer than the model's context: cut");
  return true;
}

Result<Model*> Run::need(const std::shared_ptr<Model>& model) const {
  if (model != nullptr) return model.get();
  return invalid_input(fmt::format("{}: expected a model, found none", task.name));
}

bool is_blank(std::string_view text) {
  return text.find_first_not_of(" \t\r\n\f\v") == std::string_view::npos;
}

int64_t count_words(std::string_view text) {
  int64_t words = 0;
  bool inside = false;
  for (const char c : text) {
    const bool space = c == ' ' || (c >= '\t' && c <= '\r');
    words += !space && !inside ? 1 : 0;
    inside = !space;
  }
  return words;
}

Result<std::vector<DataRow>> read_rows(Run& run, const DataFile& file, const Columns& columns,
                                       RowLimit limit) {
  TESSERA_RETURN_IF_ERROR(check_paths(file));
  const bool limited = limit == RowLimit::kMaxExamples && run.task.max_examples > 0;
  const size_t most = limited ? static_cast<size_t>(run.task.max_examples) : SIZE_MAX;
  std::vector<DataRow> rows;
  for (const std::string& path : file.paths) {
    RowOptions options{.format = file.format, .header = file.header, .columns = columns.names};
    options.keep_waiting = [&] { return run.progress("reading", 0, 0).ok(); };
    TESSERA_ASSIGN_OR_RETURN(const std::unique_ptr<RowReader> reader,
                             RowReader::open(path, options));
    TESSERA_RETURN_IF_ERROR(read_file(run, *reader, columns, most, &rows));
  }
  if (!rows.empty()) return rows;
  return invalid_input(fmt::format("{}: expected at least one example, found none{}",
                                   fmt::join(file.paths, ", "),
                                   run.result.counts.skipped > 0 ? " that could be used" : ""));
}

Result<std::string> read_text(Run& run, const DataFile& file) {
  TESSERA_RETURN_IF_ERROR(check_paths(file));
  std::string all;
  for (const std::string& path : file.paths) {
    TESSERA_ASSIGN_OR_RETURN(std::string text, read_text_file(path, kMostTextBytes));
    if (check_utf8(text).ok()) {
      all += text;
      continue;
    }
    int64_t number = 0;
    for (size_t begin = 0, end = 0; begin < text.size(); begin = end) {
      end = std::min(text.find('\n', begin), text.size() - 1) + 1;
      const std::string_view line = std::string_view(text).substr(begin, end - begin);
      ++number;
      const Status status = check_utf8(line);
      if (status.ok()) {
        all += line;
      } else {
        TESSERA_RETURN_IF_ERROR(
            run.bad(fmt::format("{}, line {}: {}", path, number, status.message())));
      }
    }
  }
  if (!is_blank(all)) return all;
  return invalid_input(fmt::format("{}: expected text, found none", fmt::join(file.paths, ", ")));
}

Status at_place(const Status& status, const std::vector<DataRow>& rows, size_t texts_each) {
  constexpr std::string_view kPrefix = "input ";
  std::string_view rest = status.message();
  if (!rest.starts_with(kPrefix)) return status;
  rest.remove_prefix(kPrefix.size());
  size_t index = 0;
  const auto [after, error] = std::from_chars(rest.data(), rest.data() + rest.size(), index);
  rest.remove_prefix(static_cast<size_t>(after - rest.data()));
  if (error != std::errc() || !rest.starts_with(": ") || index / texts_each >= rows.size()) {
    return status;
  }
  return {status.code(), fmt::format("{}{}", rows[index / texts_each].place, rest)};
}

Result<RowEmbeddings> embed_rows(Run& run, Model& model, const std::vector<DataRow>& rows,
                                 size_t texts_each) {
  std::vector<std::string> texts;
  for (const DataRow& row : rows) {
    texts.insert(texts.end(), row.fields.begin(),
                 row.fields.begin() + static_cast<int64_t>(texts_each));
  }
  auto embedded = tasks::embed_all(
      model, texts, run.task_options("embedding texts", static_cast<int64_t>(texts.size())));
  if (!embedded.ok()) return at_place(embedded.status(), rows, texts_each);
  RowEmbeddings result{static_cast<size_t>(model.embedding_size()), {}, {}};
  const size_t values = texts_each * result.width;
  for (size_t i = 0; i < rows.size(); ++i) {
    const auto cut = embedded->truncated.begin() + static_cast<int64_t>(i * texts_each);
    if (std::any_of(cut, cut + static_cast<int64_t>(texts_each), [](char c) { return c != 0; })) {
      TESSERA_ASSIGN_OR_RETURN(const bool use, run.use_cut(rows[i].place));
      if (!use) continue;
    }
    const auto begin = embedded->vectors.begin() + static_cast<int64_t>(i * values);
    result.vectors.insert(result.vectors.end(), begin, begin + static_cast<int64_t>(values));
    result.rows.push_back(i);
  }
  run.result.counts.tokens += embedded->tokens;
  return result;
}

double dot(const float* a, const float* b, size_t width) {
  double sum = 0;
  for (size_t i = 0; i < width; ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

double cosine(const float* a, const float* b, size_t width) {
  const double norms = std::sqrt(dot(a, a, width) * dot(b, b, width));
  return norms == 0 ? 0 : dot(a, b, width) / norms;
}

}  // namespace tessera::evaluation
