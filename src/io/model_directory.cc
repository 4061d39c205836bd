#include "io/model_directory.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string_view>
#include <vector>

#include "io/json.h"
#include "io/mapped_file.h"
#include "io/other_tools.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kRepositoryPrefix = "models--";
constexpr size_t kRefLimitBytes = 1 << 10;
constexpr size_t kModulesLimitBytes = 1 << 20;

std::string expected_directory(const std::string& path) {
  return fmt::format("{}: expected a directory with config.json and model.safetensors", path);
}

bool is_folder(const fs::path& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored);
}

// A variable's value as a path, with ~ for the home; nothing where it is not set or empty.
std::optional<fs::path> path_of(const char* variable) {
  const char* const value = std::getenv(variable);
  if (value == nullptr || *value == '\0') return std::nullopt;
  const std::string_view text = value;
  const char* const home = std::getenv("HOME");
  if (home != nullptr && (text == "~" || text.starts_with("~/")))
    return fs::path(std::string(home) + std::string(text.substr(1)));
  return fs::path(text);
}

// Where huggingface_hub keeps models.
fs::path hub_cache() {
  for (const char* variable : {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"}) {
    if (const auto path = path_of(variable)) return *path;
  }
  if (const auto path = path_of("HF_HOME")) return *path / "hub";
  if (const auto path = path_of("XDG_CACHE_HOME")) return *path / "huggingface/hub";
  return path_of("HOME").value_or("") / ".cache/huggingface/hub";
}

bool is_part_of_id(std::string_view part) {
  return !part.empty() && part.front() != '.' && part.front() != '-' && part.size() <= 96 &&
         std::all_of(part.begin(), part.end(), [](char c) {
           return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '_' ||
                  c == '.';
         });
}

}  // namespace

std::optional<std::string> hub_id(std::string_view name) {
  if (name.starts_with(kRepositoryPrefix)) {
    std::string id(name.substr(kRepositoryPrefix.size()));
    const size_t middle = id.find("--");
    if (middle != std::string::npos) id.replace(middle, 2, "/");
    return hub_id(id);
  }
  const size_t slash = name.find('/');
  const std::string_view owner = slash == name.npos ? "owner" : name.substr(0, slash);
  const std::string_view model = slash == name.npos ? name : name.substr(slash + 1);
  if (!is_part_of_id(owner) || !is_part_of_id(model)) return std::nullopt;
  return std::string(name);
}

namespace {

std::string repository_of(std::string id) {
  const size_t slash = id.find('/');
  if (slash != std::string::npos) id.replace(slash, 1, "--");
  return std::string(kRepositoryPrefix) + id;
}

std::string fetch_command(const std::string& id, const std::string& path) {
  return fmt::format("hf download {} --local-dir {}", id, path);
}

std::vector<std::string> folders_of(const fs::path& path) {
  std::vector<std::string> names;
  std::error_code error;
  fs::directory_iterator entry(path, error);
  for (const fs::directory_iterator end; !error && entry != end; entry.increment(error))
    names.push_back(entry->path().string());
  std::sort(names.begin(), names.end());
  return names;
}

// <repository>/{refs/main, snapshots/<commit>/...}
Result<std::string> snapshot_of(const fs::path& repository) {
  const std::string fetch =
      fmt::format("hf download {}", hub_id(repository.filename().string()).value_or("OWNER/NAME"));
  const Result<std::string> ref = read_text_file(repository / "refs/main", kRefLimitBytes);
  if (!ref.ok()) {
    const std::vector<std::string> snapshots = folders_of(repository / "snapshots");
    return not_found(fmt::format(
        "{}: expected refs/main, which names the snapshot to take, found none; {}",
        repository.string(),
        snapshots.empty() ? "to fetch the model: " + fetch
                          : fmt::format("give the snapshot: {}", fmt::join(snapshots, " or "))));
  }
  std::string commit = *ref;
  while (!commit.empty() && std::isspace(static_cast<unsigned char>(commit.back())) != 0)
    commit.pop_back();
  const fs::path snapshot = repository / "snapshots" / commit;
  if (is_part_of_id(commit) && is_folder(snapshot)) return snapshot.string();
  return not_found(fmt::format(
      "{}: expected the snapshot {}, which refs/main names, found none; to fetch it: {}",
      repository.string(), quote(commit), fetch));
}

bool is_repository(const fs::path& path) {
  std::error_code ignored;
  return is_folder(path / "snapshots") && !fs::exists(path / "config.json", ignored);
}

// A model on the hub where its name is an address, hf:OWNER/NAME, or has a revision.
struct HubName {
  std::string id;
  std::string revision;  // empty: none was given
};

std::optional<HubName> hub_name(std::string_view text) {
  bool is_address = false;
  for (const std::string_view start :
       {"https://huggingface.co/", "http://huggingface.co/", "https://hf.co/", "huggingface.co/",
        "hf.co/", "hf://", "hf:"}) {
    is_address = text.starts_with(start);
    if (is_address) text.remove_prefix(start.size());
    if (is_address) break;
  }
  const size_t owner_end = text.find('/');
  if (owner_end == text.npos) return std::nullopt;
  const size_t end = std::min(text.find_first_of("@/?#", owner_end + 1), text.size());
  HubName name{std::string(text.substr(0, end)), ""};
  text.remove_prefix(end);
  constexpr std::string_view kTree = "/tree/";
  if (text.starts_with('@')) name.revision = text.substr(1);
  if (is_address && text.starts_with(kTree)) name.revision = text.substr(kTree.size());
  if (!is_address && name.revision.empty()) return std::nullopt;
  if (!name.revision.empty() && !is_part_of_id(name.revision)) return std::nullopt;
  return hub_id(name.id).has_value() ? std::optional(name) : std::nullopt;
}

// What is not there is looked for in the hub's cache, if it may be a name on the hub.
Result<std::string> find_in_cache(const std::string& name) {
  if (const std::optional<HubName> hub = hub_name(name)) {
    const std::string revision = hub->revision.empty() ? "" : " --revision " + hub->revision;
    const std::string own = hub->id.substr(hub->id.find('/') + 1);
    return not_found(fmt::format("{}, found nothing; to fetch it: {}", expected_directory(name),
                                 fetch_command(hub->id + revision, own)));
  }
  const std::optional<std::string> id = hub_id(name);
  const fs::path first = fs::path(name).parent_path();
  const bool is_path = !first.empty() && is_folder(first);
  if (id.has_value()) {
    const fs::path repository = hub_cache() / repository_of(*id);
    if (is_folder(repository)) return snapshot_of(repository);
  }
  if (id.has_value() && !is_path) {
    return not_found(
        fmt::format("{}, or a model in the hub's cache ({}), found neither; to fetch it: {}",
                    expected_directory(name), hub_cache().string(), fetch_command(*id, *id)));
  }
  const std::string own = fs::path(name).filename().string();
  return not_found(fmt::format("{}, found nothing; to fetch one from the hub: {}",
                               expected_directory(name),
                               fetch_command("OWNER/" + (own.empty() ? "NAME" : own), name)));
}

Result<std::string> find_directory(std::string name) {
  while (name.size() > 1 && name.ends_with('/')) name.pop_back();
  std::error_code error;
  const fs::file_status status = fs::status(name, error);
  if (status.type() == fs::file_type::not_found) {
    if (!fs::is_symlink(name, error) && !name.empty()) return find_in_cache(name);
    return check_directory(name);
  }
  if (!fs::is_directory(status)) {
    TESSERA_RETURN_IF_ERROR(check_other_tools(name));
    return check_directory(name);
  }
  if (is_repository(name)) return snapshot_of(name);
  return name;
}

// The folder of a first module that is a Transformer; empty: none, or the directory itself.
std::string transformer_folder(const fs::path& directory) {
  const std::string path = directory / "modules.json";
  const Result<std::string> text = read_text_file(path, kModulesLimitBytes);
  if (!text.ok()) return "";
  const Result<Json> root = parse_json(*text, path);
  const Json::Array* modules = root.ok() ? root->as<Json::Array>() : nullptr;
  if (modules == nullptr || modules->empty()) return "";
  const Json *type = modules->front().find("type"), *folder = modules->front().find("path");
  const auto* name = type == nullptr ? nullptr : type->as<std::string>();
  const auto* found = folder == nullptr ? nullptr : folder->as<std::string>();
  if (name == nullptr || found == nullptr || !name->ends_with(".Transformer")) return "";
  const bool leaves = found->starts_with('/') || found->find("..") != std::string::npos;
  return leaves ? "" : *found;
}

}  // namespace

std::string hint_to_fetch(const std::string& directory) {
  const fs::path snapshots = fs::path(directory).parent_path();
  const std::string repository = snapshots.parent_path().filename().string();
  if (snapshots.filename() != "snapshots" || !repository.starts_with(kRepositoryPrefix)) return "";
  const std::optional<std::string> id = hub_id(repository);
  return id.has_value() ? fmt::format("; to fetch what is missing: hf download {}", *id) : "";
}

Status check_directory(const std::string& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (fs::is_directory(status)) return {};
  const std::string expected = expected_directory(path);
  if (status.type() == fs::file_type::not_found) {
    if (!fs::is_symlink(path, error)) return not_found(expected + ", found nothing");
    return not_found(fmt::format("{}, found a link that leads nowhere (to {})", expected,
                                 fs::read_symlink(path, error).string()));
  }
  if (status.type() == fs::file_type::none)
    return io_error(fmt::format("{}: cannot open: {}", path, error.message()));
  return invalid_input(expected + ", found a file");
}

Result<ModelDirectory> find_model(const std::string& name) {
  TESSERA_ASSIGN_OR_RETURN(const std::string path, find_directory(name));
  const std::string folder = transformer_folder(path);
  return ModelDirectory{path, folder.empty() ? path : path + "/" + folder};
}

}  // namespace tessera
