#include "cli/options.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include "cli/inputs.h"
#include "cli/terminal.h"

namespace tessera::cli {
namespace {

constexpr int64_t kMaxThreads = 4096;

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

[[noreturn]] void bad_value(const char* name, const std::string& expected, std::string_view found) {
  throw CLI::ValidationError(name, fmt::format("expected {}, found \"{}\"", expected, found));
}

int64_t parse_integer(const IntegerOption& option, std::string_view text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < option.min ||
      value > option.max) {
    bad_value(option.name, fmt::format("an integer from {} to {}", option.min, option.max), text);
  }
  return value;
}

WeightType parse_dtype(const std::string& text) {
  if (const auto type = parse_weight_type(text)) return *type;
  bad_value("--dtype", std::string(kWeightTypes), text);
}

PrecomputeVo parse_precompute_vo(const std::string& text) {
  if (text == "auto") return PrecomputeVo::kAuto;
  if (text == "on") return PrecomputeVo::kOn;
  if (text == "off") return PrecomputeVo::kOff;
  bad_value("--precompute-vo", "auto, on or off", text);
}

CacheType parse_cache(const std::string& text) {
  if (const auto type = parse_cache_type(text)) return *type;
  bad_value("--cache", std::string(kCacheTypes), text);
}

CLI::Option* add_callback(CLI::App& app, const TextOption& option,
                          std::function<void(const std::string&)> callback) {
  return app.add_option_function<std::string>(option.name, std::move(callback), option.help)
      ->option_text(option.placeholder);
}

}  // namespace

std::unique_ptr<CLI::App> make_parser(const Synopsis& synopsis) {
  auto app = std::make_unique<CLI::App>(synopsis.summary, synopsis.verb);
  app->formatter(std::make_shared<HelpFormatter>(
      fmt::format("Usage: tessera {} [options] {}\n", synopsis.verb, synopsis.usage)));
  app->set_help_flag("-h,--help", "Print this help");
  app->footer(fmt::format("Examples:\n{}", synopsis.examples));
  return app;
}

void add_directory_options(CLI::App& app, std::string* directory, int* threads) {
  app.add_option("MODEL", *directory, "A checkpoint directory")->required();
  add_callback(
      app, {"--threads", "N", "Threads (default: every CPU this process may use)"},
      [threads](const std::string& text) {
        *threads = static_cast<int>(parse_integer({"--threads", 1, kMaxThreads, nullptr}, text));
      });
}

void add_model_options(CLI::App& app, ModelOptions* options) {
  add_directory_options(app, &options->directory, &options->load.threads);
  add_callback(app,
               {"--dtype", "TYPE",
                "Numbers of the weights: auto, f32, bf16, int8, int4, w8 or w4 (default: auto)"},
               [options](const std::string& text) { options->load.weights = parse_dtype(text); });
  add_callback(
      app,
      {"--precompute-vo", "WHEN",
       "Multiply the values' and the output's matrix beforehand: auto, on or off (default: auto)"},
      [options](const std::string& text) {
        options->load.precompute_vo = parse_precompute_vo(text);
      });
  add_callback(app, {"--plan", "FILE", "Force the plan in FILE (see tessera inspect --save-plan)"},
               [options](const std::string& text) {
                 if (text.empty()) bad_value("--plan", "a file name", text);
                 options->load.plan_file = text;
               });
}

void add_cache_option(CLI::App& app, ModelOptions* options) {
  add_callback(app,
               {"--cache", "TYPE",
                "Numbers of a decoder's keys and values: f32, bf16 or int8 (default: f32)"},
               [options](const std::string& text) { options->load.cache = parse_cache(text); });
}

CLI::Option* add_integer(CLI::App& app, const IntegerOption& option,
                         std::optional<int64_t>* value) {
  return add_callback(
      app, {option.name, "N", option.help},
      [option, value](const std::string& text) { *value = parse_integer(option, text); });
}

CLI::Option* add_integers(CLI::App& app, const IntegerOption& option,
                          std::vector<int64_t>* values) {
  return add_callback(app, {option.name, "N,N,...", option.help},
                      [option, values](const std::string& text) {
                        values->clear();
                        for (const std::string& part : split_at_commas(text))
                          values->push_back(parse_integer(option, part));
                      });
}

CLI::Option* add_number(CLI::App& app, const NumberOption& option, std::optional<double>* value) {
  return add_callback(
      app, {option.name, "X", option.help}, [option, value](const std::string& text) {
        double number = std::numeric_limits<double>::quiet_NaN();
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
        // Written so that NaN is refused as well.
        const bool inside = number >= option.min && number <= option.max;
        if (error != std::errc() || end != text.data() + text.size() || !inside) {
          bad_value(option.name, fmt::format("a number from {} to {}", option.min, option.max),
                    text);
        }
        *value = number;
      });
}

CLI::Option* add_text(CLI::App& app, const TextOption& option, std::optional<std::string>* value) {
  return add_callback(app, option, [value](const std::string& text) { *value = text; });
}

CLI::Option* add_texts(CLI::App& app, const TextOption& option, std::vector<std::string>* values) {
  return app.add_option(option.name, *values, option.help)
      ->option_text(option.placeholder)
      ->allow_extra_args(false);  // one text each time: what follows may be something else
}

CLI::Option* add_ids(CLI::App& app, const char* help, std::vector<std::vector<int32_t>>* values) {
  const auto take = [values](const std::vector<std::string>& texts) {
    for (const std::string& text : texts) {
      Result<std::vector<int32_t>> ids = parse_ids(text);
      if (!ids.ok()) throw CLI::ValidationError("--ids", ids.status().message());
      values->push_back(std::move(ids).value());
    }
  };
  return app.add_option_function<std::vector<std::string>>("--ids", take, help)
      ->option_text("N,N,...")
      ->allow_extra_args(false);  // one list each time: what follows may be something else
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

std::optional<int> parse(CLI::App& app, const Arguments& arguments) {
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
    app.parse(std::move(reversed));
    return std::nullopt;
  } catch (const CLI::CallForHelp&) {
    Output out;
    Status status = out.write(app.help());
    if (status.ok()) status = out.flush();
    return finish(status);
  } catch (const CLI::Error& error) {
    return report_usage(app, error.what());
  }
}

int report_usage(const CLI::App& app, const std::string& message) {
  fmt::print(stderr, "tessera {}: {}\nTry: tessera {} --help\n", app.get_name(), message,
             app.get_name());
  return kUsage;
}

void usage_error(const std::string& message) {
  throw CLI::ValidationError(message, CLI::ExitCodes::ValidationError);
}

int finish(const Status& status) {
  if (status.ok()) return kOk;
  if (status.code() == StatusCode::kCancelled) return kInterrupted;
  fmt::print(stderr, "tessera: {}\n", status.message());
  return kFailed;
}

Result<std::shared_ptr<Model>> load_model(const ModelOptions& options) {
  const Progress progress(fmt::format("loading {}", options.directory), 0);
  return Model::load(options.directory, options.load);
}

}  // namespace tessera::cli
