#include "report/cells.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "io/mapped_file.h"
#include "tessera/version.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMostCellBytes = size_t{1} << 30;

// FNV-1a: names of files and changes of ours, no adversary.
uint64_t hash_of(std::string_view bytes) {
  uint64_t hash = 14695981039346656037u;
  for (const char c : bytes) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211u;
  return hash;
}

Result<std::string> identity_of_file(const std::string& path) {
  struct stat found {};
  if (stat(path.c_str(), &found) != 0) {
    const std::string message = fmt::format("{}: {}", path, std::strerror(errno));
    return errno == ENOENT ? not_found(message) : io_error(message);
  }
  return fmt::format("{} {} {}.{:09}", path, static_cast<int64_t>(found.st_size),
                     static_cast<int64_t>(found.st_mtim.tv_sec),
                     static_cast<int64_t>(found.st_mtim.tv_nsec));
}

// No model reads what is hidden, and cells come with a report.
bool is_no_part(const fs::path& path) {
  return path.filename().string().starts_with('.') || path.extension() == ".cells";
}

bool is_among(const fs::path& path, const std::vector<fs::path>& files) {
  return std::any_of(files.begin(), files.end(), [&](const fs::path& file) {
    std::error_code ignored;
    return fs::equivalent(path, file, ignored);
  });
}

// A hash of the shared library, or of the program that the library is linked into.
uint64_t hash_of_code() {
  static const char kHere = 0;  // hidden, so that it lies in the file that is meant
  Dl_info info{};
  if (dladdr(&kHere, &info) == 0 || info.dli_fname == nullptr) return 0;
  Result<MappedFile> file = MappedFile::open(info.dli_fname);
  // A program may be named by what it was called by.
  if (!file.ok()) file = MappedFile::open("/proc/self/exe");
  return file.ok() ? hash_of({file->data(), file->size_bytes()}) : 0;
}

}  // namespace

std::string CellStore::path(const std::string& kind, const std::string& key) const {
  return (fs::path(folder_) / fmt::format("{}-{:016x}.cell", kind, hash_of(key))).string();
}

std::optional<std::string> CellStore::find(const std::string& kind, const std::string& key) const {
  if (kept_ == Kept::kIgnore) return std::nullopt;
  Result<std::string> text = read_text_file(path(kind, key), kMostCellBytes);
  if (!text.ok() || text->size() <= key.size() || text->compare(0, key.size(), key) != 0 ||
      (*text)[key.size()] != '\n')
    return std::nullopt;
  return text->substr(key.size() + 1);
}

Status CellStore::put(const std::string& kind, const std::string& key,
                      const std::string& content) const {
  std::error_code error;
  fs::create_directories(folder_, error);
  if (error) return io_error(fmt::format("{}: cannot make it: {}", folder_, error.message()));
  return write_file_atomically(path(kind, key), key + "\n" + content);
}

Result<std::string> identity_of(const std::string& path, const std::vector<fs::path>& except) {
  std::error_code error;
  if (!fs::is_directory(path, error)) return identity_of_file(path);
  std::vector<std::string> files;
  constexpr auto kOptions = fs::directory_options::skip_permission_denied;
  for (fs::recursive_directory_iterator entry(path, kOptions, error), end; !error && entry != end;
       entry.increment(error)) {
    std::error_code ignored;
    if (is_no_part(entry->path()) || is_among(entry->path(), except)) {
      entry.disable_recursion_pending();
    } else if (entry->is_regular_file(ignored)) {
      files.push_back(entry->path().string());
    }
  }
  if (error) return io_error(fmt::format("{}: cannot list it: {}", path, error.message()));
  std::sort(files.begin(), files.end());
  std::string all;
  for (const std::string& file : files) {
    TESSERA_ASSIGN_OR_RETURN(const std::string one, identity_of_file(file));
    all += (all.empty() ? "" : "; ") + one;
  }
  return all;
}

std::string program_identity() {
  static const std::string identity = fmt::format("{} {:016x}", version(), hash_of_code());
  return identity;
}

}  // namespace tessera
