#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"

namespace tessera {

// What was measured and is not measured again: a file a cell in a folder, found by a key that holds
// all that decides the content. A file is whole or not there.
class CellStore {
 public:
  enum class Kept { kUse, kIgnore };  // kIgnore: nothing is found, all is written anew
  CellStore(std::string folder, Kept kept) : folder_(std::move(folder)), kept_(kept) {}

  const std::string& folder() const { return folder_; }
  // key: one line. kind opens the file's name. Nothing: no such cell; a file that cannot be read or
  // has another key counts as none.
  std::optional<std::string> find(const std::string& kind, const std::string& key) const;
  // Makes the folder where it is missing.
  Status put(const std::string& kind, const std::string& key, const std::string& content) const;
  std::string path(const std::string& kind, const std::string& key) const;

 private:
  std::string folder_;
  Kept kept_;
};

// The name, size and time of last change of a file, or of every file in a folder and those below it
// but the given ones, hidden ones and folders of cells: changes when what is read from there may
// have changed. kNotFound, kIo.
Result<std::string> identity_of(const std::string& path,
                                const std::vector<std::filesystem::path>& except = {});

// Identifies the code that runs: the version, and a hash of the file that holds it.
std::string program_identity();

}  // namespace tessera
