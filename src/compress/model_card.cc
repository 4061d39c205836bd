#include "compress/model_card.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>

#include "base/shell.h"
#include "compress/base_card.h"
#include "compress/output.h"
#include "compress/paths.h"
#include "io/mapped_file.h"
#include "tessera/version.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

std::string bytes_text(int64_t bytes) {
  return fmt::format("{:.1f} MB", static_cast<double>(bytes) * 1e-6);
}

// The mean by size, and the largest, of what is known of the matrices.
struct Errors {
  double mean = 0, largest = 0, weight = 0;
  void add(double error, int64_t size) {
    if (!std::isfinite(error)) return;
    mean += error * static_cast<double>(size);
    weight += static_cast<double>(size);
    largest = std::max(largest, error);
  }
  std::string text() const {
    if (weight == 0) return "not measured";
    return fmt::format("{:.1f}% on average, {:.1f}% at most", 100 * mean / weight, 100 * largest);
  }
};

// "36 as tiles, 1 as w8"
std::string forms_of(const CompressReport& report) {
  std::map<std::string, int> counts;
  for (const MatrixReport& matrix : report.matrices) {
    const bool is_integers = !matrix.precision.empty();
    ++counts[!is_integers                   ? matrix.format
             : matrix.format == "quantized" ? matrix.precision
                                            : matrix.precision + " " + matrix.format];
  }
  std::string text;
  for (const auto& [form, count] : counts)
    text += fmt::format("{}{} as {}", text.empty() ? "" : ", ", count, form);
  return text;
}

class Writer {
 public:
  Writer(const ModelCard& card, const BaseCard& base)
      : card_(card), report_(*card.report), base_(base), name_(base.model()) {}

  std::string text() const {
    return base_.header() + what() + sizes() + done() + how_to_run() + base_.licence();
  }

 private:
  std::string what() const {
    std::string text =
        fmt::format("# {}, compressed\n\nMade from {} by Tessera {}", name_, name_, version());
    if (card_.command.empty()) return text + ".\n";
    return text + " with\n\n    " + shell_command(card_.command) + "\n";
  }

  std::string sizes() const {
    Errors weights, outputs;
    for (const MatrixReport& matrix : report_.matrices) {
      weights.add(matrix.weight_error, matrix.dense_bytes);
      outputs.add(matrix.output_error, matrix.dense_bytes);
    }
    std::string text =
        fmt::format("\n| | {} | this model |\n|---|---|---|\n| safetensors files | {} | {} |\n",
                    "base", bytes_text(report_.bytes_before), bytes_text(report_.bytes_after));
    if (report_.matrices.empty()) return text;
    text += fmt::format("\n| the matrices that were changed | |\n|---|---|\n| stored | {} |\n",
                        forms_of(report_));
    if (report_.share > 0)
      text += fmt::format("| weights removed | {:.1f}% |\n", 100 * report_.share);
    return text + fmt::format(
                      "| error of the weights, \\|W − W′\\| / \\|W\\| | {} |\n"
                      "| error of what they compute on the calibration text | {} |\n",
                      weights.text(), outputs.text());
  }

  std::string done() const {
    std::string text = "\n## What was done\n";
    for (const auto& pass : *card_.passes) {
      const PassInfo info = pass->info();
      text += fmt::format("\n{} ({})\n\n    {}\n", info.summary, info.citation, pass->options());
    }
    return text;
  }

  std::string how_to_run() const {
    const std::string name = fs::path(card_.target).filename().string();
    return fmt::format(
        "\n## How to run it\n\n    {}\n\nOther programs cannot read the compressed matrices.\n",
        next_commands(report_.head, name_, name).front());
  }

  const ModelCard& card_;
  const CompressReport& report_;
  const BaseCard& base_;
  const std::string& name_;
};

}  // namespace

std::vector<std::string> next_commands(Head head, const std::string& source,
                                       const std::string& target) {
  const std::string model = shell_quote(target);
  const std::string eval =
      fmt::format("tessera eval {} --base {} --task ", model, shell_quote(source));
  switch (head) {
    case Head::kCausalLm:
      return {fmt::format("tessera run {} --prompt \"Once upon a time\"", model),
              eval + "perplexity --data texts.txt"};
    case Head::kMaskedLm:
      return {fmt::format("tessera fill-mask {} \"The capital of France is [MASK].\"", model),
              eval + "agreement --data texts.txt"};
    case Head::kSequenceClassification:
      return {fmt::format("tessera classify {} \"A sentence\"", model),
              eval + "sst2 --data DIRECTORY"};
    case Head::kTokenClassification:
      return {fmt::format("tessera tag {} \"Ada lived in London.\"", model),
              eval + "agreement --data texts.txt"};
    case Head::kQuestionAnswering:
      return {fmt::format("tessera answer {} \"Who wrote it?\" --context-file text.txt", model),
              eval + "squad --data squad.json"};
    case Head::kNone:
      break;
  }
  return {fmt::format("tessera embed {} \"A sentence\"", model), eval + "stsb --data DIRECTORY"};
}

Status write_model_card(const ModelCard& card, const std::string& directory) {
  TESSERA_ASSIGN_OR_RETURN(const BaseCard base, BaseCard::set_aside(card.source, directory));
  return write_file_atomically(directory + "/" + kCard, Writer(card, base).text());
}

Status put_base_card_back(const std::string& directory) {
  const fs::path card = fs::path(directory) / kCard, base = fs::path(directory) / kBaseCard;
  std::error_code error;
  if (fs::exists(base, error)) {
    fs::rename(base, card, error);
    return error ? cannot("rename", base, error) : Status();
  }
  fs::remove(card, error);
  return error ? cannot("remove", card, error) : Status();
}

}  // namespace tessera
