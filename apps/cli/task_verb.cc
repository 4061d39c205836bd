#include "cli/task_verb.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

namespace tessera::cli {
namespace {

struct HeadVerb {
  Head head;
  const char* does;
  const char* verb;
};
constexpr HeadVerb kHeadVerbs[] = {
    {Head::kNone, "an encoder of texts", "embed"},
    {Head::kCausalLm, "a language model that continues texts", "run"},
    {Head::kMaskedLm, "a masked language model", "fill-mask"},
    {Head::kSequenceClassification, "a classifier of texts", "classify"},
    {Head::kTokenClassification, "a classifier of tokens", "tag"},
    {Head::kQuestionAnswering, "a model that finds answers", "answer"},
};

const HeadVerb& verb_of(Head head) {
  return *std::find_if(std::begin(kHeadVerbs), std::end(kHeadVerbs),
                       [&](const HeadVerb& row) { return row.head == head; });
}

}  // namespace

void add_task_options(Parser& parser, const TaskHelp& help, TaskVerb* verb) {
  add_record_options(parser, &verb->records);
  parser.group("Output");
  parser.add_flag("--json", &verb->json, help.json);
  if (help.logits != nullptr) parser.add_flag("--logits", &verb->logits, help.logits);
  parser.add_text({"-o,--output", "FILE",
                   "Write to FILE instead of standard output, as JSON lines if it ends in .jsonl."},
                  &verb->output);
  add_model_options(parser, &verb->model);
  add_trace_option(parser, &verb->model);
}

ResultOptions results_of(const TaskVerb& verb, std::vector<std::string> keys) {
  return {verb.output, verb.json, ResultKind::kTexts, std::move(keys)};
}

void add_refuse_long(Parser& parser, TaskVerb* verb) {
  parser.group("Input");
  parser.add_flag("--refuse-long", &verb->refuse_long,
                  "Fail when a text is longer than the model's context instead of cutting it.");
}

std::optional<int> parse_task(Parser& parser, const Arguments& arguments, TaskVerb* verb) {
  parser.then([verb] {
    verb->json = format_of(results_of(*verb, {})) == ResultFormat::kJson;
    if (verb->logits && !verb->json) lacks("--logits", "--json");
  });
  return parse_records(parser, arguments, &verb->records);
}

Result<std::shared_ptr<Model>> load_for(const TaskVerb& verb, std::span<const Head> heads) {
  Result<std::shared_ptr<Model>> model = load_model(verb.model);
  if (!model.ok()) return model;
  const ModelInfo& info = (*model)->info();
  const bool fits = std::find(heads.begin(), heads.end(), info.head) != heads.end() &&
                    !(info.head == Head::kNone && info.is_decoder);
  if (fits) return model;
  std::string expected;
  for (const Head head : heads) {
    expected += fmt::format("{}{}", expected.empty() ? "" : " or ", verb_of(head).does);
  }
  return unsupported(fmt::format("expected {}, found {} in {}: try tessera {}", expected,
                                 verb_of(info.head).does, info.directory, verb_of(info.head).verb));
}

void JsonLine::begin(std::string_view key) {
  if (!members_.empty()) members_ += ',';
  members_ += json_text(key);
  members_ += ':';
}

JsonLine& JsonLine::raw(std::string_view key, std::string_view json) {
  begin(key);
  members_ += json;
  return *this;
}
JsonLine& JsonLine::text(std::string_view key, std::string_view value) {
  return raw(key, json_text(value));
}
JsonLine& JsonLine::number(std::string_view key, float value) {
  return raw(key, fmt::format("{}", value));
}
JsonLine& JsonLine::integer(std::string_view key, int64_t value) {
  return raw(key, fmt::format("{}", value));
}
JsonLine& JsonLine::truth(std::string_view key, bool value) {
  return raw(key, value ? "true" : "false");
}

std::string json_text(std::string_view text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string json_array(std::span<const float> values) {
  return fmt::format("[{}]", fmt::join(values, ","));
}
std::string json_array(std::span<const int32_t> values) {
  return fmt::format("[{}]", fmt::join(values, ","));
}
std::string json_array(std::span<const std::string> json_values) {
  return fmt::format("[{}]", fmt::join(json_values, ","));
}

std::string json_rows(std::span<const float> values, size_t width) {
  std::vector<std::string> rows;
  for (; !values.empty(); values = values.subspan(width)) {
    rows.push_back(json_array(values.first(width)));
  }
  return json_array(rows);
}

void add_record(const Record& record, JsonLine* line) {
  if (record.tokens) {
    line->raw("ids", json_array(record.tokens->ids));
    return;
  }
  line->text("text", record.text.value_or(""));
  if (record.pair) line->text("pair", *record.pair);
}

CharacterIndex::CharacterIndex(std::string_view text) {
  before_.reserve(text.size() + 1);
  int32_t characters = 0;
  for (const char c : text) {
    const bool begins = (static_cast<unsigned char>(c) & 0xC0) != 0x80;
    before_.push_back(characters);
    characters += begins ? 1 : 0;
  }
  before_.push_back(characters);
}

std::string on_one_line(std::string_view text) {
  std::string line(text);
  std::replace_if(
      line.begin(), line.end(), [](unsigned char c) { return c < 0x20 || c == 0x7F; }, ' ');
  return line;
}

}  // namespace tessera::cli
