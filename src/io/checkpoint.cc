#include "io/checkpoint.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <initializer_list>
#include <new>
#include <numeric>
#include <utility>

#include "io/json.h"
#include "io/mapped_file.h"
#include "io/model_directory.h"
#include "io/other_tools.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";
constexpr const char* kGenerationFile = "generation_config.json";
constexpr size_t kIndexLimitBytes = size_t{64} << 20;

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

// What stands in a directory, by name.
std::vector<std::string> names_in(const std::string& directory) {
  std::vector<std::string> names;
  std::error_code error;
  fs::directory_iterator entry(directory, error);
  for (const fs::directory_iterator end; !error && entry != end; entry.increment(error))
    names.push_back(entry->path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

// Where a file that was expected is a link to none, as in a cache whose download stopped.
Status check_link(const fs::path& path) {
  std::error_code ignored;
  if (is_there(path) || !fs::is_symlink(path, ignored)) return {};
  return not_found(fmt::format("{}: expected a file, found a link that leads nowhere (to {}){}",
                               path.string(), fs::read_symlink(path, ignored).string(),
                               hint_to_fetch(path.parent_path())));
}

bool ends_in_one_of(const std::string& name, std::initializer_list<const char*> endings) {
  return std::any_of(endings.begin(), endings.end(),
                     [&](const char* ending) { return name.ends_with(ending); });
}

// What transformers can load and save again.
bool is_older_form(const std::string& name) {
  return !name.starts_with("openvino") &&
         ends_in_one_of(name, {".bin", ".pt", ".pth", ".h5", ".msgpack", ".ckpt"});
}

// What was made from a model to be run by one program, and does not lead back to it.
bool is_dead_end(const std::string& name) {
  return name == "onnx" || name == "openvino" || name.starts_with("openvino_") ||
         ends_in_one_of(name, {".onnx", ".ot", ".tflite", ".mlmodel", ".mlpackage"});
}

// Tensors in a file of another name than the two that are read.
Status misnamed_weights(const std::string& directory, const std::string& name) {
  const auto found = [&](const std::string& advice) {
    return not_found(fmt::format("{}: expected {}, or {} beside its shards, found {}{}", directory,
                                 kSingleFile, kIndexFile, quote(name), advice));
  };
  if (name.starts_with("model-") && name.find("-of-") != std::string::npos)
    return found(" without it: fetch the index too");
  if (name.starts_with("consolidated")) {
    return found(", which is Mistral's own format: fetch the files that transformers reads");
  }
  const bool is_part = name.find("-of-") != std::string::npos;
  if (name.starts_with("model.") && !is_part)
    return found(fmt::format(", a variant of it: rename it to {}", kSingleFile));
  return found(" alone");
}

Status no_weights(const std::string& directory) {
  for (const char* file : {kSingleFile, kIndexFile, kCompressedFile})
    TESSERA_RETURN_IF_ERROR(check_link(fs::path(directory) / file));
  for (const std::string& name : names_in(directory)) {
    if (name.ends_with(".safetensors")) return misnamed_weights(directory, name);
  }
  for (const std::string& name : names_in(directory)) {
    if (is_older_form(name)) {
      return unsupported(
          fmt::format("{}: expected {}, found {}: convert it to safetensors first (in Python: "
                      "model.save_pretrained(directory, safe_serialization=True))",
                      directory, kSingleFile, quote(name)));
    }
  }
  for (const std::string& name : names_in(directory)) {
    if (is_dead_end(name)) {
      return unsupported(
          fmt::format("{}: expected {}, found {}: fetch the weights that it was made "
                      "from",
                      directory, kSingleFile, quote(name)));
    }
  }
  return not_found(fmt::format("{}: expected {} or {}, found neither{}", directory, kSingleFile,
                               kIndexFile, hint_to_fetch(directory)));
}

bool is_plain_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.size() <= 255 &&
         name.find_first_of(std::string_view("/\0", 2)) == std::string::npos;
}

// An index is data from elsewhere, so what it names must stand in the directory itself.
Result<std::string> resolve_shard(const std::string& directory, const std::string& name) {
  const fs::path home(directory);
  if (!is_plain_name(name)) {
    return invalid_input(
        fmt::format("{}: weight_map: expected plain file names inside the directory, found {}",
                    (home / kIndexFile).string(), quote(name)));
  }
  TESSERA_RETURN_IF_ERROR(check_link(home / name));
  if (is_there(home / name)) return (home / name).string();
  return not_found(fmt::format("{}: expected the shard {}, found no such file{}", directory,
                               quote(name), hint_to_fetch(directory)));
}

using WeightMap = std::map<std::string, std::string>;  // tensor -> shard

Result<WeightMap> read_index(const std::string& path) {
  TESSERA_ASSIGN_OR_RETURN(const std::string text, read_text_file(path, kIndexLimitBytes));
  TESSERA_ASSIGN_OR_RETURN(const Json root, parse_json(text, path));
  const Json* map = root.find("weight_map");
  const auto* members = map == nullptr ? nullptr : map->as<Json::Object>();
  if (members == nullptr) {
    return invalid_input(fmt::format("{}: weight_map: expected an object of file names, found {}",
                                     path, map == nullptr ? "nothing" : shortened(*map)));
  }
  if (members->empty()) {
    return invalid_input(
        fmt::format("{}: weight_map: expected at least one tensor, found none", path));
  }
  WeightMap shards;
  for (const Json::Member& member : *members) {
    const auto* shard = member.value.as<std::string>();
    if (shard == nullptr) {
      return invalid_input(fmt::format("{}: weight_map: {}: expected a file name, found {}", path,
                                       quote(member.key), shortened(member.value)));
    }
    shards.emplace(member.key, *shard);
  }
  return shards;
}

// Levenshtein's distance, or limit where it is not less. Time: at most |a| * |b|.
size_t edit_distance(std::string_view a, std::string_view b, size_t limit) {
  const size_t gap = a.size() > b.size() ? a.size() - b.size() : b.size() - a.size();
  if (gap >= limit) return limit;
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i + 1);
    size_t least = row[0];
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t replaced = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, row[j] + 1, diagonal + 1});
      least = std::min(least, row[j + 1]);
    }
    if (least >= limit) return limit;
  }
  return std::min(row[b.size()], limit);
}

std::string nearest(std::string_view wanted,
                    const std::map<std::string, size_t, std::less<>>& tensors) {
  // About a quarter of a second; enough for a few ten thousand names of usual length.
  size_t budget_cells = 100'000'000;
  size_t least = std::max(wanted.size(), size_t{3});
  std::string best;
  for (const auto& [name, file] : tensors) {
    const size_t cells = wanted.size() * name.size() + 1;
    if (cells > budget_cells) break;
    budget_cells -= cells;
    const size_t distance = edit_distance(wanted, name, least);
    if (distance < least) {
      least = distance;
      best = name;
    }
  }
  return best;
}

bool fits(const std::vector<int64_t>& shape, const std::vector<int64_t>& wanted) {
  return std::equal(
      shape.begin(), shape.end(), wanted.begin(), wanted.end(),
      [](int64_t found, int64_t expected) { return expected == -1 || found == expected; });
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::vector<std::string> extents;
  for (const int64_t extent : shape)
    extents.push_back(extent == -1 ? "any" : fmt::format("{}", extent));
  return fmt::format("[{}]", fmt::join(extents, ", "));
}

}  // namespace

Status Checkpoint::add_file(const std::string& path) {
  TESSERA_ASSIGN_OR_RETURN(Safetensors opened, Safetensors::open(path));
  files_.push_back(std::make_shared<Safetensors>(std::move(opened)));
  for (const auto& [name, view] : files_.back()->tensors()) {
    if (tensors_.emplace(name, files_.size() - 1).second) continue;
    return invalid_input(
        fmt::format("{}: tensor {}: expected it in one shard, found it in two, the second {}",
                    directory_, quote(name), quote(path)));
  }
  others_.insert(files_.back()->others().begin(), files_.back()->others().end());
  return {};
}

// Older directories have compressed tensors in model.safetensors, and that of a plain model is not
// to be overruled by a file that lies beside it.
Status Checkpoint::add_files() {
  const fs::path home(directory_);
  if (config_.has("tessera") && is_there(home / kCompressedFile))
    return add_file(home / kCompressedFile);
  if (is_there(home / kSingleFile)) return add_file(home / kSingleFile);
  if (is_there(home / kIndexFile)) return add_shards(home / kIndexFile);
  return no_weights(directory_);
}

Status Checkpoint::add_shards(const std::string& index_path) {
  TESSERA_ASSIGN_OR_RETURN(const WeightMap weight_map, read_index(index_path));
  std::map<std::string, size_t> opened;  // shard -> index of its file
  for (const auto& [tensor, shard] : weight_map) {
    if (!opened.emplace(shard, 0).second) continue;
    TESSERA_RETURN_IF_ERROR(resolve_shard(directory_, shard).status());
  }
  for (auto& [shard, file] : opened) {
    TESSERA_ASSIGN_OR_RETURN(const std::string path, resolve_shard(directory_, shard));
    file = files_.size();
    TESSERA_RETURN_IF_ERROR(add_file(path));
  }
  for (const auto& [tensor, shard] : weight_map) {
    const Safetensors& file = *files_[opened[shard]];
    if (file.tensors().contains(tensor) || file.others().contains(tensor)) continue;
    return invalid_input(
        fmt::format("{}: weight_map: expected tensor {} in {}, found none of that name there",
                    index_path, quote(tensor), quote(shard)));
  }
  return {};
}

Result<Checkpoint> Checkpoint::open(const std::string& directory) try {
  TESSERA_RETURN_IF_ERROR(check_directory(directory));
  TESSERA_RETURN_IF_ERROR(check_other_tools(directory));
  const fs::path home(directory);
  if (!is_there(home / "config.json")) {
    const bool has_weights = is_there(home / kSingleFile) || is_there(home / kIndexFile) ||
                             is_there(home / kCompressedFile);
    if (!has_weights) return no_weights(directory);
    TESSERA_RETURN_IF_ERROR(check_link(home / "config.json"));
    return not_found(
        fmt::format("{}: expected config.json beside the weights, found none", directory));
  }
  Checkpoint checkpoint;
  checkpoint.directory_ = directory;
  TESSERA_ASSIGN_OR_RETURN(checkpoint.config_, Config::read(home / "config.json"));
  if (is_there(home / kGenerationFile)) {
    TESSERA_ASSIGN_OR_RETURN(const std::string text,
                             read_text_file(home / kGenerationFile, kIndexLimitBytes));
    TESSERA_ASSIGN_OR_RETURN(checkpoint.generation_config_, Config::parse(text, kGenerationFile));
  }
  TESSERA_RETURN_IF_ERROR(checkpoint.add_files());
  return checkpoint;
} catch (const std::bad_alloc&) {
  return out_of_memory(fmt::format("{}: not enough memory to open it", directory));
} catch (const std::exception& error) {
  return io_error(fmt::format("{}: cannot open: {}", directory, error.what()));
}

std::vector<std::string> Checkpoint::names() const {
  std::vector<std::string> names;
  for (const auto& [name, file] : tensors_) names.push_back(name);
  return names;
}

size_t Checkpoint::size_bytes() const {
  size_t total = 0;
  for (const auto& file : files_) total += file->size_bytes();
  return total;
}

bool Checkpoint::has(std::string_view name) const {
  return tensors_.find(name) != tensors_.end() || others_.find(name) != others_.end();
}

Result<TensorView> Checkpoint::find(std::string_view name,
                                    const std::vector<int64_t>& shape) const {
  const std::string what = fmt::format("{}: tensor {}", directory_, quote(name));
  const auto place = tensors_.find(name);
  if (place == tensors_.end()) {
    if (const auto other = others_.find(name); other != others_.end()) {
      return unsupported(
          fmt::format("{}: expected F32, F16 or BF16, found {}", what, other->second));
    }
    const std::string near = nearest(name, tensors_);
    const std::string hint =
        near.empty() ? "no such name" : "no such name; the nearest is " + quote(near);
    return not_found(
        fmt::format("{}: expected it with shape {}, found {}", what, shape_text(shape), hint));
  }
  const TensorView& view = files_[place->second]->tensors().find(place->first)->second;
  if (!fits(view.shape, shape)) {
    return invalid_input(fmt::format("{}: expected shape {}, found {}", what, shape_text(shape),
                                     shape_text(view.shape)));
  }
  return view;
}

Result<TensorView> Checkpoint::tensor(std::string_view name,
                                      const std::vector<int64_t>& shape) const {
  TESSERA_ASSIGN_OR_RETURN(TensorView view, find(name, shape));
  if (is_weight_type(view.dtype)) return view;
  return unsupported(fmt::format("{}: tensor {}: expected F32, F16 or BF16, found {}", directory_,
                                 quote(name), tessera::name(view.dtype)));
}

Result<TensorView> Checkpoint::indices(std::string_view name, int64_t count) const {
  TESSERA_ASSIGN_OR_RETURN(TensorView view, find(name, {count}));
  if (view.dtype == DType::kI32 || view.dtype == DType::kI16) return view;
  return unsupported(fmt::format("{}: tensor {}: expected I32 or I16, found {}", directory_,
                                 quote(name), tessera::name(view.dtype)));
}

Result<TensorView> Checkpoint::typed(std::string_view name, const std::vector<int64_t>& shape,
                                     DType dtype) const {
  TESSERA_ASSIGN_OR_RETURN(TensorView view, find(name, shape));
  if (view.dtype == dtype) return view;
  return unsupported(fmt::format("{}: tensor {}: expected {}, found {}", directory_, quote(name),
                                 tessera::name(dtype), tessera::name(view.dtype)));
}

Result<TensorView> Checkpoint::any_tensor(std::string_view name) const {
  const auto place = tensors_.find(name);
  if (place == tensors_.end()) return find(name, {});
  return files_[place->second]->tensors().find(place->first)->second;
}

void Checkpoint::release(const TensorView& tensor) const {
  for (const auto& file : files_) file->release(tensor);  // each knows what is its own
}

}  // namespace tessera
