#include "compress/output.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "io/atomic_file.h"
#include "io/config.h"
#include "io/model_directory.h"
#include "io/safetensors.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

constexpr const char* kWhole = "whole";
constexpr const char* kReplaced = "replaced";

Status cannot(const char* what, const std::string& path, const std::error_code& error) {
  return io_error(fmt::format("{}: cannot {}: {}", path, what, error.message()));
}

Status cannot(const char* what, const std::string& path) {
  return cannot(what, path, {errno, std::generic_category()});
}

// Whether inner is outer or lies under it, links followed.
bool is_within(const fs::path& inner, const fs::path& outer) {
  std::error_code ignored;
  const fs::path in = fs::weakly_canonical(fs::absolute(inner), ignored);
  const fs::path out = fs::weakly_canonical(fs::absolute(outer), ignored);
  return std::mismatch(out.begin(), out.end(), in.begin(), in.end()).first == out.end();
}

// A compressed directory says so in its config.json, an exported one in its weights.
bool is_written_by_tessera(const std::string& directory) {
  const Result<ModelDirectory> home = find_model(directory);
  if (!home.ok()) return false;
  const Result<Config> config = Config::read(home->transformer + "/config.json");
  if (!config.ok()) return false;
  if (config->has("tessera")) return true;
  const auto weights = Safetensors::open(home->transformer + "/model.safetensors");
  return weights.ok() && weights->metadata().contains(kWriterKey);
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

std::string without_slashes(std::string path) {
  while (path.size() > 1 && path.ends_with('/')) path.pop_back();
  return path;
}

Status check_target(const std::string& source, const std::string& target, Existing existing) {
  // Its files would be taken for the source's.
  if (is_within(target, source)) {
    return invalid_input(
        fmt::format("{}: expected a directory outside of {}, found one inside", target, source));
  }
  TESSERA_RETURN_IF_ERROR(check_existing(target, existing));
  if (!is_within(source, target)) return {};
  return invalid_input(
      fmt::format("{}: expected a directory that does not hold the source, found {} inside it",
                  target, source));
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
  // Another run may have come to its end since the target was looked at.
  if (const Status status = check_existing(target, existing); !status.ok()) {
    if (output.is_as_new()) (void)output.discard();
    return status;
  }
  return output;
}

OutputDirectory::OutputDirectory(OutputDirectory&& other) noexcept
    : target_(std::move(other.target_)),
      existing_(other.existing_),
      lock_(std::exchange(other.lock_, -1)) {}

OutputDirectory::~OutputDirectory() {
  if (lock_ >= 0) close(lock_);
}

bool OutputDirectory::is_as_new() const {
  std::error_code error;
  fs::directory_iterator entry(path(), error);
  for (const fs::directory_iterator end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename();
    if (name != kWhole && !name.ends_with(".tmp")) return false;
  }
  return !error;
}

Status OutputDirectory::clear() const {
  std::error_code error;
  fs::directory_iterator entry(path(), error);
  for (const fs::directory_iterator end; !error && entry != end; entry.increment(error))
    fs::remove_all(entry->path(), error);
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
  const std::string replaced = path() + "/" + kReplaced;
  std::error_code error;
  const bool replaces = fs::exists(target_, error);
  if (replaces) {
    fs::rename(target_, replaced, error);
    if (error) return cannot("move away", target_, error);
  }
  fs::rename(path() + "/" + kWhole, target_, error);
  if (error) {
    std::error_code ignored;
    if (replaces) fs::rename(replaced, target_, ignored);
    return cannot("put in place", target_, error);
  }
  sync_directory(target_);
  return discard();
}

Status OutputDirectory::discard() const {
  std::error_code error;
  fs::remove_all(path(), error);
  return error ? cannot("remove", path(), error) : Status();
}

}  // namespace tessera
