#include "tune/card.h"

#include <fmt/format.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/shell.h"
#include "base/team.h"
#include "compress/base_card.h"
#include "compress/model_card.h"
#include "compress/output.h"
#include "io/mapped_file.h"
#include "tessera/version.h"
#include "tune/learning_rate.h"
#include "tune/options.h"

namespace tessera {
namespace {

using OrderedJson = nlohmann::ordered_json;

std::string what(const TuneCard& card, const std::string& name) {
  std::string text =
      fmt::format("# {}, trained\n\nMade from {} by Tessera {}", name, name, version());
  if (card.options->command.empty()) return text + ".\n";
  return text + " with\n\n    " + shell_command(card.options->command) + "\n";
}

std::string data_of(const TuneOptions& options) {
  std::string text;
  for (const std::string& file : options.data)
    text += (text.empty() ? "" : ", ") + std::filesystem::path(file).filename().string();
  return text;
}

std::string rate_of(const TuneOptions& options) {
  const OptimizerOptions& optimizer = options.optimizer;
  return fmt::format("{}, rising for {:.0f}% of the steps, then {}", peak_learning_rate(options),
                     100 * optimizer.warmup,
                     optimizer.decay == OptimizerOptions::Decay::kNone
                         ? "as it is"
                         : fmt::format("falling ({})", name(optimizer.decay)));
}

std::string table(const TuneCard& card) {
  const TuneOptions& options = *card.options;
  const TuneReport& report = *card.report;
  std::string text = fmt::format("\n| | |\n|---|---|\n| task | {} |\n", name(options.task));
  if (!options.distil.teacher.empty())
    text += fmt::format("| teacher | {} |\n", options.distil.teacher);
  text += fmt::format("| data | {} |\n", data_of(options));
  text += fmt::format("| steps | {}, {} tokens in all |\n", report.steps, report.tokens);
  text += fmt::format("| parameters | {}, of which {} were trained |\n", report.parameters,
                      report.trained_parameters);
  if (options.lora) {
    text += fmt::format("| low-rank updates | rank {}, alpha {} |\n", options.lora->rank,
                        lora_alpha(*options.lora));
  }
  text += fmt::format("| learning rate | {} |\n", rate_of(options));
  text += fmt::format("| seed | {} |\n", options.seed);
  text += fmt::format("| loss | {:.4g} at first, {:.4g} in the end |\n", report.first_loss,
                      report.last_loss);
  if (report.validation_loss)
    text += fmt::format("| least loss on other data | {:.4g} |\n", *report.validation_loss);
  const int threads = options.threads > 0 ? options.threads : usable_cpus();
  return text + fmt::format("| time | {:.0f} s, {} threads |\n\n![loss]({})\n", report.seconds,
                            threads, kTrainingCurve);
}

// What the section's passes say, one after another; the training is the last one.
std::string done(const TuneCard& card) {
  if (card.section.empty()) return "";
  const OrderedJson section = OrderedJson::parse(card.section, nullptr, false);
  std::string text = "\n## What was done, first to last\n";
  for (const OrderedJson& pass : section["provenance"]["passes"])
    text += "\n    " + pass.dump(-1, ' ', false, OrderedJson::error_handler_t::replace) + "\n";
  return text;
}

std::string how_to_run(const TuneCard& card, const std::string& name) {
  const std::string target = std::filesystem::path(card.target).filename().string();
  return fmt::format("\n## How to run it\n\n    {}\n",
                     next_of(*card.options, card.head, name, target).front());
}

}  // namespace

std::vector<std::string> next_of(const TuneOptions& options, Head head, const std::string& source,
                                 const std::string& target) {
  if (!writes_adapter(options)) return next_commands(head, source, target);
  return {fmt::format("tessera compress {} --merge-adapter {} -o merged", shell_quote(source),
                      shell_quote(target))};
}

Status write_tune_card(const TuneCard& card, const std::string& directory) {
  TESSERA_ASSIGN_OR_RETURN(const BaseCard base, BaseCard::set_aside(card.source, directory));
  return write_file_atomically(directory + "/" + kCard,
                               base.header() + what(card, base.model()) + table(card) + done(card) +
                                   how_to_run(card, base.model()) + base.licence());
}

}  // namespace tessera
