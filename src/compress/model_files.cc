#include "compress/model_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "compress/paths.h"
#include "compress/sha256.h"
#include "io/atomic_file.h"
#include "io/mapped_file.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;
using OrderedJson = nlohmann::ordered_json;

constexpr size_t kConfigLimitBytes = size_t{64} << 20;

class Copy {
 public:
  explicit Copy(const ModelDirectory& home) : home_(home) {
    std::error_code ignored;
    has_modules_ = fs::exists(fs::path(home.path) / "modules.json", ignored);
  }

  // Whether a file or a folder goes into such a folder.
  bool takes(const fs::path& path, const fs::path& to) const {
    std::error_code ignored;
    if (!fs::is_directory(path, ignored))
      return fs::is_regular_file(path, ignored) && belongs(path, to);
    if (path.filename().string().starts_with('.')) return false;  // .git and such
    return !is_within(path.parent_path(), path);                  // a link upwards
  }

  Status folder(const fs::path& from, const fs::path& to,
                const std::function<Status()>& before_file) const {
    std::error_code error;
    fs::directory_iterator entry(from, error);
    if (error) return cannot("read", from, error);
    for (const fs::directory_iterator end; entry != end; entry.increment(error)) {
      if (error) return cannot("read", from, error);
      const fs::path& path = entry->path();
      if (!takes(path, to)) continue;
      std::error_code ignored;
      if (!fs::is_directory(path, ignored)) {
        TESSERA_RETURN_IF_ERROR(before_file());
        TESSERA_RETURN_IF_ERROR(copy_durably(path, to / path.filename()));
        continue;
      }
      fs::create_directory(to / path.filename(), error);
      if (error) return cannot("write", to / path.filename(), error);
      TESSERA_RETURN_IF_ERROR(folder(path, to / path.filename(), before_file));
    }
    sync_directory(to / "");  // its folders
    return {};
  }

 private:
  bool belongs(const fs::path& path, const fs::path& to) const {
    std::error_code ignored;
    if (path.filename() == "config.json") return !fs::exists(to / "config.json", ignored);
    if (is_other_file(path.filename())) return true;
    // Of a module of sentence-transformers behind the transformer.
    const fs::path folder = path.parent_path();
    return has_modules_ && path.filename() == "model.safetensors" && folder != home_.path &&
           folder != home_.transformer;
  }

  const ModelDirectory& home_;
  bool has_modules_ = false;
};

}  // namespace

// Weights in other formats are of the dense model.
bool is_other_file(const std::string& name) {
  static const std::set<std::string> kWeights = {".safetensors", ".bin",       ".pt",   ".pth",
                                                 ".h5",          ".onnx_data", ".data", ".msgpack",
                                                 ".onnx",        ".ot",        ".ckpt", ".gguf"};
  return !kWeights.contains(fs::path(name).extension()) && name != "model.safetensors.index.json" &&
         name != "config.json" && !name.ends_with(".tmp");
}

Status copy_durably(const std::string& from, const std::string& to) {
  TESSERA_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::open(from));
  TESSERA_ASSIGN_OR_RETURN(AtomicFile target, AtomicFile::create(to));
  TESSERA_RETURN_IF_ERROR(target.append(file.data(), file.size_bytes()));
  return target.commit();
}

Result<std::string> changed_config(const std::string& directory, const ConfigChange& change) {
  const std::string path = directory + "/config.json";
  TESSERA_ASSIGN_OR_RETURN(const std::string text, read_text_file(path, kConfigLimitBytes));
  OrderedJson config = OrderedJson::parse(text, nullptr, false);
  if (!config.is_object()) {
    return invalid_input(fmt::format("{}: expected a JSON object, found something else", path));
  }
  config.erase("tessera");
  if (!change.section.empty()) config["tessera"] = OrderedJson::parse(change.section);
  if (change.kv_heads) config[kKvHeadsKey] = *change.kv_heads;
  if (!change.dtype.empty()) {
    // The older of the two names is read by every version of transformers.
    if (config.contains("dtype")) config["dtype"] = change.dtype;
    if (config.contains("torch_dtype") || !config.contains("dtype"))
      config["torch_dtype"] = change.dtype;
  }
  return config.dump(2, ' ', false, OrderedJson::error_handler_t::replace) + "\n";
}

Status copy_other_files(const ModelDirectory& home, const std::string& target,
                        const std::function<Status()>& before_file) {
  return Copy(home).folder(home.path, target, before_file);
}

std::set<std::string> names_of_other_files(const ModelDirectory& home) {
  const Copy copy(home);
  std::set<std::string> names;
  std::error_code error;
  fs::directory_iterator entry(home.path, error);
  for (const fs::directory_iterator end; !error && entry != end; entry.increment(error)) {
    if (copy.takes(entry->path(), {})) names.insert(entry->path().filename());
  }
  return names;
}

Result<std::string> hash_file(const std::string& path) {
  TESSERA_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::open(path));
  Sha256 hash;
  hash.add(file.data(), file.size_bytes());
  file.release(file.data(), file.size_bytes());
  return hash.finish();
}

Result<std::map<std::string, std::string>> hash_tensor_files(const std::string& directory) {
  std::map<std::string, std::string> hashes;
  std::error_code error;
  fs::directory_iterator entry(directory, error);
  if (error) return cannot("read", directory, error);
  for (const fs::directory_iterator end; entry != end; entry.increment(error)) {
    if (error) return cannot("read", directory, error);
    if (entry->path().extension() != ".safetensors") continue;
    TESSERA_ASSIGN_OR_RETURN(hashes[entry->path().filename()], hash_file(entry->path()));
  }
  return hashes;
}

}  // namespace tessera
