#include "compress/base_card.h"

#include <fmt/format.h>

#include <filesystem>
#include <optional>

#include "compress/output.h"
#include "compress/paths.h"
#include "io/mapped_file.h"
#include "io/model_directory.h"

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

}  // namespace

Result<BaseCard> BaseCard::set_aside(const std::string& source, const std::string& directory) {
  const fs::path path = fs::path(directory) / kCard, base = fs::path(directory) / kBaseCard;
  BaseCard card;
  card.model_ = model_name(source);
  std::error_code error;
  if (!fs::exists(path, error)) return card;
  // What is too long or no text keeps its words, and no header is taken from it.
  const Result<std::string> text = read_text_file(path.string(), kCardLimitBytes);
  if (text.ok()) card.entries_ = header_of(*text);
  if (value_of(card.entries_, "library_name") == "tessera" && card.entries_.contains("base_model"))
    card.model_ = value_of(card.entries_, "base_model");
  if (fs::exists(base, error)) return card;
  fs::rename(path, base, error);
  if (error) return cannot("rename", path, error);
  return card;
}

std::string BaseCard::header() const {
  std::string text = "---\n";
  for (const char* key :
       {"license", "license_name", "license_link", "language", "datasets", "pipeline_tag"}) {
    const auto found = entries_.find(key);
    if (found != entries_.end()) text += found->second;
  }
  return text +
         fmt::format("base_model: {}\nlibrary_name: tessera\ntags:\n- tessera\n---\n", model_);
}

std::string BaseCard::licence() const {
  const std::string licence = value_of(entries_, "license");
  return fmt::format("\n## Licence\n\n{}\n",
                     licence.empty()
                         ? "That of the base model, which does not name one in its model card."
                         : "That of the base model: " + licence + ".");
}

}  // namespace tessera
