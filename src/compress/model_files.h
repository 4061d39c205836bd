#pragma once

#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>

#include "base/status.h"
#include "io/model_directory.h"

namespace tessera {

inline constexpr const char* kKvHeadsKey = "num_key_value_heads";  // of a config.json

// What becomes of a config.json.
struct ConfigChange {
  std::string section = {};              // JSON: the `tessera` section; empty: there is none
  std::string dtype = {};                // as transformers calls it; empty: as it is
  std::optional<int32_t> kv_heads = {};  // nothing: as many as it says
};

// The text of a directory's config.json with a change.
Result<std::string> changed_config(const std::string& directory, const ConfigChange& change);

// Copies what belongs to a model but its own weights, of whatever format, with the folders that are
// not hidden; config.json where there is none yet. All is on the disk when it returns. before_file
// is called before each file; an error of it ends the copying.
Status copy_other_files(const ModelDirectory& home, const std::string& target,
                        const std::function<Status()>& before_file);

// Whether a file of that name is none of a model's own weights, of whatever format, nor its
// config.json.
bool is_other_file(const std::string& name);
// Copies a file; it is on the disk when this returns.
Status copy_durably(const std::string& from, const std::string& to);

// The names at the top of what it copies.
std::set<std::string> names_of_other_files(const ModelDirectory& home);

// SHA-256 of a file, and of a directory's tensor files by name, for provenance.
Result<std::string> hash_file(const std::string& path);
Result<std::map<std::string, std::string>> hash_tensor_files(const std::string& directory);

}  // namespace tessera
