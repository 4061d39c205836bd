#include "io/atomic_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

namespace tessera {
namespace {

// write(2) moves at most about 2 GiB at a time.
constexpr size_t kPieceBytes = size_t{1} << 30;

std::string directory_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? std::string(".") : path.substr(0, slash + 1);
}

}  // namespace

void sync_directory(const std::string& path) {
  const int descriptor = open(directory_of(path).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return;
  (void)fsync(descriptor);
  close(descriptor);
}

AtomicFile::AtomicFile(std::string path, std::string temporary, int descriptor)
    : path_(std::move(path)), temporary_(std::move(temporary)), descriptor_(descriptor) {}

AtomicFile::AtomicFile(AtomicFile&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_(std::exchange(other.temporary_, {})),
      descriptor_(std::exchange(other.descriptor_, -1)) {}

AtomicFile::~AtomicFile() {
  if (descriptor_ >= 0) close(descriptor_);
  if (!temporary_.empty()) unlink(temporary_.c_str());
}

Result<AtomicFile> AtomicFile::create(const std::string& path) {
  struct stat existing {};
  const bool exists = stat(path.c_str(), &existing) == 0;
  // A rename would replace /dev/null itself.
  if (exists && !S_ISREG(existing.st_mode)) {
    return invalid_input(
        fmt::format("{}: expected a regular file or none to write, found another kind", path));
  }
  static std::atomic<unsigned> counter{0};
  for (int attempt = 0; attempt < 100; ++attempt) {
    const std::string temporary =
        fmt::format("{}{}.tessera-{}-{}.tmp", directory_of(path),
                    path.rfind('/') == std::string::npos ? "/" : "", getpid(),
                    counter.fetch_add(1, std::memory_order_relaxed));
    const int descriptor = open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (descriptor < 0 && errno == EEXIST) continue;
    if (descriptor < 0) {
      return io_error(fmt::format("{}: cannot write beside it: {}", path, std::strerror(errno)));
    }
    if (exists) (void)fchmod(descriptor, existing.st_mode & 0777);
    return AtomicFile(path, temporary, descriptor);
  }
  return io_error(
      fmt::format("{}: cannot write: the names of temporaries beside it are all taken", path));
}

Status AtomicFile::failed(const char* what) const {
  return io_error(fmt::format("{}: cannot {}: {}", path_, what, std::strerror(errno)));
}

Status AtomicFile::append(const void* data, size_t size_bytes) {
  const char* next = static_cast<const char*>(data);
  while (size_bytes > 0) {
    const ssize_t written = write(descriptor_, next, std::min(size_bytes, kPieceBytes));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return failed("write");
    next += written;
    size_bytes -= static_cast<size_t>(written);
  }
  return {};
}

Status AtomicFile::commit() {
  if (fsync(descriptor_) != 0) return failed("write to the disk");
  if (close(std::exchange(descriptor_, -1)) != 0) return failed("write");
  if (std::rename(temporary_.c_str(), path_.c_str()) != 0) return failed("put in place");
  temporary_.clear();
  sync_directory(path_);
  return {};
}

}  // namespace tessera
