#include "tune/records.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <limits>

#include "evaluate/run.h"
#include "evaluate/squad.h"
#include "io/json_at.h"
#include "io/utf8.h"
#include "tessera/evaluate.h"
#include "tessera/records.h"

namespace tessera::training {
namespace {

using evaluation::is_blank;
using evaluation::SquadAnswer;
using evaluation::SquadQuestion;

constexpr size_t kMostItems = size_t{1} << 22;  // words of a row, answers of a question

// What the fields of a row are for. Required ones come first.
enum class Part { kText, kPair, kLabel, kValue, kTokens, kLabels, kAnswers };
struct Column {
  Part part;
  std::string name;
};
struct Schema {
  RowOptions options;
  std::vector<Part> parts;  // of columns and optional columns
  double value_scale = 1;
  std::vector<std::string> labels = {};
};

Schema schema(const std::vector<Column>& needed, const std::vector<Column>& optional = {}) {
  Schema made;
  for (const Column& column : needed) {
    made.options.columns.push_back(column.name);
    made.parts.push_back(column.part);
  }
  for (const Column& column : optional) {
    made.options.optional_columns.push_back(column.name);
    made.parts.push_back(column.part);
  }
  return made;
}

// Of files that name their columns as docs/tune-data.md says.
Schema usual_schema(TuneTask task) {
  switch (task) {
    case TuneTask::kClassification:
      return schema({{Part::kText, "text"}, {Part::kLabel, "label"}}, {{Part::kPair, "text_pair"}});
    case TuneTask::kRegression:
      return schema({{Part::kText, "text"}, {Part::kValue, "value"}}, {{Part::kPair, "text_pair"}});
    case TuneTask::kTokenClassification:
      return schema({{Part::kTokens, "tokens"}, {Part::kLabels, "labels"}});
    case TuneTask::kQuestionAnswering:
      return schema(
          {{Part::kText, "question"}, {Part::kPair, "context"}, {Part::kAnswers, "answers"}});
    case TuneTask::kEmbeddings:
      return schema({{Part::kText, "text"}, {Part::kPair, "positive"}}, {{Part::kValue, "value"}});
    default:
      return schema({{Part::kText, "prompt"}, {Part::kPair, "completion"}});
  }
}

bool serves(EvaluationKind kind, TuneTask task) {
  switch (task) {
    case TuneTask::kClassification:
      return kind == EvaluationKind::kClassification;
    case TuneTask::kRegression:
    case TuneTask::kEmbeddings:
      return kind == EvaluationKind::kSimilarity;
    case TuneTask::kDataToText:
      return kind == EvaluationKind::kDataToText;
    default:
      return false;
  }
}

// The published data that a file of this name is part of.
std::optional<EvaluationTask> find_published(TuneTask task, const std::string& path) {
  const std::filesystem::path name = std::filesystem::path(path).filename();
  for (const NamedTask& named : named_tasks()) {
    for (const char* split : {"train", "dev", "test"}) {
      Result<EvaluationTask> found = named_task(named.name, "folder", split);
      if (!found.ok() || !serves(found->kind, task)) continue;
      for (const std::string& each : found->data.paths) {
        if (std::filesystem::path(each).filename() == name) return std::move(found).value();
      }
    }
  }
  return std::nullopt;
}

Schema published_schema(TuneTask task, const EvaluationTask& published) {
  constexpr double kMostSimilar = 5;  // of STS-B's scores, from 0
  const DataColumns& names = published.data.columns;
  std::vector<Column> columns = {{Part::kText, names.text}};
  if (!names.pair.empty()) columns.push_back({Part::kPair, names.pair});
  if (published.kind == EvaluationKind::kClassification)
    columns.push_back({Part::kLabel, names.label});
  if (published.kind == EvaluationKind::kSimilarity) columns.push_back({Part::kValue, names.score});
  Schema made = schema(columns);
  made.options.format = published.data.format;
  made.options.header = published.data.header;
  made.labels = published.labels;
  // Cosines are learnt, which are at most 1.
  if (task == TuneTask::kEmbeddings) made.value_scale = 1 / kMostSimilar;
  return made;
}

// Whether a table's first row has what is needed.
bool has_columns(const std::string& path, const Schema& schema) {
  const auto reader = RowReader::open(path, schema.options);
  Row row;
  return reader.ok() && (*reader)->next(&row).ok();
}

// The columns of a table tell more than a name that others may give their files, too.
Schema schema_of(TuneTask task, const std::string& path) {
  Schema usual = usual_schema(task);
  const std::optional<EvaluationTask> published = find_published(task, path);
  if (!published) return usual;
  const bool is_table = format_of_file(path, published->data.format) != DataFormat::kJsonLines;
  if (is_table && has_columns(path, usual)) return usual;
  return published_schema(task, *published);
}

// Byte of the text at which character `characters` begins; none where it has fewer.
std::optional<size_t> byte_of_character(std::string_view text, int64_t characters) {
  size_t byte = 0;
  for (; characters > 0; --characters) {
    if (byte >= text.size()) return std::nullopt;
    byte += std::max<size_t>(1, character_bytes(text.substr(byte)));
  }
  return byte;
}

// Where an answer stands in its context, without white space at its ends.
Result<Bytes> find_answer(const std::string& context, const SquadAnswer& answer,
                          const std::string& place) {
  size_t begin = std::string::npos;
  if (answer.start) {
    const std::optional<size_t> byte = byte_of_character(context, *answer.start);
    const bool stands = byte && context.compare(*byte, answer.text.size(), answer.text) == 0;
    if (!stands) {
      return invalid_input(fmt::format(
          "{}: expected the answer {} at character {} of the context, found {}", place,
          quote(answer.text), *answer.start,
          byte ? quote(std::string_view(context).substr(*byte)) : "the end of the context"));
    }
    begin = *byte;
  } else {
    begin = context.find(answer.text);
  }
  if (begin == std::string::npos) {
    return invalid_input(fmt::format("{}: expected an answer that stands in the context, found {}",
                                     place, quote(answer.text)));
  }
  constexpr const char* kSpace = " \t\r\n\f\v";
  const size_t first = answer.text.find_first_not_of(kSpace);
  if (first == std::string::npos) {
    return invalid_input(
        fmt::format("{}: expected an answer of some words, found a blank one", place));
  }
  return Bytes{begin + first, begin + answer.text.find_last_not_of(kSpace) + 1};
}

Result<double> parse_value(const std::string& text, const std::string& place) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool is_number = error == std::errc() && end == text.data() + text.size();
  if (is_number && std::abs(value) <= std::numeric_limits<float>::max()) return value;
  return invalid_input(fmt::format("{}: expected a number as value, found {}", place, quote(text)));
}

std::vector<std::string> split_at_spaces(const std::string& text) {
  std::vector<std::string> words;
  for (size_t begin = 0; (begin = text.find_first_not_of(' ', begin)) != std::string::npos;) {
    const size_t end = std::min(text.find(' ', begin), text.size());
    words.push_back(text.substr(begin, end - begin));
    begin = end;
  }
  return words;
}

// A list of JSON lines, of texts or integers; in a table words with spaces between them.
Result<std::vector<std::string>> parse_words(const RowField& field, const std::string& source) {
  if (field.kind == RowField::Kind::kText) return split_at_spaces(field.text);
  TESSERA_ASSIGN_OR_RETURN(const Json json, parse_json(field.text, source));
  TESSERA_ASSIGN_OR_RETURN(const std::vector<JsonAt> list,
                           JsonAt(json, source).list(0, kMostItems));
  std::vector<std::string> words;
  for (const JsonAt& each : list) {
    const int64_t* const number = each.value().as<int64_t>();
    const std::string* const text = each.value().as<std::string>();
    if (number == nullptr && (text == nullptr || is_blank(*text)))
      return each.wrong("a word or an integer");
    words.push_back(text != nullptr ? *text : fmt::format("{}", *number));
  }
  return words;
}

Result<std::vector<std::string>> texts_of(const JsonAt& list) {
  TESSERA_ASSIGN_OR_RETURN(const std::vector<JsonAt> items, list.list(0, kMostItems));
  std::vector<std::string> texts;
  for (const JsonAt& item : items) {
    TESSERA_ASSIGN_OR_RETURN(std::string text, item.text());
    texts.push_back(std::move(text));
  }
  return texts;
}

Result<SquadAnswer> answer_of(const JsonAt& text, const std::optional<JsonAt>& start) {
  SquadAnswer answer;
  TESSERA_ASSIGN_OR_RETURN(answer.text, text.text());
  if (start) {
    TESSERA_ASSIGN_OR_RETURN(answer.start, start->integer(0, int64_t{1} << 40));
  }
  return answer;
}

// The first of the answers, which may be texts, objects {"text", "answer_start"}, or as one object
// of lists, {"text": [...], "answer_start": [...]}.
Result<std::optional<SquadAnswer>> first_answer(const JsonAt& answers) {
  using Found = std::optional<SquadAnswer>;
  if (answers.is_list()) {
    TESSERA_ASSIGN_OR_RETURN(const std::vector<JsonAt> list, answers.list(0, kMostItems));
    if (list.empty()) return Found();
    if (list[0].value().as<std::string>() != nullptr) {
      TESSERA_ASSIGN_OR_RETURN(SquadAnswer answer, answer_of(list[0], std::nullopt));
      return Found(std::move(answer));
    }
    TESSERA_ASSIGN_OR_RETURN(const JsonAt text, list[0].need("text"));
    TESSERA_ASSIGN_OR_RETURN(SquadAnswer answer, answer_of(text, list[0].find("answer_start")));
    return Found(std::move(answer));
  }
  TESSERA_ASSIGN_OR_RETURN(const JsonAt text, answers.need("text"));
  TESSERA_ASSIGN_OR_RETURN(const std::vector<std::string> texts, texts_of(text));
  if (texts.empty()) return Found();
  SquadAnswer answer{texts[0], std::nullopt};
  if (const std::optional<JsonAt> start = answers.find("answer_start")) {
    TESSERA_ASSIGN_OR_RETURN(const std::vector<JsonAt> starts, start->list(1, kMostItems));
    TESSERA_ASSIGN_OR_RETURN(answer.start, starts[0].integer(0, int64_t{1} << 40));
  }
  return Found(std::move(answer));
}

Status take_answers(const RowField& field, Record& record) {
  std::optional<SquadAnswer> answer;
  if (field.kind == RowField::Kind::kText) {
    answer = SquadAnswer{field.text, std::nullopt};
  } else {
    const std::string source = record.place + ": answers";
    TESSERA_ASSIGN_OR_RETURN(const Json json, parse_json(field.text, source));
    TESSERA_ASSIGN_OR_RETURN(answer, first_answer(JsonAt(json, source)));
  }
  if (!answer) return {};
  TESSERA_ASSIGN_OR_RETURN(record.answer, find_answer(*record.pair, *answer, record.place));
  return {};
}

Status take_tokens(const RowField& field, Record& record) {
  TESSERA_ASSIGN_OR_RETURN(const std::vector<std::string> words,
                           parse_words(field, record.place + ": tokens"));
  for (const std::string& word : words) {
    if (!record.text.empty()) record.text += ' ';
    record.words.push_back({record.text.size(), record.text.size() + word.size()});
    record.text += word;
  }
  return {};
}

Status take_labels(const RowField& field, Record& record) {
  TESSERA_ASSIGN_OR_RETURN(record.word_labels, parse_words(field, record.place + ": labels"));
  const size_t words = record.words.size(), labels = record.word_labels.size();
  if (words > 0 && words == labels) return {};
  return invalid_input(
      words == 0 ? fmt::format("{}: expected at least one token, found none", record.place)
                 : fmt::format("{}: expected as many labels as tokens, {}, found {}", record.place,
                               words, labels));
}

// How tables write an answer that there is not.
bool may_be_blank(Part part, const RowField& field) {
  return part == Part::kAnswers && field.kind == RowField::Kind::kText;
}

Status check_field(const RowField& field, Part part, const std::string& name,
                   const std::string& place) {
  const bool missing =
      field.kind == RowField::Kind::kAbsent || (is_blank(field.text) && !may_be_blank(part, field));
  if (missing) {
    return invalid_input(
        fmt::format("{}: expected something in column \"{}\", found nothing", place, name));
  }
  const bool is_text = part == Part::kText || part == Part::kPair;
  if (!is_text || field.kind == RowField::Kind::kText) return {};
  return invalid_input(fmt::format("{}: expected a text in column \"{}\", found {}", place, name,
                                   quote(field.text)));
}

Status take_field(const RowField& field, Part part, double value_scale, Record& record) {
  switch (part) {
    case Part::kText:
      record.text = field.text;
      return {};
    case Part::kPair:
      record.pair = field.text;
      return {};
    case Part::kLabel:
      record.label = field.text;
      return {};
    case Part::kValue: {
      TESSERA_ASSIGN_OR_RETURN(const double value, parse_value(field.text, record.place));
      record.value = value * value_scale;
      return {};
    }
    case Part::kTokens:
      return take_tokens(field, record);
    case Part::kLabels:
      return take_labels(field, record);
    case Part::kAnswers:
      if (is_blank(field.text)) return {};
      return take_answers(field, record);
  }
  return {};
}

Result<Record> make_record(const Schema& schema, const RowReader& reader, const Row& row) {
  Record record{.place = fmt::format("{}, line {}", reader.name(), row.line)};
  const size_t needed = schema.options.columns.size();
  for (size_t i = 0; i < row.fields.size(); ++i) {
    const RowField& field = row.fields[i];
    const bool is_optional = i >= needed;
    if (is_optional && field.kind == RowField::Kind::kAbsent) continue;
    const std::string& name =
        is_optional ? schema.options.optional_columns[i - needed] : schema.options.columns[i];
    TESSERA_RETURN_IF_ERROR(check_field(field, schema.parts[i], name, record.place));
    TESSERA_RETURN_IF_ERROR(take_field(field, schema.parts[i], schema.value_scale, record));
  }
  return record;
}

Status read_rows(const Schema& schema, const std::string& path, std::vector<Record>& rows) {
  TESSERA_ASSIGN_OR_RETURN(const std::unique_ptr<RowReader> reader,
                           RowReader::open(path, schema.options));
  for (Row row;;) {
    TESSERA_ASSIGN_OR_RETURN(const bool more, reader->next(&row));
    if (!more) return {};
    TESSERA_ASSIGN_OR_RETURN(Record record, make_record(schema, *reader, row));
    rows.push_back(std::move(record));
  }
}

Status read_questions(const std::string& path, std::vector<Record>& rows) {
  return evaluation::read_squad(path, [&](Result<SquadQuestion> question) -> Status {
    TESSERA_RETURN_IF_ERROR(question.status());
    Record record{.place = question->place, .text = question->question, .pair = question->context};
    if (!question->answers.empty()) {
      TESSERA_ASSIGN_OR_RETURN(
          record.answer,
          find_answer(question->context, question->answers.front(), question->place));
    }
    rows.push_back(std::move(record));
    return {};
  });
}

// The first row says whether all have the optional part.
Status check_alike(const std::vector<Record>& rows) {
  for (const Record& row : rows) {
    const char* part = row.pair.has_value() != rows[0].pair.has_value()     ? "second text"
                       : row.value.has_value() != rows[0].value.has_value() ? "value"
                                                                            : nullptr;
    if (part == nullptr) continue;
    const bool has =
        part == std::string_view("value") ? row.value.has_value() : row.pair.has_value();
    return invalid_input(fmt::format("{}: expected {} {}, as in {}, found {}", row.place,
                                     has ? "no" : "a", part, rows[0].place, has ? "one" : "none"));
  }
  return {};
}

}  // namespace

Result<Records> read_records(TuneTask task, const std::vector<std::string>& paths) {
  Records records;
  for (size_t i = 0; i < paths.size(); ++i) {
    if (task == TuneTask::kQuestionAnswering && paths[i].ends_with(".json")) {
      TESSERA_RETURN_IF_ERROR(read_questions(paths[i], records.rows));
      continue;
    }
    const Schema schema = schema_of(task, paths[i]);
    if (i > 0 && schema.labels != records.labels) {
      return invalid_input(
          fmt::format("{}: expected data with the labels of {}, found others", paths[i], paths[0]));
    }
    records.labels = schema.labels;
    TESSERA_RETURN_IF_ERROR(read_rows(schema, paths[i], records.rows));
  }
  if (records.rows.empty()) {
    return invalid_input(
        fmt::format("{}: expected at least one example, found none", fmt::join(paths, ", ")));
  }
  TESSERA_RETURN_IF_ERROR(check_alike(records.rows));
  return records;
}

}  // namespace tessera::training
