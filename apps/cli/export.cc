#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "cli/terminal.h"
#include "cli/verbs.h"
#include "tessera/compress.h"

namespace tessera::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr Synopsis kSynopsis = {
    "export", "MODEL -o OUT",
    "Writes a compressed model as a plain checkpoint, which transformers and other programs load "
    "like the model that it was made from: every matrix is multiplied out, and all files beside "
    "the weights are copied.",
    "  tessera export small -o dense\n"
    "  tessera export small -o dense --dtype bf16\n"
    "  tessera export small -o dense --masks\n"};

struct Options {
  std::string source;
  std::optional<std::string> target;
  ExportOptions exporting;
  bool masks = false;
  bool force = false;
  bool json = false;
};

std::string to_text(const Options& options, const ExportReport& report) {
  std::string text = fmt::format("{}: {} multiplied out; {} on disk, {} before\n", *options.target,
                                 counted(report.matrices, "matrix", "matrices"),
                                 human_bytes(report.bytes_after), human_bytes(report.bytes_before));
  if (options.masks) text += fmt::format("masks.safetensors: {}\n", counted(report.masks, "masks"));
  return text;
}

std::string to_json(const ExportReport& report) {
  return Json({{"matrices", report.matrices},
               {"masks", report.masks},
               {"bytes_before", report.bytes_before},
               {"bytes_after", report.bytes_after}})
             .dump(2) +
         "\n";
}

Status run(const Options& options) {
  const Interrupt interrupt;
  Steps steps;
  ExportOptions exporting = options.exporting;
  exporting.on_progress = [&](const std::string& what, int64_t done, int64_t total) {
    return steps(what, done, total);
  };
  const Result<ExportReport> report = export_dense(options.source, *options.target, exporting);
  if (!report.ok()) return report.status();
  steps.clear();
  Output out;
  const Status status = out.write(options.json ? to_json(*report) : to_text(options, *report));
  return status.ok() ? out.flush() : status;
}

}  // namespace

int export_verb(const Arguments& arguments) {
  Options options;
  Parser parser(kSynopsis);
  parser.add_argument(
      "MODEL", &options.source,
      "A checkpoint directory, or OWNER/NAME in the cache of the Hugging Face hub.");
  parser.group("Output");
  parser
      .add_text({"-o,--output", "OUT", "Write the checkpoint to OUT, a new directory."},
                &options.target)
      .required();
  parser.add_choice(
      {"--dtype",
       "TYPE",
       "Write all floats as f32, bf16 or f16 (default: each as it is stored, and "
       "integers as f32).",
       {"f32", "bf16", "f16"}},
      [&](const std::string& text) { options.exporting.type = *parse<ExportType>(text); });
  parser.add_flag("--masks", &options.masks,
                  "Write which weights were kept to masks.safetensors, too.");
  parser.add_flag("--force", &options.force,
                  "Replace OUT if it is a model that Tessera wrote, with no files of others.");
  parser.add_flag("--json", &options.json, "Print JSON instead of a line of text.");
  parser.then([&] {
    if (options.masks) options.exporting.masks = ExportOptions::Masks::kYes;
    if (options.force) options.exporting.existing = Existing::kReplace;
  });
  if (const auto code = parser.parse(arguments)) return *code;
  return finish(run(options));
}

}  // namespace tessera::cli
