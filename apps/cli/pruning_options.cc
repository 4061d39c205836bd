#include "cli/pruning_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <string_view>
#include <vector>

#include "cli/inputs.h"
#include "tessera/pruning.h"

namespace tessera::cli {
namespace {

constexpr std::string_view kNone = "none", kThreshold = "threshold=";

// The options that make a member of a schedule each.
struct Member {
  const char* option;
  const char* key;
};
constexpr Member kMembers[] = {
    {"--keep-tokens", "tokens"}, {"--keep-heads", "heads"},      {"--keep-values", "values"},
    {"--key-bits", "key_bits"},  {"--value-bits", "value_bits"}, {"--refetch", "refetch"},
};

// As JSON; the library checks the range.
std::string number_of(const char* option, const char* expected, std::string_view text,
                      std::string_view whole) {
  double number = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc() || stop != end || !std::isfinite(number))
    bad_value(option, expected, whole);
  return fmt::format("{}", number);
}

// A number, or a list of one for each layer.
std::string numbers_of(const char* option, const char* expected, const std::string& text) {
  std::string list;
  const std::vector<std::string> entries = split_at_commas(text);
  for (const std::string& entry : entries)
    list += (list.empty() ? "" : ", ") + number_of(option, expected, entry, text);
  return entries.size() > 1 ? "[" + list + "]" : list;
}

std::string values_of(const std::string& text) {
  constexpr const char* kExpected = "a share, one for each layer as 0.5,0.3, or threshold=T";
  if (!text.starts_with(kThreshold)) return numbers_of("--keep-values", kExpected, text);
  const std::string_view threshold = std::string_view(text).substr(kThreshold.size());
  return fmt::format(R"({{"threshold": {}}})",
                     number_of("--keep-values", kExpected, threshold, text));
}

std::string refetch_of(const std::string& text) {
  constexpr const char* kExpected = "a probability, as 0.05, or a multiple as 8,length";
  const size_t comma = std::min(text.find(','), text.size());
  const std::string_view scale = std::string_view(text).substr(comma);
  if (!scale.empty() && scale != ",length") bad_value("--refetch", kExpected, text);
  return fmt::format(
      R"({{"below": {}, "scale": "{}"}})",
      number_of("--refetch", kExpected, std::string_view(text).substr(0, comma), text),
      scale.empty() ? "none" : "length");
}

void put(PruningOptions* options, const char* key, std::string json) {
  options->parts[key] = std::move(json);
  options->text.clear();
  for (const auto& [name, value] : options->parts)
    options->text += fmt::format("{}\"{}\": {}", options->text.empty() ? "{" : ", ", name, value);
  options->text += "}";
}

std::vector<std::string> preset_names() {
  std::vector<std::string> names;
  for (const PruningPreset& preset : pruning_presets()) names.push_back(preset.name);
  return names;
}

void take_pruning(const std::string& text, PruningOptions* options) {
  std::vector<std::string> words = preset_names();
  words.emplace_back(kNone);
  options->text = text;
  if (std::find(words.begin(), words.end(), text) != words.end()) return;
  Result<std::string> schedule = read_text(text);
  if (!schedule.ok()) {
    usage_error(fmt::format("--pruning: expected a file or {}; {}", either_of(words),
                            schedule.status().message()));
  }
  // For the library no text is the model's own schedule.
  if (schedule->empty())
    usage_error(fmt::format("--pruning: expected a schedule in {}, found an empty file", text));
  options->text = *std::move(schedule);
  options->file = text;
}

}  // namespace

void add_pruning_options(Parser& parser, PruningOptions* options) {
  parser.group("Cascade pruning");
  std::vector<Option> members;
  members.push_back(parser.add_text(
      {"--keep-tokens", "SHARES",
       "Let tokens leave that few others attend to: keep this share on average, one share for each "
       "layer as 1,0.8,0.5, or a number of tokens from 2 on."},
      [options](const std::string& text) {
        constexpr const char* kExpected =
            "a share, one for each layer as 1,0.8,0.5, or a number of tokens";
        put(options, "tokens", numbers_of("--keep-tokens", kExpected, text));
      }));
  members.push_back(parser.add_text(
      {"--keep-heads", "SHARES",
       "Let heads leave that give little: keep this share on average, or one share for each "
       "layer."},
      [options](const std::string& text) {
        constexpr const char* kExpected = "a share, or one for each layer as 1,0.8,0.5";
        put(options, "heads", numbers_of("--keep-heads", kExpected, text));
      }));
  members.push_back(parser.add_text(
      {"--keep-values", "SHARES",
       "While generating, read the values of the largest probabilities alone: this share, one "
       "share for each layer, or with threshold=T those above T times the largest."},
      [options](const std::string& text) { put(options, "values", values_of(text)); }));
  members.push_back(parser.add_choice(
      {"--key-bits",
       "BITS",
       "Keep a decoder's keys and values as integers, keys with so many bits: 8+4, 6+4, 8 or 4, of "
       "which the second ones are read where the first leave no clear favourite.",
       {"8+4", "6+4", "8", "4"}},
      [options](const std::string& text) { put(options, "key_bits", "\"" + text + "\""); }));
  members.push_back(
      parser.add_choice({"--value-bits",
                         "BITS",
                         "With --key-bits, keep values with 8, 6 or 4 bits (default: 8).",
                         {"8", "6", "4"}},
                        [options](const std::string& text) { put(options, "value_bits", text); }));
  members.push_back(parser.add_text(
      {"--refetch", "BELOW",
       "With --key-bits 8+4 or 6+4, read the second bits where no probability reaches BELOW; with "
       "8,length where none reaches 8 over the number of keys (default: 0.05)."},
      [options](const std::string& text) { put(options, "refetch", refetch_of(text)); }));
  const Option pruning = parser.add_text(
      {"--pruning", "FILE",
       fmt::format("Prune as the schedule in FILE says, or as a published one: {}; none leaves out "
                   "what is saved with the model.",
                   either_of(preset_names()))},
      [options](const std::string& text) { take_pruning(text, options); });
  for (const Option& member : members) pruning.excludes({member});
}

Status with_pruning_source(const Status& status, const PruningOptions& options) {
  constexpr std::string_view kSchedule = "pruning: ";
  if (!status.message().starts_with(kSchedule)) return status;
  const std::string_view rest = std::string_view(status.message()).substr(kSchedule.size());
  if (!options.file.empty()) return {status.code(), fmt::format("{}: {}", options.file, rest)};
  for (const Member& member : kMembers) {
    const std::string_view key = member.key;
    if (!options.parts.contains(member.key) || !rest.starts_with(key)) continue;
    return {status.code(), fmt::format("{}{}", member.option, rest.substr(key.size()))};
  }
  return status;
}

}  // namespace tessera::cli
