#include "cli/parser.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <limits>

#include "cli/inputs.h"
#include "cli/options.h"
#include "cli/terminal.h"

namespace tessera::cli {
namespace {

// CLI11 writes neither the places of positionals with our names nor required marks as a person
// would.
class HelpFormatter : public CLI::Formatter {
 public:
  explicit HelpFormatter(std::string usage) : usage_(std::move(usage)) { column_width(28); }
  std::string make_usage(const CLI::App*, std::string) const override { return usage_; }
  std::string make_positionals(const CLI::App* app) const override {
    if (app->get_option_no_throw("MODEL") == nullptr) return "";
    return "\nMODEL is a directory with config.json and *.safetensors, as Hugging Face has them.\n";
  }

 private:
  std::string usage_;
};

template <typename Number>
bool is_number(std::string_view text, Number* value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *value);
  return error == std::errc() && end == text.data() + text.size();
}

int64_t parse_integer(const IntegerOption& option, std::string_view text) {
  int64_t value = 0;
  if (!is_number(text, &value) || value < option.min || value > option.max) {
    usage_error(fmt::format("{}: expected an integer from {} to {}, found \"{}\"", option.name,
                            option.min, option.max, text));
  }
  return value;
}

double parse_number(const NumberOption& option, std::string_view text) {
  double value = std::numeric_limits<double>::quiet_NaN();
  // Written so that NaN is refused as well.
  if (!is_number(text, &value) || !(value >= option.min && value <= option.max)) {
    usage_error(fmt::format("{}: expected a number from {} to {}, found \"{}\"", option.name,
                            option.min, option.max, text));
  }
  return value;
}

}  // namespace

void usage_error(const std::string& message) { throw UsageError(message); }

const Option& Option::required() const {
  option_->required();
  return *this;
}
const Option& Option::optional() const {
  option_->required(false);
  return *this;
}
const Option& Option::needs(const Option& other) const {
  option_->needs(other.option_);
  return *this;
}
const Option& Option::excludes(std::initializer_list<Option> others) const {
  for (const Option& other : others) option_->excludes(other.option_);
  return *this;
}

Parser::Parser(const Synopsis& synopsis)
    : app_(std::make_unique<CLI::App>(synopsis.summary, synopsis.verb)) {
  app_->formatter(std::make_shared<HelpFormatter>(
      fmt::format("Usage: tessera {} [options] {}\n", synopsis.verb, synopsis.usage)));
  app_->set_help_flag("-h,--help", "Print this help");
  app_->footer(fmt::format("Examples:\n{}", synopsis.examples));
}
Parser::~Parser() = default;

Option Parser::add_argument(const char* name, std::string* value, const char* help) {
  return Option(app_->add_option(name, *value, help)->required());
}

Option Parser::add_flag(const char* name, bool* value, const char* help) {
  return Option(app_->add_flag(name, *value, help));
}

Option Parser::add_integer(const IntegerOption& option, std::optional<int64_t>* value) {
  return add_text({option.name, "N", option.help}, [option, value](const std::string& text) {
    *value = parse_integer(option, text);
  });
}

Option Parser::add_integer(const IntegerOption& option, int* value) {
  return add_text({option.name, "N", option.help}, [option, value](const std::string& text) {
    *value = static_cast<int>(parse_integer(option, text));
  });
}

Option Parser::add_integers(const IntegerOption& option, std::vector<int64_t>* values) {
  return add_text({option.name, "N,N,...", option.help}, [option, values](const std::string& text) {
    values->clear();
    for (const std::string& part : split_at_commas(text))
      values->push_back(parse_integer(option, part));
  });
}

Option Parser::add_number(const NumberOption& option, std::optional<double>* value) {
  return add_text({option.name, "X", option.help}, [option, value](const std::string& text) {
    *value = parse_number(option, text);
  });
}

Option Parser::add_text(const TextOption& option, std::string* value) {
  return add_text(option, [value](const std::string& text) { *value = text; });
}

Option Parser::add_text(const TextOption& option, std::optional<std::string>* value) {
  return add_text(option, [value](const std::string& text) { *value = text; });
}

Option Parser::add_text(const TextOption& option, Take take) {
  return Option(app_->add_option_function<std::string>(option.name, std::move(take), option.help)
                    ->option_text(option.placeholder));
}

Option Parser::add_texts(const TextOption& option, std::vector<std::string>* values) {
  return Option(
      app_->add_option(option.name, *values, option.help)
          ->option_text(option.placeholder)
          ->allow_extra_args(false));  // one text each time: what follows may be something else
}

Option Parser::add_ids(const char* help, std::vector<std::vector<int32_t>>* values) {
  const auto take = [values](const std::vector<std::string>& texts) {
    for (const std::string& text : texts) {
      Result<std::vector<int32_t>> ids = parse_ids(text);
      if (!ids.ok()) usage_error("--ids: " + ids.status().message());
      values->push_back(std::move(ids).value());
    }
  };
  return Option(
      app_->add_option_function<std::vector<std::string>>("--ids", take, help)
          ->option_text("N,N,...")
          ->allow_extra_args(false));  // one list each time: what follows may be something else
}

Option Parser::option(const char* name) const { return Option(app_->get_option(name)); }
bool Parser::is_given(const char* name) const { return app_->count(name) > 0; }
void Parser::then(std::function<void()> check) { app_->parse_complete_callback(std::move(check)); }
void Parser::keep_rest() { app_->allow_extras(); }
std::vector<std::string> Parser::rest() const { return app_->remaining(); }

std::optional<int> Parser::parse(const Arguments& arguments) {
  std::vector<std::string> reversed;  // as CLI11 takes them
  for (auto argument = arguments.rbegin(); argument != arguments.rend(); ++argument) {
    // CLI11 reads "--name=" as if no value were given and takes the next argument for it.
    if (argument->starts_with("--") && argument->ends_with('=')) {
      reversed.emplace_back();
      reversed.push_back(argument->substr(0, argument->size() - 1));
    } else {
      reversed.push_back(*argument);
    }
  }
  try {
    app_->parse(std::move(reversed));
    return std::nullopt;
  } catch (const CLI::CallForHelp&) {
    Output out;
    Status status = out.write(app_->help());
    if (status.ok()) status = out.flush();
    return finish(status);
  } catch (const CLI::Error& error) {
    return report_usage(error.what());
  } catch (const UsageError& error) {
    return report_usage(error.what());
  }
}

int Parser::report_usage(const std::string& message) const {
  fmt::print(stderr, "tessera {}: {}\nTry: tessera {} --help\n", app_->get_name(), message,
             app_->get_name());
  return kUsage;
}

std::vector<std::string> split_at_commas(const std::string& text) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

}  // namespace tessera::cli
