#include "cli/help.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

namespace tessera::cli {
namespace {

constexpr int kHelpColumn = 28;   // where the text of an option begins
constexpr int kLeastText = 24;    // columns of text beside an option; with fewer it goes below
constexpr int kNarrowIndent = 6;  // where it begins then

std::string in_one_paragraph(std::string_view text) {
  std::string joined(text);
  std::replace(joined.begin(), joined.end(), '\n', ' ');
  return joined;
}

std::string heading_of(const OptionDescription& option) {
  std::string heading =
      option.short_name.empty() ? "      " : fmt::format("  {}, ", option.short_name);
  heading += option.long_name;
  if (!option.placeholder.empty()) heading += " " + option.placeholder;
  return heading;
}

std::string line_of(const OptionDescription& option, int width) {
  std::string text = heading_of(option);
  const bool below = width < kHelpColumn + kLeastText;
  const int indent = below ? kNarrowIndent : kHelpColumn;
  std::string help = wrapped(option.help, width, indent);
  if (!below && columns_of(text) <= kHelpColumn - 2) {
    // The first line of the help stands beside the option.
    text.resize(static_cast<size_t>(kHelpColumn), ' ');
    return text + help.substr(static_cast<size_t>(kHelpColumn));
  }
  return text + "\n" + help;
}

constexpr std::string_view kContinuation = "      ";  // before what goes on

// Where a command may be broken: before the last option that begins before `most`, else at the last
// space there, else at the first one after it; outside quotes and after the indentation.
size_t break_of(std::string_view line, size_t most) {
  size_t place = std::string_view::npos, option = std::string_view::npos;
  bool quoted = false;
  for (size_t i = 0; i < line.size() && (i < most || place == std::string_view::npos); ++i) {
    if (line[i] == '"') quoted = !quoted;
    if (line[i] != ' ' || quoted || i < kContinuation.size()) continue;
    place = i;
    if (i < most && i + 1 < line.size() && line[i + 1] == '-') option = i;
  }
  return option != std::string_view::npos ? option : place;
}

// Commands that are wider than `width` go on below, as a shell takes them.
std::string continued(std::string_view commands, int width) {
  const auto widest = static_cast<size_t>(std::max(width, kNarrowIndent + kLeastText));
  std::string text;
  while (!commands.empty()) {
    const size_t end = std::min(commands.find('\n'), commands.size());
    std::string line(commands.substr(0, end));
    commands.remove_prefix(std::min(end + 1, commands.size()));
    while (line.size() > widest && line.find('#') == std::string::npos) {
      const size_t place = break_of(line, widest - 1);
      if (place == std::string::npos) break;
      text += line.substr(0, place) + " \\\n";
      line = std::string(kContinuation) + line.substr(place + 1);
    }
    text += line + "\n";
  }
  return text;
}

std::vector<std::string> groups_of(const VerbDescription& verb) {
  std::vector<std::string> groups;
  for (const OptionDescription& option : verb.options) {
    if (std::find(groups.begin(), groups.end(), option.group) == groups.end())
      groups.push_back(option.group);
  }
  return groups;
}

}  // namespace

int columns_of(std::string_view text) {
  return static_cast<int>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

std::string wrapped(std::string_view text, int width, int indent) {
  const std::string margin(static_cast<size_t>(indent), ' ');
  std::string lines, line;
  const auto end_line = [&] {
    lines += line.empty() ? "\n" : margin + line + "\n";
    line.clear();
  };
  while (!text.empty()) {
    const size_t end = std::min(text.find_first_of(" \n"), text.size());
    const std::string_view word = text.substr(0, end);
    if (!word.empty()) {
      if (!line.empty() && indent + columns_of(line) + 1 + columns_of(word) > width) end_line();
      if (!line.empty()) line += ' ';
      line += word;
    }
    if (end < text.size() && text[end] == '\n') end_line();
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  if (!line.empty() || lines.empty()) end_line();
  return lines;
}

std::string help_of(const VerbDescription& verb, int width) {
  const std::string options = verb.usage.empty() ? "[options]" : "[options] ";
  std::string text =
      wrapped(fmt::format("Usage: tessera {} {}{}", verb.verb, options, verb.usage), width);
  text += "\n" + wrapped(in_one_paragraph(verb.summary), width);
  if (std::find(verb.arguments.begin(), verb.arguments.end(), "MODEL") != verb.arguments.end()) {
    text += "\n" + wrapped(
                       "MODEL is a directory with config.json and *.safetensors, or OWNER/NAME "
                       "in the cache of the Hugging Face hub.",
                       width);
  }
  for (const std::string& group : groups_of(verb)) {
    text += fmt::format("\n{}:\n", group);
    for (const OptionDescription& option : verb.options) {
      if (option.group == group) text += line_of(option, width);
    }
  }
  text += "\n" + wrapped(fmt::format("Any option can also be set by an environment variable ({} "
                                     "sets {}) or in the file of --config.",
                                     variable_of(verb.verb, verb.options.front()),
                                     verb.options.front().long_name),
                         width);
  return text + "\nExamples:\n" + continued(verb.examples, width);
}

}  // namespace tessera::cli
