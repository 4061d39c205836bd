#pragma once

#include <cstdio>
#include <memory>
#include <string>
#include <string_view>

#include "tessera/status.h"

namespace tessera::cli {

// A file that is written as PATH.partial and takes PATH's place when it is whole: until then what
// was at PATH stays, and an interrupt, even kill -9, leaves what was flushed. So does a later run,
// until it has something to write itself. One process writes to a path at a time, where the file
// system has locks. A path that names no regular file, such as a device, is written directly.
class PartialFile {
 public:
  // kIo when it cannot be written, kInvalidInput when another process is writing it.
  static Result<std::unique_ptr<PartialFile>> open(const std::string& path);
  ~PartialFile();
  PartialFile(const PartialFile&) = delete;
  PartialFile& operator=(const PartialFile&) = delete;

  Status write(std::string_view data);
  // Flushes, and writes over the first bytes.
  Status write_head(std::string_view data);
  Status flush();
  // Puts it in place. Nothing may be written after it.
  Status commit();
  // Takes away again what was written; what an earlier run left stays.
  void discard();
  // Where it is if it is left now; empty for what is written directly.
  const std::string& partial_path() const { return partial_; }

 private:
  PartialFile(std::string path, std::string partial, std::FILE* file);
  // Before anything is written: empties what an earlier run left.
  Status begin();
  Status failure() const;

  std::string path_;
  std::string partial_;
  std::FILE* file_;
  bool begun_ = false;
};

// The name of what open writes until it is whole.
std::string partial_path_of(const std::string& path);

}  // namespace tessera::cli
