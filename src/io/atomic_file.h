#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "base/status.h"

namespace tessera {

// A file written beside its path and renamed into place by commit: path is either whole or as it
// was, and nothing is left behind when it is dropped uncommitted. A path that names something other
// than a regular file is refused.
class AtomicFile {
 public:
  static Result<AtomicFile> create(const std::string& path);
  AtomicFile(AtomicFile&& other) noexcept;
  AtomicFile& operator=(AtomicFile&&) = delete;
  ~AtomicFile();

  Status append(const void* data, size_t size_bytes);
  Status append(std::string_view text) { return append(text.data(), text.size()); }
  // Syncs, then renames. Nothing may be appended after it.
  Status commit();

 private:
  AtomicFile(std::string path, std::string temporary, int descriptor);
  Status failed(const char* what) const;

  std::string path_;
  std::string temporary_;  // empty once renamed
  int descriptor_ = -1;
};

// Makes a rename to path durable. Some file systems cannot sync a directory, which is no loss of
// content.
void sync_directory(const std::string& path);

}  // namespace tessera
