#include "cli/records.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "cli/inputs.h"

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

std::vector<std::string> formats_of(const RecordOptions& options) {
  std::vector<std::string> names;
  for (const FormatName& each : kFormats) {
    if (accepts(options, each.format)) names.push_back(each.name);
  }
  return names;
}

RecordFormat format_called(const std::string& text) {
  return std::find_if(kFormats.begin(), kFormats.end(),
                      [&](const FormatName& each) { return text == each.name; })
      ->format;
}

std::vector<std::string> parse_kept(const std::string& text) {
  std::vector<std::string> names = split_at_commas(text);
  std::vector<std::string> sorted = names;
  std::sort(sorted.begin(), sorted.end());
  if (sorted.front().empty() || std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end()) {
    bad_value("--keep-columns", "names between commas, each of them once", text);
  }
  return names;
}

void check_format(const RecordOptions& options) {
  const RecordFormat format = format_of(options);
  const bool has_columns = format == RecordFormat::kCsv || format == RecordFormat::kTsv;
  if ((options.column || options.pair_column) && !has_columns &&
      format != RecordFormat::kJsonLines) {
    lacks(options.column ? "--column" : "--pair-column", "--format csv, tsv or jsonl");
  }
  if (!options.keep_columns.empty() && !has_columns && format != RecordFormat::kJsonLines) {
    lacks("--keep-columns", "--format csv, tsv or jsonl");
  }
  if (options.header && !has_columns) {
    lacks("--header", "--format csv or tsv");
  }
  if (!accepts(options, format)) {
    usage_error(fmt::format("{}: expected --format {}", options.file.value_or("standard input"),
                            either_of(formats_of(options))));
  }
  if (options.pairs == RecordPair::kRequired && format == RecordFormat::kLines) {
    usage_error("expected --format csv, tsv or jsonl, since each input has two texts, found lines");
  }
}

// Where an input can only be ids, what stands where other verbs have texts is ids too.
void take_ids(RecordOptions* options) {
  if (options->content != RecordContent::kIds || !options->ids.empty()) return;
  for (const std::string& text : std::exchange(options->texts, {})) {
    Result<std::vector<int32_t>> ids = parse_ids(text);
    if (!ids.ok()) usage_error(ids.status().message());
    options->ids.push_back(std::move(ids).value());
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
  if (has_ending(file, ".csv")) return RecordFormat::kCsv;
  if (has_ending(file, ".tsv") || has_ending(file, ".tab")) return RecordFormat::kTsv;
  for (const char* ending : {".jsonl", ".ndjson", ".json"}) {
    if (has_ending(file, ending)) return RecordFormat::kJsonLines;
  }
  return options.usual;
}

std::vector<std::string> kept_names(const RecordOptions& options) {
  return options.keep_columns.empty() ? std::vector<std::string>{"id"} : options.keep_columns;
}

bool has_format_options(const RecordOptions& options) {
  return options.format != RecordFormat::kAuto || options.column || options.pair_column ||
         options.header || !options.keep_columns.empty();
}

void check_records(const RecordOptions& options) {
  const int ways =
      (options.texts.empty() ? 0 : 1) + (options.ids.empty() ? 0 : 1) + (options.file ? 1 : 0);
  if (ways > 1) usage_error("expected texts, --file or --ids, found more than one of them");
  const bool reads = options.texts.empty() && options.ids.empty();
  if (!reads && has_format_options(options)) {
    usage_error("expected --format and columns with a file or standard input, found other inputs");
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
  parser.group("Input");
  parser.add_choice({"--format", "FORMAT",
                     fmt::format("Read inputs as {} (default: from the file name, else {}).",
                                 either_of(formats_of(*options)),
                                 options->usual == RecordFormat::kJsonLines ? "jsonl" : "lines"),
                     formats_of(*options)},
                    [options](const std::string& text) { options->format = format_called(text); });
  parser.add_text({"--keep-columns", "NAME,...",
                   "Carry these columns or keys over into the results (default: id, where there is "
                   "one)."},
                  [options](const std::string& text) { options->keep_columns = parse_kept(text); });
  parser.add_choice({"--on-error",
                     "WHAT",
                     "At an input that is wrong, stop, or skip it and go on (default: stop).",
                     {"stop", "skip"}},
                    [options](const std::string& text) {
                      options->on_error = text == "skip" ? OnError::kSkip : OnError::kStop;
                    });
  if (options->content == RecordContent::kIds) return;
  parser.add_text({"--column", "NAME",
                   "Take the text from this column of CSV or TSV (its name or number) or this key "
                   "of JSON lines."},
                  &options->column);
  if (options->pairs != RecordPair::kNone) {
    parser.add_text({"--pair-column", "NAME", "Take the second text from this column or key."},
                    &options->pair_column);
  }
  parser.add_flag("--header", &options->header,
                  "Read column names from the first row (implied when --column is a name).");
}

void add_record_options(Parser& parser, RecordOptions* options) {
  parser.group("Input");
  parser.add_text({"--file", "FILE", "Read inputs from FILE; - is standard input."},
                  &options->file);
  add_format_options(parser, options);
  if (options->content != RecordContent::kIds && options->pairs != RecordPair::kNone) {
    parser.add_texts({"--pair", "TEXT",
                      "Add TEXT as the second text of an input; repeat it for "
                      "each."},
                     &options->text_pairs);
  }
  if (options->content != RecordContent::kText) {
    parser.add_ids("Use these token ids as an input; may be repeated.", &options->ids);
  }
}

std::optional<int> parse_records(Parser& parser, const Arguments& arguments,
                                 RecordOptions* options) {
  // Texts are no CLI11 option: that would take "[a, b]" for a list of two texts.
  parser.keep_rest();
  if (const auto code = parser.parse(arguments)) return code;
  try {
    options->texts = parser.rest();
    take_ids(options);
    check_records(*options);
  } catch (const UsageError& error) {
    return parser.report_usage(error.what());
  }
  return std::nullopt;
}

}  // namespace tessera::cli
