#include "cli/partial_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace tessera::cli {
namespace {

Status cannot_write(const std::string& path) {
  return io_error(fmt::format("cannot write {}: {}", path, std::strerror(errno)));
}

// A rename would replace a link instead of what it leads to.
std::string resolved(const std::string& path) {
  struct FreeText {
    void operator()(char* text) const { std::free(text); }
  };
  const std::unique_ptr<char, FreeText> real(realpath(path.c_str(), nullptr));
  return real == nullptr ? path : real.get();
}

// The file of that name with what is in it, locked where its file system has locks.
Result<int> open_locked(const std::string& path) {
  for (;;) {
    const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (file < 0) return cannot_write(path);
    struct stat mine {
    }, found{};
    if (flock(file, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
      close(file);
      return invalid_input(fmt::format(
          "expected to write {} alone, found another option or process that does", path));
    }
    // Another process may have put it in place before the lock was had.
    const bool same = fstat(file, &mine) == 0 && stat(path.c_str(), &found) == 0 &&
                      mine.st_dev == found.st_dev && mine.st_ino == found.st_ino;
    if (same) return file;
    close(file);
  }
}

}  // namespace

std::string partial_path_of(const std::string& path) { return resolved(path) + ".partial"; }

PartialFile::PartialFile(std::string path, std::string partial, std::FILE* file)
    : path_(std::move(path)), partial_(std::move(partial)), file_(file) {}

PartialFile::~PartialFile() {
  if (file_ != nullptr) std::fclose(file_);
}

Result<std::unique_ptr<PartialFile>> PartialFile::open(const std::string& path) {
  struct stat existing {};
  const bool exists = stat(path.c_str(), &existing) == 0;
  const bool direct = exists && !S_ISREG(existing.st_mode);
  if (exists && !direct && access(path.c_str(), W_OK) != 0) return cannot_write(path);
  std::FILE* file = nullptr;
  if (direct) {
    file = std::fopen(path.c_str(), "wb");
  } else {
    const Result<int> locked = open_locked(partial_path_of(path));
    if (!locked.ok()) return locked.status();
    if (exists) (void)fchmod(*locked, existing.st_mode & 0777);
    file = fdopen(*locked, "wb");
  }
  if (file == nullptr) return cannot_write(path);
  return std::unique_ptr<PartialFile>(
      new PartialFile(direct ? path : resolved(path), direct ? "" : partial_path_of(path), file));
}

Status PartialFile::begin() {
  if (!begun_ && !partial_.empty() && ftruncate(fileno(file_), 0) != 0) return failure();
  begun_ = true;
  return {};
}

Status PartialFile::write(std::string_view data) {
  if (data.empty()) return {};
  if (Status status = begin(); !status.ok()) return status;
  return std::fwrite(data.data(), 1, data.size(), file_) == data.size() ? Status() : failure();
}

Status PartialFile::write_head(std::string_view data) {
  if (Status status = begin(); !status.ok()) return status;
  if (Status status = flush(); !status.ok()) return status;
  const ssize_t count = pwrite(fileno(file_), data.data(), data.size(), 0);
  return count == static_cast<ssize_t>(data.size()) ? Status() : failure();
}

Status PartialFile::flush() { return std::fflush(file_) == 0 ? Status() : failure(); }

Status PartialFile::commit() {
  if (Status status = begin(); !status.ok()) return status;
  if (Status status = flush(); !status.ok()) return status;
  if (partial_.empty()) {
    return std::fclose(std::exchange(file_, nullptr)) == 0 ? Status() : failure();
  }
  // Renamed while it is locked: whoever waits for the name sees that it is another file.
  if (fsync(fileno(file_)) != 0) return failure();
  if (std::rename(partial_.c_str(), path_.c_str()) != 0) return failure();
  partial_.clear();
  std::fclose(std::exchange(file_, nullptr));
  return {};
}

void PartialFile::discard() {
  struct stat found {};
  const bool is_ours = begun_ || (fstat(fileno(file_), &found) == 0 && found.st_size == 0);
  if (!partial_.empty() && is_ours) unlink(partial_.c_str());
  partial_.clear();
}

Status PartialFile::failure() const { return cannot_write(partial_.empty() ? path_ : partial_); }

}  // namespace tessera::cli
