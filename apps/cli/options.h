#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tessera/model.h"
#include "tessera/status.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace tessera::cli {

// What stands behind the verb on the command line.
using Arguments = std::vector<std::string>;

// Exit codes.
inline constexpr int kOk = 0;
inline constexpr int kFailed = 1;
inline constexpr int kUsage = 2;
inline constexpr int kInterrupted = 130;

// A verb's parser. usage: what follows the verb, as "MODEL [TEXT...]". examples: lines for the end
// of --help.
struct Synopsis {
  const char* verb;
  const char* usage;
  const char* summary;
  const char* examples;
};
std::unique_ptr<CLI::App> make_parser(const Synopsis& synopsis);

// For verbs that load no weights: MODEL, --threads.
void add_directory_options(CLI::App& app, std::string* directory, int* threads);

// The checkpoint directory and how to load it: MODEL, --threads, --dtype,
// --precompute-vo, --plan.
struct ModelOptions {
  std::string directory;
  LoadOptions load;
};
void add_model_options(CLI::App& app, ModelOptions* options);
// For verbs that run decoders: --cache.
void add_cache_option(CLI::App& app, ModelOptions* options);

// Numbers outside [min, max], and text that is not one number and nothing else, are usage errors
// that name both.
struct IntegerOption {
  const char* name;
  int64_t min;
  int64_t max;
  const char* help;
};
CLI::Option* add_integer(CLI::App& app, const IntegerOption& option, std::optional<int64_t>* value);
// Several numbers between commas.
CLI::Option* add_integers(CLI::App& app, const IntegerOption& option, std::vector<int64_t>* values);

struct NumberOption {
  const char* name;
  double min;
  double max;
  const char* help;
};
CLI::Option* add_number(CLI::App& app, const NumberOption& option, std::optional<double>* value);

// Text, a file name and the like, called `placeholder` in the help.
struct TextOption {
  const char* name;
  const char* placeholder;
  const char* help;
};
CLI::Option* add_text(CLI::App& app, const TextOption& option, std::optional<std::string>* value);

// A text for each time that it is given.
CLI::Option* add_texts(CLI::App& app, const TextOption& option, std::vector<std::string>* values);

// A list of token ids for each time that it is given.
CLI::Option* add_ids(CLI::App& app, const char* help, std::vector<std::vector<int32_t>>* values);

// What stands between the commas of a list, be it nothing.
std::vector<std::string> split_at_commas(const std::string& text);

// Parses; on --help and on usage errors prints what is to be said and gives the exit code.
std::optional<int> parse(CLI::App& app, const Arguments& arguments);

// Thrown by a parser's callback for options that do not go together; parse() reports it.
[[noreturn]] void usage_error(const std::string& message);

// Says what is wrong with the usage of a verb and gives the exit code.
int report_usage(const CLI::App& app, const std::string& message);

// Reports a failure as "tessera: sentence" and gives the exit code; kCancelled is an interrupt and
// says nothing.
int finish(const Status& status);

// Loads with a note on the terminal meanwhile.
Result<std::shared_ptr<Model>> load_model(const ModelOptions& options);

}  // namespace tessera::cli
