#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cli/options.h"
#include "cli/record_run.h"
#include "cli/records.h"
#include "tessera/tasks.h"

namespace tessera::cli {

// What the verbs over models with a head share.
struct TaskVerb {
  ModelOptions model;
  RecordOptions records;
  std::optional<std::string> output;
  bool json = false;
  bool logits = false;
  bool refuse_long = false;
};

// Declares --json, --logits, -o, those of records and those of the model. `json` and `logits` say
// in the help what the two add.
struct TaskHelp {
  const char* json;
  const char* logits = nullptr;  // none: the verb gives no logits
};
void add_task_options(Parser& parser, const TaskHelp& help, TaskVerb* verb);
// --refuse-long, for verbs that cut texts.
void add_refuse_long(Parser& parser, TaskVerb* verb);

// What a verb writes whose JSON objects have these keys.
ResultOptions results_of(const TaskVerb& verb, std::vector<std::string> keys);

// Usage errors that show only when all options are known.
std::optional<int> parse_task(Parser& parser, const Arguments& arguments, TaskVerb* verb);

// Loads the model; kUnsupported, with the verb that fits instead, when it has none of these heads.
Result<std::shared_ptr<Model>> load_for(const TaskVerb& verb, std::span<const Head> heads);

// Progress and what the verb says about long texts.
template <typename Options = TaskOptions>
Options task_options(const TaskVerb& verb, RecordRun& run) {
  Options options;
  options.too_long = verb.refuse_long ? TooLong::kRefuse : TooLong::kCut;
  options.on_progress = [&run](int64_t done) { return run.progress(done); };
  return options;
}

// One object of JSON on a line. Values are written in their order; a key occurs once.
class JsonLine {
 public:
  JsonLine& text(std::string_view key, std::string_view value);
  JsonLine& number(std::string_view key, float value);  // finite; shortest that reads back the same
  JsonLine& integer(std::string_view key, int64_t value);
  JsonLine& truth(std::string_view key, bool value);
  JsonLine& raw(std::string_view key, std::string_view json);
  std::string object() const { return "{" + members_ + "}"; }
  std::string line() const { return object() + "\n"; }

 private:
  void begin(std::string_view key);
  std::string members_;
};
std::string json_text(std::string_view text);
std::string json_array(std::span<const float> values);
std::string json_array(std::span<const int32_t> values);
std::string json_array(std::span<const std::string> json_values);
// Rows of `width` values each.
std::string json_rows(std::span<const float> values, size_t width);

// What a record holds: "text" and "pair", or "ids".
void add_record(const Record& record, JsonLine* line);

// Where the bytes of a text stand among its characters (Unicode code points), in which Python and
// most data sets count.
class CharacterIndex {
 public:
  explicit CharacterIndex(std::string_view text);
  int64_t of(int64_t byte) const { return before_[static_cast<size_t>(byte)]; }

 private:
  std::vector<int32_t> before_;  // characters that begin before each byte, and before the end
};

// A text that stays on its line and leaves a terminal as it is: control characters become spaces.
std::string on_one_line(std::string_view text);

}  // namespace tessera::cli
