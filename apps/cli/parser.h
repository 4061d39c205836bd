#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "cli/description.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace tessera::cli {

// What a verb is called with.
struct Arguments {
  std::vector<std::string> words;  // what follows the verb on the command line
  // Where there is one, the verb's parser writes its description there and the verb does nothing
  // else.
  VerbDescription* description = nullptr;
};

struct Synopsis {
  const char* verb;
  const char* usage;     // what follows the options, as "MODEL [TEXT ...]"
  const char* summary;   // whole sentences; lines are broken where it is shown
  const char* examples;  // lines for the end of --help
};

// Numbers outside [min, max], and text that is not one number and nothing else, are usage errors
// that name both.
struct IntegerOption {
  const char* name;
  int64_t min;
  int64_t max;
  const char* help;
};
struct NumberOption {
  const char* name;
  double min;
  double max;
  const char* help;
};
// Text, a file name and the like, called `placeholder` in the help.
struct TextOption {
  const char* name;
  const char* placeholder;
  std::string help;
};

// Text that is one of `choices`.
struct ChoiceOption {
  const char* name;
  const char* placeholder;
  std::string help;
  std::vector<std::string> choices;
};

// An option that a parser knows; the parser owns it.
class Option {
 public:
  explicit Option(CLI::Option* option) : option_(option) {}
  const Option& required() const;
  const Option& optional() const;  // as an option is, and an argument after this call
  const Option& needs(const Option& other) const;
  const Option& excludes(std::initializer_list<Option> others) const;

 private:
  CLI::Option* option_;
};

// What a callback of a parser throws for options that are wrong or do not go together.
struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};
[[noreturn]] void usage_error(const std::string& message);
// Usage errors of one kind have one wording.
[[noreturn]] void bad_value(std::string_view option, std::string_view expected,
                            std::string_view found);
[[noreturn]] void both_given(std::string_view one, std::string_view other);
// `option` has no meaning without `companion`.
[[noreturn]] void lacks(std::string_view option, std::string_view companion);
// bad_value unless `text` is one of `choices`, with a hint at what was meant.
void check_choice(std::string_view option, const std::vector<std::string>& choices,
                  const std::string& text);

// The command line of a verb. CLI11 does it in parser.cc alone, since every file that includes it
// compiles for seconds longer. Values are written by parse() and must live until then.
//
// Every option can also be set by an environment variable, TESSERA_<VERB>_<OPTION>, and in a file
// that --config names; the command line goes before the environment and that before the file.
class Parser {
 public:
  using Take = std::function<void(const std::string&)>;

  explicit Parser(const Synopsis& synopsis);
  ~Parser();

  // The heading under which the options that are declared from here on stand in the help.
  void group(const char* name) { group_ = name; }

  Option add_argument(const char* name, std::string* value, const char* help);  // must be given
  Option add_flag(const char* name, bool* value, const char* help);
  Option add_integer(const IntegerOption& option, std::optional<int64_t>* value);
  Option add_integer(const IntegerOption& option, int* value);
  // Several numbers between commas.
  Option add_integers(const IntegerOption& option, std::vector<int64_t>* values);
  Option add_number(const NumberOption& option, std::optional<double>* value);
  Option add_text(const TextOption& option, std::string* value);
  Option add_text(const TextOption& option, std::optional<std::string>* value);
  Option add_text(const TextOption& option, Take take);
  Option add_choice(const ChoiceOption& option, Take take);
  Option add_choice(const ChoiceOption& option, std::optional<std::string>* value);
  // A text for each time that it is given.
  Option add_texts(const TextOption& option, std::vector<std::string>* values);
  // A list of token ids for each time that it is given.
  Option add_ids(const char* help, std::vector<std::vector<int32_t>>* values);

  Option option(const char* name) const;
  bool is_given(const char* name) const;

  // Called when all options have their values.
  void then(std::function<void()> check);
  // Arguments that are no options stay in rest() instead of being refused: those after MODEL, and
  // after "--" also such as begin with "-".
  void keep_rest() { keeps_rest_ = true; }
  const std::vector<std::string>& rest() const { return rest_; }

  // On --help and on usage errors prints what is to be said and gives the exit code.
  std::optional<int> parse(const Arguments& arguments);
  // Says what is wrong with the usage of the verb and gives the exit code.
  int report_usage(const std::string& message) const;

 private:
  // An option's value that does not come from the command line.
  struct Borrowed {
    std::string option;
    std::string source;  // as messages call it
  };
  class Settings;

  Option declared(CLI::Option* option);
  std::string default_config() const;  // the file that the environment names, or ""
  void parse_words(const std::vector<std::string>& words);
  std::string wrong_with_rest() const;  // of what is neither an option nor its value; "": nothing
  VerbDescription description() const;
  // The message, or what another tool's option among the words calls for.
  std::string explained(std::string message, const std::vector<std::string>& words) const;

  Synopsis synopsis_;
  std::unique_ptr<CLI::App> app_;
  const char* group_ = "General";
  bool quiet_ = false, verbose_ = false, keeps_rest_ = false;
  std::vector<std::string> rest_;
  std::map<const CLI::Option*, std::vector<std::string>> choices_;
  std::vector<Borrowed> borrowed_;
  std::function<void()> check_;
};

// "a", "a or b", "a, b or c".
std::string either_of(const std::vector<std::string>& texts);

// What stands between the commas of a list, be it nothing.
std::vector<std::string> split_at_commas(const std::string& text);

}  // namespace tessera::cli
