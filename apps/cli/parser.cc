#include "cli/parser.h"

#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <limits>

#include "cli/help.h"
#include "cli/hints.h"
#include "cli/inputs.h"
#include "cli/options.h"
#include "cli/terminal.h"
#include "cli/verbs.h"

namespace tessera::cli {
namespace {

constexpr const char* kConfig = "--config";
constexpr const char* kNoFile = "/dev/null";

template <typename Number>
bool is_number(std::string_view text, Number* value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *value);
  return error == std::errc() && end == text.data() + text.size();
}

// "-n,--max-tokens" is called "--max-tokens".
std::string_view long_name(std::string_view names) { return names.substr(names.rfind(',') + 1); }

int64_t parse_integer(const IntegerOption& option, std::string_view text) {
  int64_t value = 0;
  if (!is_number(text, &value) || value < option.min || value > option.max) {
    bad_value(long_name(option.name),
              fmt::format("an integer from {} to {}", option.min, option.max), text);
  }
  return value;
}

double parse_number(const NumberOption& option, std::string_view text) {
  double value = std::numeric_limits<double>::quiet_NaN();
  // Written so that NaN is refused as well.
  if (!is_number(text, &value) || !(value >= option.min && value <= option.max)) {
    bad_value(long_name(option.name), fmt::format("a number from {} to {}", option.min, option.max),
              text);
  }
  return value;
}

bool takes_list(const CLI::Option& option) {
  return option.get_option_text().find(",...") != std::string::npos;
}
bool takes_several(const CLI::Option& option) { return option.get_items_expected_max() > 1; }
bool is_flag(const CLI::Option& option) { return option.get_items_expected_max() == 0; }

OptionDescription described(const CLI::Option& option) {
  OptionDescription found;
  if (!option.get_snames().empty()) found.short_name = "-" + option.get_snames().front();
  if (!option.get_lnames().empty()) found.long_name = "--" + option.get_lnames().front();
  if (!is_flag(option)) found.placeholder = option.get_option_text();
  found.help = option.get_description();
  found.group = option.get_group();
  return found;
}

// Whether a user may set an option elsewhere than on the command line.
bool is_setting(std::string_view name) { return name != "--help" && name != kConfig; }
bool is_setting(const CLI::Option& option) {
  return !option.get_lnames().empty() && is_setting("--" + option.get_lnames().front());
}

// Comments go, since CLI11 takes a # between quotes for one as well, and what CLI11 would misread
// is refused.
std::string without_comments(const std::string& text, const std::string& file) {
  std::string cleaned;
  char quote = 0;
  int line = 1;
  const auto refuse = [&](const char* expected) {
    usage_error(fmt::format("{}, line {}: expected {}", file, line, expected));
  };
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '\n' && quote != 0) refuse("a closing quote, found the end of the line");
    if (c == '\\' && quote == '"') refuse("no \\ between double quotes (single quotes keep it)");
    if (quote != 0 ? c == quote : c == '"' || c == '\'') quote = quote == 0 ? c : 0;
    if (c == '#' && quote == 0) i = std::min(text.find('\n', i), text.size()) - 1;
    if (c == '\n') ++line;
    if (c != '#' || quote != 0) cleaned += c;
  }
  return cleaned;
}

// A word of a file that may hold anything: short, and of characters that every terminal shows.
std::string shown(const std::string& word) {
  constexpr size_t kMost = 40;
  std::string text = word.substr(0, kMost);
  std::replace_if(
      text.begin(), text.end(), [](char c) { return c < ' ' || c > '~'; }, '?');
  return text + (word.size() > kMost ? "..." : "");
}

// What CLI11 found wrong, in our words.
std::string message_of(const CLI::App& app, const CLI::Error& error) {
  const std::string kind = error.get_name();
  const std::string said = error.what();
  const std::string subject = said.substr(0, said.find(':'));
  for (const CLI::Option* option : app.get_options()) {
    const std::string name = option->get_name(option->get_positional());
    if (kind == "RequiredError" && option->get_required() && option->count() == 0) {
      return fmt::format("expected {}, found none",
                         option->get_positional() ? name : name + " " + option->get_option_text());
    }
    for (const CLI::Option* other : option->get_excludes()) {
      if (kind == "ExcludesError" && option->count() > 0 && other->count() > 0)
        return fmt::format("expected {} or {}, found both", name, other->get_name());
    }
    for (const CLI::Option* other : option->get_needs()) {
      if (kind == "RequiresError" && option->count() > 0 && other->count() == 0)
        return fmt::format("{}: expected {} as well", name, other->get_name());
    }
    if (kind == "ConversionError" && is_flag(*option) && said.find(name) != std::string::npos)
      return fmt::format("{}: expected no value, found one", name);
    if (kind == "ArgumentMismatch" && subject == name) {
      if (option->count() < 2)
        return fmt::format("{}: expected {}, found none", name, option->get_option_text());
      return fmt::format("{}: expected one value, found {}", name, option->count());
    }
  }
  if (kind == "FileError") {
    const auto& given = app.get_config_ptr()->results();
    return fmt::format("{}: expected a file that can be read, found \"{}\"", kConfig,
                       given.empty() ? app.get_config_ptr()->get_default_str() : given.front());
  }
  return said;
}

// "; it is an option of run and eval", or nothing.
std::string other_verbs_with(const std::string& option) {
  std::string names;
  for (const Verb& verb : verbs()) {
    for (const OptionDescription& each : describe(verb).options) {
      if (each.long_name == option) names += (names.empty() ? "" : ", ") + std::string(verb.name);
    }
  }
  return names.empty() ? "" : "; it is an option of " + names;
}

}  // namespace

// What the environment and a file say of the options that the command line leaves open.
class Parser::Settings : public CLI::ConfigTOML {
 public:
  explicit Settings(Parser& parser) : parser_(parser), app_(*parser.app_) { comment('\0'); }

  // CLI11 calls it when it has read the command line, also where there is no file (kNoFile).
  std::vector<CLI::ConfigItem> from_config(std::istream& input) const override {
    const std::string text(std::istreambuf_iterator<char>(input), {});
    std::istringstream cleaned(without_comments(text, file()));
    std::vector<CLI::ConfigItem> from_file = CLI::ConfigTOML::from_config(cleaned);
    std::vector<CLI::ConfigItem> items;
    warn_of_unknown_variables();
    for (const CLI::Option* option : open_options()) {
      const std::string variable = variable_of(app_.get_name(), described(*option));
      const char* value = std::getenv(variable.c_str());
      if (value == nullptr || *value == 0) continue;
      take(*option, {value}, variable, &items);
    }
    const size_t from_environment = items.size();
    for (const CLI::ConfigItem& item : from_file) {
      if (item.name == "++" || item.name == "--") continue;  // where a section begins and ends
      const CLI::Option* option = option_of(item);
      const auto open = open_options();
      const bool is_open = std::find(open.begin(), open.end(), option) != open.end();
      const auto same = [&](const CLI::ConfigItem& other) {
        return option != nullptr && other.name == option->get_lnames().front();
      };
      const auto end = items.begin() + static_cast<std::ptrdiff_t>(from_environment);
      if (!is_open || std::any_of(items.begin(), end, same)) continue;
      take(*option, item.inputs, file(), &items);
    }
    return items;
  }

 private:
  std::string file() const {
    const auto& given = app_.get_config_ptr()->results();
    if (!given.empty()) return given.front();
    return parser_.default_config();
  }

  // A slip in the name of a variable would otherwise be passed over.
  void warn_of_unknown_variables() const {
    if (app_.get_option("--quiet")->count() > 0) return;
    constexpr std::string_view kVariables = "TESSERA_";
    const VerbDescription verb = parser_.description();
    std::vector<std::string> known;
    for (const OptionDescription& option : verb.options)
      known.push_back(variable_of(verb.verb, option));
    const std::string_view first = known.front();
    const std::string_view prefix =
        first.substr(0, first.size() - verb.options.front().long_name.size() + 2);
    for (char** entry = environ; *entry != nullptr; ++entry) {
      const std::string_view text = *entry;
      const std::string name(text.substr(0, text.find('=')));
      if (std::find(known.begin(), known.end(), name) != known.end()) continue;
      // Also one that lacks the verb.
      const std::string with_verb =
          std::string(prefix) + name.substr(std::min(name.size(), kVariables.size()));
      const bool lacks_verb = name.starts_with(kVariables) &&
                              std::find(known.begin(), known.end(), with_verb) != known.end();
      if (lacks_verb) warn(fmt::format("unknown variable {}; did you mean {}?", name, with_verb));
      if (lacks_verb || !name.starts_with(prefix)) continue;
      warn(fmt::format("unknown variable {}{}", name, did_you_mean(name, known)));
    }
  }

  // Those that the command line neither gives nor excludes.
  std::vector<const CLI::Option*> open_options() const {
    std::vector<const CLI::Option*> open;
    for (const CLI::Option* option : app_.get_options()) {
      const auto& excluded = option->get_excludes();
      const bool is_excluded =
          std::any_of(excluded.begin(), excluded.end(),
                      [](const CLI::Option* other) { return other->count() > 0; });
      if (is_setting(*option) && option->count() == 0 && !is_excluded) open.push_back(option);
    }
    return open;
  }

  // Null where the key is for another verb; refuses what no verb has.
  const CLI::Option* option_of(const CLI::ConfigItem& item) const {
    std::string key = item.name;
    std::replace(key.begin(), key.end(), '_', '-');
    const std::string own = app_.get_name();
    std::vector<std::string> verb_names, keys;
    bool is_known = false;
    for (const Verb& verb : verbs()) {
      verb_names.push_back(verb.name);
      if (!item.parents.empty() && item.parents.front() != verb.name) continue;
      for (const OptionDescription& option : describe(verb).options) {
        if (!is_setting(option.long_name)) continue;
        keys.push_back(option.long_name.substr(2));
        is_known = is_known || keys.back() == key;
      }
    }
    if (item.parents.size() > 1 || keys.empty()) {
      const std::string section = fmt::format("{}", fmt::join(item.parents, "."));
      usage_error(fmt::format("{}: unknown section [{}]{}", file(), shown(section),
                              did_you_mean(section, verb_names)));
    }
    if (!is_known) {
      usage_error(fmt::format("{}: unknown key {}{}", file(), shown(key), did_you_mean(key, keys)));
    }
    if (!item.parents.empty() && item.parents.front() != own) return nullptr;
    return app_.get_option_no_throw("--" + key);
  }

  void take(const CLI::Option& option, std::vector<std::string> values, const std::string& source,
            std::vector<CLI::ConfigItem>* items) const {
    const std::string name = option.get_lnames().front();
    if (takes_list(option) && !takes_several(option))
      values = {fmt::format("{}", fmt::join(values, ","))};
    if (!takes_several(option) && values.size() != 1) {
      usage_error(fmt::format("{}: {}: expected one value (texts stand in quotes), found {}",
                              source, name, values.size()));
    }
    if (is_flag(option)) {
      int64_t on = 0;
      try {
        on = CLI::detail::to_flag_value(values.front());
      } catch (const std::invalid_argument&) {
        usage_error(fmt::format("{}: expected true or false for --{}, found \"{}\"", source, name,
                                values.front()));
      }
      if (on <= 0) return;
      values = {"true"};
    }
    parser_.borrowed_.push_back({"--" + name, source});
    CLI::ConfigItem item;
    item.name = name;
    item.inputs = std::move(values);
    items->push_back(std::move(item));
  }

  Parser& parser_;
  const CLI::App& app_;
};

void usage_error(const std::string& message) { throw UsageError(message); }

void bad_value(std::string_view option, std::string_view expected, std::string_view found) {
  usage_error(fmt::format("{}: expected {}, found \"{}\"", option, expected, found));
}
void both_given(std::string_view one, std::string_view other) {
  usage_error(fmt::format("expected {} or {}, found both", one, other));
}
void lacks(std::string_view option, std::string_view companion) {
  usage_error(fmt::format("{}: expected {} as well", option, companion));
}

void check_choice(std::string_view option, const std::vector<std::string>& choices,
                  const std::string& text) {
  if (std::find(choices.begin(), choices.end(), text) != choices.end()) return;
  std::string hint = foreign_type_hint(text, choices);
  if (hint.empty()) hint = did_you_mean(text, choices);
  usage_error(fmt::format("{}: expected {}, found \"{}\"{}", long_name(option), either_of(choices),
                          text, hint));
}

std::string either_of(const std::vector<std::string>& texts) {
  std::string list;
  for (size_t i = 0; i < texts.size(); ++i) {
    if (i > 0) list += i + 1 == texts.size() ? " or " : ", ";
    list += texts[i];
  }
  return list;
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

std::string variable_of(const std::string& verb, const OptionDescription& option) {
  std::string name = "TESSERA_" + verb + "_" + option.long_name.substr(2);
  for (char& c : name) c = c == '-' ? '_' : static_cast<char>(std::toupper(c));
  return name;
}

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
    : synopsis_(synopsis), app_(std::make_unique<CLI::App>(synopsis.summary, synopsis.verb)) {
  app_->set_help_flag("-h,--help", "Print this help.")->group(group_);
  app_->allow_extras();
  add_flag("-q,--quiet", &quiet_, "Print nothing but results and errors.");
  add_flag("-v,--verbose", &verbose_, "Also say what is being done and where settings come from.");
  // A default that is always there, so that CLI11 asks Settings even without a file.
  const std::string file = default_config();
  app_->set_config(kConfig, file.empty() ? kNoFile : file,
                   "Read options from FILE, in TOML: keys before the first section are for all "
                   "verbs, those in [run] for run.",
                   true)
      ->option_text("FILE")
      ->group(group_);
  app_->config_formatter(std::make_shared<Settings>(*this));
}
Parser::~Parser() = default;

std::string Parser::default_config() const {
  OptionDescription option;
  option.long_name = kConfig;
  const char* file = std::getenv(variable_of(synopsis_.verb, option).c_str());
  return file != nullptr ? file : "";
}

Option Parser::declared(CLI::Option* option) {
  option->group(group_);
  return Option(option);
}

Option Parser::add_argument(const char* name, std::string* value, const char* help) {
  return declared(app_->add_option(name, *value, help)->required());
}

Option Parser::add_flag(const char* name, bool* value, const char* help) {
  return declared(app_->add_flag(name, *value, help));
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
  const auto checked = [option, take = std::move(take)](const std::string& text) {
    if (text.empty() && std::string_view(option.placeholder) == "FILE")
      bad_value(long_name(option.name), "a file name", text);
    take(text);
  };
  return declared(app_->add_option_function<std::string>(option.name, checked, option.help)
                      ->option_text(option.placeholder));
}

Option Parser::add_choice(const ChoiceOption& option, Take take) {
  const auto checked = [name = option.name, choices = option.choices,
                        take = std::move(take)](const std::string& text) {
    check_choice(name, choices, text);
    take(text);
  };
  const Option added = add_text({option.name, option.placeholder, option.help}, checked);
  choices_[app_->get_option(std::string(long_name(option.name)))] = option.choices;
  return added;
}

Option Parser::add_choice(const ChoiceOption& option, std::optional<std::string>* value) {
  return add_choice(option, [value](const std::string& text) { *value = text; });
}

Option Parser::add_texts(const TextOption& option, std::vector<std::string>* values) {
  return declared(
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
  return declared(
      app_->add_option_function<std::vector<std::string>>("--ids", take, help)
          ->option_text("N,N,...")
          ->allow_extra_args(false));  // one list each time: what follows may be something else
}

Option Parser::option(const char* name) const { return Option(app_->get_option(name)); }
bool Parser::is_given(const char* name) const { return app_->count(name) > 0; }
void Parser::then(std::function<void()> check) { check_ = std::move(check); }

VerbDescription Parser::description() const {
  VerbDescription found{
      synopsis_.verb, synopsis_.usage, synopsis_.summary, synopsis_.examples, {}, {}};
  for (const CLI::Option* option : app_->get_options()) {
    if (option->get_positional()) {
      found.arguments.push_back(option->get_name(true));
      continue;
    }
    found.options.push_back(described(*option));
    if (const auto choices = choices_.find(option); choices != choices_.end())
      found.options.back().choices = choices->second;
  }
  // What most verbs have comes last.
  for (const char* last : {"Model", "General"}) {
    std::stable_partition(found.options.begin(), found.options.end(),
                          [&](const OptionDescription& option) { return option.group != last; });
  }
  return found;
}

std::string Parser::wrong_with_rest() const {
  std::vector<std::string> names;
  for (const OptionDescription& option : description().options) names.push_back(option.long_name);
  for (const std::string& word : app_->remaining()) {
    if (word.size() > 1 && word[0] == '-') {
      const std::string name = word.substr(0, word.find('='));
      std::string hint = other_verbs_with(name);
      if (hint.empty()) hint = did_you_mean(name, names);
      return fmt::format("unknown option {}{}", name, hint);
    }
    if (!keeps_rest_) return fmt::format("expected no more arguments, found \"{}\"", word);
  }
  return "";
}

void Parser::parse_words(const std::vector<std::string>& words) {
  const auto dashes = keeps_rest_ ? std::find(words.begin(), words.end(), "--") : words.end();
  std::vector<std::string> reversed;  // as CLI11 takes them
  for (auto word = std::make_reverse_iterator(dashes); word != words.rend(); ++word) {
    // CLI11 reads "--name=" as if no value were given and takes the next word for it.
    if (word->starts_with("--") && word->find('=') == word->size() - 1) {
      reversed.emplace_back();
      reversed.push_back(word->substr(0, word->size() - 1));
    } else {
      reversed.push_back(*word);
    }
  }
  app_->parse(std::move(reversed));
  if (const std::string wrong = wrong_with_rest(); !wrong.empty()) usage_error(wrong);
  rest_ = app_->remaining();
  if (dashes != words.end()) rest_.insert(rest_.end(), dashes + 1, words.end());
  if (quiet_ && verbose_) both_given("--quiet", "--verbose");
  if (check_) check_();
}

std::string Parser::explained(std::string message, const std::vector<std::string>& words) const {
  const VerbDescription verb = description();
  for (const std::string& word : words) {
    const std::string hint = foreign_option_hint(word, verb);
    if (!hint.empty()) return hint;
  }
  for (const Borrowed& borrowed : borrowed_) {
    if (message.find(borrowed.option) != std::string::npos)
      message += fmt::format(" ({} comes from {})", borrowed.option, borrowed.source);
  }
  return message;
}

std::optional<int> Parser::parse(const Arguments& arguments) {
  if (arguments.description != nullptr) {
    *arguments.description = description();
    return kOk;
  }
  set_speaker(synopsis_.verb);
  try {
    parse_words(arguments.words);
  } catch (const CLI::CallForHelp&) {
    // CLI11 also takes -hf for -h.
    const std::string foreign = explained("", arguments.words);
    if (!foreign.empty()) return report_usage(foreign);
    Output out;
    const int width = terminal_width(stdout).value_or(kUsualWidth);
    Status status = out.write(help_of(description(), width));
    if (status.ok()) status = out.flush();
    return finish(status);
  } catch (const CLI::Error& error) {
    // An unknown option is likelier to be the cause than what it leaves missing.
    const std::string wrong = wrong_with_rest();
    return report_usage(
        explained(wrong.empty() ? message_of(*app_, error) : wrong, arguments.words));
  } catch (const UsageError& error) {
    return report_usage(explained(error.what(), arguments.words));
  }
  if (quiet_) set_verbosity(Verbosity::kQuiet);
  if (verbose_) set_verbosity(Verbosity::kVerbose);
  if (verbose_) {
    for (const Borrowed& borrowed : borrowed_)
      note(fmt::format("{} comes from {}", borrowed.option, borrowed.source));
  }
  return std::nullopt;
}

int Parser::report_usage(const std::string& message) const {
  complain(message);
  say(fmt::format("Try: {} --help\n", speaker()));
  return kUsage;
}

}  // namespace tessera::cli
