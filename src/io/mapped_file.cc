#include "io/mapped_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <new>
#include <utility>

#include "io/atomic_file.h"

namespace tessera {
namespace {

const char* kind(mode_t mode) {
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISFIFO(mode)) return "a FIFO";
  if (S_ISSOCK(mode)) return "a socket";
  if (S_ISCHR(mode) || S_ISBLK(mode)) return "a device";
  return "another kind of file";
}

class Descriptor {
 public:
  explicit Descriptor(int value) : value_(value) {}
  Descriptor(Descriptor&& other) noexcept : value_(std::exchange(other.value_, -1)) {}
  Descriptor& operator=(Descriptor&&) = delete;
  ~Descriptor() {
    if (value_ >= 0) close(value_);
  }
  int get() const { return value_; }

 private:
  int value_;
};

struct OpenFile {
  Descriptor descriptor;
  size_t size_bytes;
};

// What the name means is settled once, by open; everything after asks the descriptor.
Result<OpenFile> open_regular(const std::string& path) {
  if (path.find('\0') != std::string::npos) {
    return invalid_input("expected a path without NUL characters, found one with them");
  }
  // Without O_NONBLOCK a FIFO would wait for a writer.
  Descriptor descriptor(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (descriptor.get() < 0) {
    const std::string message = fmt::format("{}: cannot open: {}", path, std::strerror(errno));
    return errno == ENOENT || errno == ENOTDIR ? not_found(message) : io_error(message);
  }
  struct stat info {};
  if (fstat(descriptor.get(), &info) != 0) {
    return io_error(fmt::format("{}: cannot read its size: {}", path, std::strerror(errno)));
  }
  if (!S_ISREG(info.st_mode)) {
    return invalid_input(
        fmt::format("{}: expected a regular file, found {}", path, kind(info.st_mode)));
  }
  return OpenFile{std::move(descriptor), static_cast<size_t>(info.st_size)};
}

}  // namespace

Result<MappedFile> MappedFile::open(const std::string& path) {
  TESSERA_ASSIGN_OR_RETURN(const OpenFile file, open_regular(path));
  MappedFile mapped;
  if (file.size_bytes == 0) return mapped;
  void* data = mmap(nullptr, file.size_bytes, PROT_READ, MAP_PRIVATE, file.descriptor.get(), 0);
  if (data == MAP_FAILED) {
    return io_error(
        fmt::format("{}: cannot map {} bytes: {}", path, file.size_bytes, std::strerror(errno)));
  }
  // Tensors are read once, from front to back: read ahead far.
  madvise(data, file.size_bytes, MADV_SEQUENTIAL);
  mapped.data_ = static_cast<const char*>(data);
  mapped.size_bytes_ = file.size_bytes;
  return mapped;
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_bytes_(std::exchange(other.size_bytes_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_bytes_, other.size_bytes_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<char*>(data_), size_bytes_);
}

void MappedFile::release(const void* data, size_t bytes) const {
  static const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto file = reinterpret_cast<uintptr_t>(data_);
  const auto start = reinterpret_cast<uintptr_t>(data);
  if (data_ == nullptr || start < file || start > file + size_bytes_) return;
  const uintptr_t end = (start + std::min(bytes, file + size_bytes_ - start)) / page * page;
  const uintptr_t begin = (start + page - 1) / page * page;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

Result<std::string> read_text_file(const std::string& path, size_t limit_bytes) {
  TESSERA_ASSIGN_OR_RETURN(const OpenFile file, open_regular(path));
  if (file.size_bytes > limit_bytes) {
    return invalid_input(
        fmt::format("{}: expected at most {} bytes, found {}", path, limit_bytes, file.size_bytes));
  }
  try {
    std::string text(file.size_bytes, '\0');
    size_t filled = 0;
    while (filled < text.size()) {
      const ssize_t got = read(file.descriptor.get(), text.data() + filled, text.size() - filled);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return io_error(fmt::format("{}: cannot read: {}", path, std::strerror(errno)));
      if (got == 0) break;  // cut while it was read
      filled += static_cast<size_t>(got);
    }
    text.resize(filled);
    if (is_git_lfs_pointer(text))
      return invalid_input(fmt::format("{}: expected its text, {}", path, kFoundGitLfsPointer));
    return text;
  } catch (const std::bad_alloc&) {
    return out_of_memory(fmt::format("{}: not enough memory for {} bytes", path, file.size_bytes));
  }
}

bool is_git_lfs_pointer(std::string_view bytes) {
  return bytes.starts_with("version https://git-lfs");
}

Status write_file_atomically(const std::string& path, const std::string& content) {
  TESSERA_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::create(path));
  TESSERA_RETURN_IF_ERROR(file.append(content));
  return file.commit();
}

}  // namespace tessera
