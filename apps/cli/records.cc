#include "cli/records.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace tessera::cli {
namespace {

struct FormatName {
  const char* name;
  RecordFormat format;
};
constexpr std::array kFormats = {
    FormatName{"lines", RecordFormat::kLines}, FormatName{"csv", RecordFormat::kCsv},
    FormatName{"tsv", RecordFormat::kTsv}, FormatName{"jsonl", RecordFormat::kJsonLines},
    FormatName{"ids", RecordFormat::kIds}};

bool accepts(const RecordOptions& options, RecordFormat format) {
  switch (format) {
    case RecordFormat::kLines:
    case RecordFormat::kCsv:
    case RecordFormat::kTsv:
      return options.content != RecordContent::kIds;
    case RecordFormat::kIds:
      return options.content != RecordContent::kText;
    case RecordFormat::kAuto:
    case RecordFormat::kJsonLines:
      break;
  }
  return true;
}

std::string names_of_formats(const RecordOptions& options) {
  std::string names;
  for (const FormatName& each : kFormats) {
    if (accepts(options, each.format))
      names += (names.empty() ? "" : ", ") + std::string(each.name);
  }
  return names;
}

RecordFormat parse_format(const RecordOptions& options, const std::string& text) {
  for (const FormatName& each : kFormats) {
    if (text == each.name && accepts(options, each.format)) return each.format;
  }
  usage_error(fmt::format("--format: expected {}, found \"{}\"", names_of_formats(options), text));
}

void check_format(const RecordOptions& options) {
  const RecordFormat format = format_of(options);
  const bool has_columns = format == RecordFormat::kCsv || format == RecordFormat::kTsv;
  if ((options.column || options.pair_column) && !has_columns &&
      format != RecordFormat::kJsonLines) {
    usage_error("--column, --pair-column: expected --format csv, tsv or jsonl, found none");
  }
  if (options.header && !has_columns) {
    usage_error("--header: expected --format csv or tsv, found none");
  }
  if (!accepts(options, format)) {
    usage_error(fmt::format("{}: expected one of the formats {} (--format)",
                            options.file.value_or("standard input"), names_of_formats(options)));
  }
  if (options.pairs == RecordPair::kRequired && format == RecordFormat::kLines) {
    usage_error("expected --format csv, tsv or jsonl, since each input has two texts");
  }
}

}  // namespace

TaskInput as_input(const Record& record) {
  return {record.text.value_or(""), record.pair, record.tokens};
}

std::vector<TaskInput> as_inputs(std::span<const Record> records) {
  std::vector<TaskInput> inputs;
  inputs.reserve(records.size());
  for (const Record& record : records) inputs.push_back(as_input(record));
  return inputs;
}

RecordFormat format_of(const RecordOptions& options) {
  if (options.format != RecordFormat::kAuto) return options.format;
  const std::string& file = options.file.value_or("");
  if (file.ends_with(".csv")) return RecordFormat::kCsv;
  if (file.ends_with(".tsv") || file.ends_with(".tab")) return RecordFormat::kTsv;
  for (const char* ending : {".jsonl", ".ndjson", ".json"}) {
    if (file.ends_with(ending)) return RecordFormat::kJsonLines;
  }
  return options.usual;
}

bool has_format_options(const RecordOptions& options) {
  return options.format != RecordFormat::kAuto || options.column || options.pair_column ||
         options.header;
}

void check_records(const RecordOptions& options) {
  const int ways =
      (options.texts.empty() ? 0 : 1) + (options.ids.empty() ? 0 : 1) + (options.file ? 1 : 0);
  if (ways > 1) usage_error("expected texts, --file or --ids, found several");
  const bool reads = options.texts.empty() && options.ids.empty();
  if (!reads && has_format_options(options)) {
    usage_error("expected --format and columns with a file or standard input, found other inputs");
  }
  if (!options.texts.empty() && options.content == RecordContent::kIds) {
    usage_error(fmt::format("expected token ids, found the text \"{}\"", options.texts[0]));
  }
  if (!options.ids.empty() && options.content == RecordContent::kText) {
    usage_error("expected texts, found --ids");
  }
  const bool needs_pairs = options.pairs == RecordPair::kRequired && !options.texts.empty();
  if ((needs_pairs || !options.text_pairs.empty()) &&
      options.text_pairs.size() != options.texts.size()) {
    usage_error(fmt::format("{}: expected one for each text, {} in all, found {}",
                            options.pair_options, options.texts.size(), options.text_pairs.size()));
  }
  if (reads) check_format(options);
}

void add_format_options(Parser& parser, RecordOptions* options) {
  parser.add_text(
      {"--format", "FORMAT",
       fmt::format("How the inputs are written: {} (default: by the file's ending)",
                   names_of_formats(*options))},
      [options](const std::string& text) { options->format = parse_format(*options, text); });
  if (options->content == RecordContent::kIds) return;
  parser.add_text(
      {"--column", "NAME",
       "The column (name or number) of CSV and TSV, or the key of JSON lines, that holds the "
       "text"},
      &options->column);
  if (options->pairs != RecordPair::kNone) {
    parser.add_text({"--pair-column", "NAME", "The same for the second text"},
                    &options->pair_column);
  }
  parser.add_flag("--header", &options->header,
                  "The first row holds the columns' names; so it does where --column is a name");
}

void add_record_options(Parser& parser, RecordOptions* options) {
  parser.add_text({"--file", "FILE", "Read the inputs from FILE (- for standard input)"},
                  &options->file);
  add_format_options(parser, options);
  if (options->content != RecordContent::kIds && options->pairs != RecordPair::kNone) {
    parser.add_texts({"--pair", "TEXT", "The second text of a TEXT; once for each"},
                     &options->text_pairs);
  }
  if (options->content != RecordContent::kText) {
    parser.add_ids("Take these token ids; may be given again", &options->ids);
  }
}

std::optional<int> parse_records(Parser& parser, const Arguments& arguments,
                                 RecordOptions* options) {
  // Texts are no CLI11 option: that would take "[a, b]" for a list of two texts.
  parser.keep_rest();
  const auto dashes = std::find(arguments.begin(), arguments.end(), "--");
  if (const auto code = parser.parse({arguments.begin(), dashes})) return code;
  try {
    options->texts = parser.rest();
    for (const std::string& text : options->texts) {
      if (text.size() > 1 && text[0] == '-') usage_error(fmt::format("unknown option {}", text));
    }
    if (dashes != arguments.end()) {
      options->texts.insert(options->texts.end(), dashes + 1, arguments.end());
    }
    check_records(*options);
  } catch (const UsageError& error) {
    return parser.report_usage(error.what());
  }
  return std::nullopt;
}

}  // namespace tessera::cli
