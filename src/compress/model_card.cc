#include "compress/model_card.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <optional>

#include "base/shell.h"
#include "compress/output.h"
#include "compress/paths.h"
#include "io/mapped_file.h"
#include "io/model_directory.h"
#include "tessera/version.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

constexpr size_t kCardLimitBytes = 4 << 20;

// "sentence-transformers/all-MiniLM-L6-v2" for a folder of the hub's cache, else the folder's name.
std::string model_name(const std::string& directory) {
  const fs::path path = fs::absolute(directory).lexically_normal();
  for (const fs::path& part : path) {
    const std::string folder = part.string();
    if (!folder.starts_with("models--")) continue;
    if (const std::optional<std::string> id = hub_id(folder)) return *id;
  }
  return path.has_filename() ? path.filename().string() : path.parent_path().filename().string();
}

// The entries of a card's YAML header, each with its key and the lines that belong to it.
std::map<std::string, std::string> header_of(const std::string& card) {
  std::map<std::string, std::string> entries;
  if (!card.starts_with("---\n")) return entries;
  const size_t end = card.find("\n---", 3);
  if (end == std::string::npos) return entries;
  std::string key;
  for (size_t begin = 4; begin <= end;) {
    const size_t line_end = card.find('\n', begin);
    const std::string line = card.substr(begin, line_end - begin);
    begin = line_end + 1;
    const bool goes_on = line.starts_with(' ') || line.starts_with('-') || line.empty();
    if (!goes_on) key = line.substr(0, line.find(':'));
    if (!key.empty()) entries[key] += line + "\n";
  }
  return entries;
}

// The value of "key: value".
std::string value_of(const std::map<std::string, std::string>& header, const char* key) {
  const auto found = header.find(key);
  if (found == header.end()) return "";
  const size_t colon = found->second.find(": ");
  if (colon == std::string::npos) return "";
  const std::string value = found->second.substr(colon + 2);
  return value.substr(0, value.find('\n'));
}

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
  Writer(const ModelCard& card, std::map<std::string, std::string> base)
      : card_(card), report_(*card.report), base_(std::move(base)), name_(model_name(card.source)) {
    // A model that was compressed twice is still of its first base.
    if (value_of(base_, "library_name") == "tessera" && base_.contains("base_model"))
      name_ = value_of(base_, "base_model");
  }

  std::string text() const {
    return header() + what() + sizes() + done() + how_to_run() + licence();
  }

 private:
  std::string header() const {
    std::string text = "---\n";
    for (const char* key :
         {"license", "license_name", "license_link", "language", "datasets", "pipeline_tag"}) {
      const auto found = base_.find(key);
      if (found != base_.end()) text += found->second;
    }
    return text +
           fmt::format("base_model: {}\nlibrary_name: tessera\ntags:\n- tessera\n---\n", name_);
  }

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

  std::string licence() const {
    const std::string licence = value_of(base_, "license");
    return fmt::format("\n## Licence\n\n{}\n",
                       licence.empty()
                           ? "That of the base model, which does not name one in its model card."
                           : "That of the base model: " + licence + ".");
  }

  const ModelCard& card_;
  const CompressReport& report_;
  std::map<std::string, std::string> base_;
  std::string name_;
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
  const fs::path path = fs::path(directory) / kCard, base = fs::path(directory) / kBaseCard;
  std::error_code error;
  std::map<std::string, std::string> header;
  if (fs::exists(path, error)) {
    // What is too long or no text keeps its words, and no header is taken from it.
    const Result<std::string> text = read_text_file(path.string(), kCardLimitBytes);
    if (text.ok()) header = header_of(*text);
    if (!fs::exists(base, error)) {
      fs::rename(path, base, error);
      if (error) return cannot("rename", path, error);
    }
  }
  return write_file_atomically(path.string(), Writer(card, std::move(header)).text());
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
