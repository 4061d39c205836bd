#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "base/status.h"

namespace tessera {

// A file mapped read-only. Regular files only. Whoever cuts the file short while it is mapped takes
// the pages away: reading them then ends the process.
class MappedFile {
 public:
  static Result<MappedFile> open(const std::string& path);
  MappedFile() = default;
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  const char* data() const { return data_; }
  size_t size_bytes() const { return size_bytes_; }
  // Gives the pages that lie wholly in [data, data + bytes) back; a later read fetches them again.
  // Memory that is not this file's is left alone.
  void release(const void* data, size_t bytes) const;

 private:
  const char* data_ = nullptr;
  size_t size_bytes_ = 0;
};

// Whether the bytes of a file are what git leaves of it where Git LFS did not fetch it, and the end
// of the sentence that says so.
bool is_git_lfs_pointer(std::string_view bytes);
inline constexpr std::string_view kFoundGitLfsPointer =
    "found a Git LFS pointer in its place (git lfs pull fetches the file)";

// A small text file whole; larger than limit_bytes is an error, and so is a Git LFS pointer.
Result<std::string> read_text_file(const std::string& path, size_t limit_bytes);

// Writes to a temporary beside path, then renames: path is either whole or as it was.
Status write_file_atomically(const std::string& path, const std::string& content);

}  // namespace tessera
