#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace tessera::cli {

// What stands behind the verb on the command line.
using Arguments = std::vector<std::string>;

struct Synopsis {
  const char* verb;
  const char* usage;  // what follows the verb, as "MODEL [TEXT...]"
  const char* summary;
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

// The command line of a verb. CLI11 does it in parser.cc alone, since every file that includes it
// compiles for seconds longer. Values are written by parse() and must live until then.
class Parser {
 public:
  using Take = std::function<void(const std::string&)>;

  explicit Parser(const Synopsis& synopsis);
  ~Parser();

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
  // A text for each time that it is given.
  Option add_texts(const TextOption& option, std::vector<std::string>* values);
  // A list of token ids for each time that it is given.
  Option add_ids(const char* help, std::vector<std::vector<int32_t>>* values);

  Option option(const char* name) const;
  bool is_given(const char* name) const;

  // Called when all options have their values.
  void then(std::function<void()> check);
  // Arguments that are no options stay in rest() instead of being refused.
  void keep_rest();
  std::vector<std::string> rest() const;

  // On --help and on usage errors prints what is to be said and gives the exit code.
  std::optional<int> parse(const Arguments& arguments);
  // Says what is wrong with the usage of the verb and gives the exit code.
  int report_usage(const std::string& message) const;

 private:
  std::unique_ptr<CLI::App> app_;
};

// What stands between the commas of a list, be it nothing.
std::vector<std::string> split_at_commas(const std::string& text);

}  // namespace tessera::cli
