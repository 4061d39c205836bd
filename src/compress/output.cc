#include "compress/output.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <set>
#include <string_view>
#include <utility>

#include "compress/model_files.h"
#include "compress/paths.h"
#include "io/adapter.h"
#include "io/atomic_file.h"
#include "io/checkpoint.h"
#include "io/config.h"
#include "io/json.h"
#include "io/mapped_file.h"
#include "io/safetensors.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

constexpr const char* kWhole = "whole";
constexpr const char* kReplaced = "replaced";
constexpr const char* kRunFile = "run.json";
constexpr const char* kTemporary = ".tmp";
constexpr size_t kRunLimitBytes = size_t{64} << 20;

bool has_writer(const std::string& file) {
  const auto tensors = Safetensors::open(file);
  return tensors.ok() && tensors->metadata().contains(kWriterKey);
}

// A compressed directory says so in its config.json, an exported one or an adapter in its weights.
bool is_written_by_tessera(const std::string& directory) {
  if (has_writer(directory + "/" + kAdapterFile)) return true;
  const Result<ModelDirectory> home = find_model(directory);
  if (!home.ok()) return false;
  const Result<Config> config = Config::read(home->transformer + "/config.json");
  if (!config.ok()) return false;
  if (config->has("tessera")) return true;
  return has_writer(home->transformer + "/" + kWeightsFile);
}

Status check_existing(const std::string& target, Existing existing) {
  std::error_code ignored;
  const fs::file_status status = fs::symlink_status(target, ignored);
  if (!fs::exists(status)) return {};
  if (existing == Existing::kRefuse) {
    return invalid_input(
        fmt::format("{}: expected a directory that is not there yet, found one: --force replaces "
                    "it, if it is a "
                    "model that Tessera wrote",
                    target));
  }
  if (fs::is_directory(status) && is_written_by_tessera(target)) return {};
  return invalid_input(
      fmt::format("{}: expected nothing, or a model that Tessera wrote, to put another in its "
                  "place, found something else, which stays",
                  target));
}

// The names at a directory's top; none where it cannot be read.
std::set<std::string> names_in(const std::string& directory) {
  std::set<std::string> names;
  std::error_code error;
  fs::directory_iterator entry(directory, error);
  for (const fs::directory_iterator end; !error && entry != end; entry.increment(error))
    names.insert(entry->path().filename());
  return names;
}

// Files that the new model does not have would vanish with the old one.
Status check_names(const std::string& target, std::set<std::string> written) {
  written.insert({"config.json", kCompressedFile, kWeightsFile, kMasksFile, kAdapterConfigFile,
                  kAdapterFile, kCard, kBaseCard, kTrainingLog, kTrainingCurve});
  for (const std::string& name : names_in(target)) {
    if (written.contains(name)) continue;
    return invalid_input(
        fmt::format("{}: expected nothing but what the new model has as well, to replace it, found "
                    "{}: move that, or write elsewhere",
                    target, quote(name)));
  }
  return {};
}

// Whether a run gives such a name in its directory.
bool is_own_name(const std::string& name) {
  const std::string_view layer = "layer-";
  if (name == kWhole || name == kReplaced || name == kRunFile || name == kTrainingLog ||
      name == kTrainingState || name == kTrainingBeginning || name.ends_with(kTemporary)) {
    return true;
  }
  return name.starts_with(layer) && name.size() > layer.size() &&
         name.find_first_not_of("0123456789", layer.size()) == std::string::npos;
}

// The open directory that was locked; making it and opening it anew where it goes meanwhile, as the
// run that it belonged to ends.
Result<int> lock_directory(const std::string& path) {
  for (int attempt = 0; attempt < 100; ++attempt) {
    if (mkdir(path.c_str(), 0777) != 0 && errno != EEXIST)
      return cannot("make the directory", path);
    const int directory = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0 && errno == ENOENT) continue;
    if (directory < 0) return cannot("open", path);
    if (flock(directory, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
      close(directory);
      return invalid_input(fmt::format(
          "{}: expected no other run that writes there, found one at work: wait for it, "
          "or write elsewhere",
          path));
    }
    struct stat locked {
    }, named{};
    if (fstat(directory, &locked) == 0 && stat(path.c_str(), &named) == 0 &&
        locked.st_dev == named.st_dev && locked.st_ino == named.st_ino) {
      return directory;
    }
    close(directory);
  }
  return io_error(fmt::format("{}: cannot lock: others keep removing it", path));
}

}  // namespace

Status check_target(const ModelDirectory& source, const std::string& target, Existing existing) {
  // Its files would be taken for the source's.
  if (is_within(target, source.path)) {
    return invalid_input(fmt::format("{}: expected a directory outside of {}, found one inside",
                                     target, source.path));
  }
  TESSERA_RETURN_IF_ERROR(check_existing(target, existing));
  if (is_within(source.path, target)) {
    return invalid_input(
        fmt::format("{}: expected a directory that does not hold the source, found {} inside it",
                    target, source.path));
  }
  return check_names(target, names_of_other_files(source));
}

Status check_space(const std::string& target, int64_t needed_bytes) {
  std::error_code error;
  const fs::path parent = fs::absolute(fs::path(target)).parent_path();
  const fs::space_info space = fs::space(parent, error);
  const auto needed = static_cast<uintmax_t>(needed_bytes);
  if (error || space.available >= needed) return {};
  return io_error(fmt::format("{}: expected about {} bytes of free space, found {}",
                              parent.string(), needed, space.available));
}

Result<OutputDirectory> OutputDirectory::open(const std::string& target, Existing existing) {
  TESSERA_ASSIGN_OR_RETURN(const int lock, lock_directory(target + ".part"));
  OutputDirectory output(target, existing, lock);
  for (const std::string& name : names_in(output.path())) {
    if (is_own_name(name)) continue;
    return invalid_input(fmt::format(
        "{}: expected what an interrupted run left, found other files, such as {}: remove it, or "
        "write elsewhere",
        output.path(), quote(name)));
  }
  TESSERA_RETURN_IF_ERROR(output.put_back());
  // Another run may have come to its end since the target was looked at.
  if (const Status status = check_existing(target, existing); !status.ok()) {
    if (!output.has_run()) (void)output.discard();
    return status;
  }
  return output;
}

Result<OutputDirectory> OutputDirectory::open(const std::string& target, const std::string& run,
                                              Existing existing) {
  TESSERA_ASSIGN_OR_RETURN(OutputDirectory output, open(target, existing));
  if (output.has_run()) {
    const Result<std::string> found = read_text_file(output.run_file(), kRunLimitBytes);
    if (found.ok() && *found == run) {
      TESSERA_RETURN_IF_ERROR(output.remove_temporaries());
      return output;
    }
    if (existing == Existing::kRefuse) {
      return invalid_input(
          fmt::format("{}: expected what an interrupted run of the same options left, found that "
                      "of other options: --force begins anew, or remove it",
                      output.path()));
    }
  }
  TESSERA_RETURN_IF_ERROR(output.clear());
  TESSERA_RETURN_IF_ERROR(write_file_atomically(output.run_file(), run));
  return output;
}

OutputDirectory::OutputDirectory(OutputDirectory&& other) noexcept
    : target_(std::move(other.target_)),
      existing_(other.existing_),
      lock_(std::exchange(other.lock_, -1)) {}

OutputDirectory::~OutputDirectory() {
  if (lock_ >= 0) close(lock_);
}

std::string OutputDirectory::run_file() const { return path() + "/" + kRunFile; }

bool OutputDirectory::has_run() const {
  std::error_code ignored;
  return fs::exists(run_file(), ignored);
}

Status OutputDirectory::clear() const {
  TESSERA_RETURN_IF_ERROR(put_back());
  std::error_code error;
  std::set<std::string> names = names_in(path());
  std::erase_if(names, [](const std::string& name) { return !is_own_name(name); });
  const auto set_aside = [&](const std::string& name) {
    if (error || name.ends_with(kTemporary)) return;
    const std::string aside = path() + "/" + name + kTemporary;
    fs::remove_all(aside, error);
    if (!error) fs::rename(path() + "/" + name, aside, error);
  };
  const bool has_run = names.erase(kRunFile) > 0;
  for (const std::string& name : names) set_aside(name);
  if (has_run) set_aside(kRunFile);
  return error ? cannot("clear", path(), error) : remove_temporaries();
}

Status OutputDirectory::remove_temporaries() const {
  std::error_code error;
  for (const std::string& name : names_in(path())) {
    if (!error && name.ends_with(kTemporary)) fs::remove_all(path() + "/" + name, error);
  }
  return error ? cannot("clear", path(), error) : Status();
}

Result<std::string> OutputDirectory::make_whole() const {
  const std::string directory = path() + "/" + kWhole;
  std::error_code error;
  fs::remove_all(directory, error);
  fs::create_directory(directory, error);
  if (error) return cannot("make the directory", directory, error);
  return directory;
}

Status OutputDirectory::finish() const {
  TESSERA_RETURN_IF_ERROR(check_existing(target_, existing_));
  TESSERA_RETURN_IF_ERROR(check_names(target_, names_in(path() + "/" + kWhole)));
  TESSERA_RETURN_IF_ERROR(put_in_place());
  sync_directory(target_);
  return discard();
}

// In one step where the file system can exchange two directories: then a kill leaves either of them
// as the target. Else there is a moment without one, after which put_back helps.
Status OutputDirectory::put_in_place() const {
  const std::string whole = path() + "/" + kWhole;
  std::error_code error;
  const bool replaces = fs::exists(target_, error);
  if (replaces) {
    if (renameat2(AT_FDCWD, whole.c_str(), AT_FDCWD, target_.c_str(), RENAME_EXCHANGE) == 0)
      return {};
    fs::rename(target_, path() + "/" + kReplaced, error);
    if (error) return cannot("move away", target_, error);
  }
  fs::rename(whole, target_, error);
  if (!error) return {};
  TESSERA_RETURN_IF_ERROR(put_back());
  return cannot("put in place", target_, error);
}

// Moves what was to be replaced back where nothing has taken its place.
Status OutputDirectory::put_back() const {
  const std::string replaced = path() + "/" + kReplaced;
  std::error_code error;
  if (!fs::exists(fs::symlink_status(replaced, error)) ||
      fs::exists(fs::symlink_status(target_, error))) {
    return {};
  }
  fs::rename(replaced, target_, error);
  if (!error) return {};
  return io_error(
      fmt::format("{}: cannot move back what stood there, which is now {}: {}: move it by hand",
                  target_, replaced, error.message()));
}

Status OutputDirectory::discard() const {
  TESSERA_RETURN_IF_ERROR(clear());
  std::error_code error;
  fs::remove(path(), error);
  return error ? cannot("remove", path(), error) : Status();
}

}  // namespace tessera
