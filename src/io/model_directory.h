#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/status.h"

namespace tessera {

// Where a model lies on the disk.
struct ModelDirectory {
  std::string path;         // of modules.json, where there is one
  std::string transformer;  // of config.json, weights and tokenizer: path, or a folder in it

  // The transformer's folder in another directory of the same layout.
  std::string transformer_in(const std::string& other) const {
    return other + transformer.substr(path.size());
  }
};

// The one place where what a user calls a model becomes a directory. A path that is there is taken
// as it is, also where it is the folder of a model in the hub's cache, whose snapshot refs/main
// names. Else OWNER/NAME, NAME and models--OWNER--NAME are looked for in that cache: in
// $HF_HUB_CACHE, $HF_HOME/hub, or huggingface/hub below $XDG_CACHE_HOME or ~/.cache, the first that
// is set. kNotFound says how to fetch what is not there. In a directory of sentence-transformers
// the first module says where the transformer is; what else modules.json holds is not checked.
Result<ModelDirectory> find_model(const std::string& name);

// OWNER/NAME, or NAME as the oldest models have, of a name that may be one on the hub: that itself,
// or models--OWNER--NAME, the folder of its cache.
std::optional<std::string> hub_id(std::string_view name);

// What a message about files that a model lacks ends with: for a snapshot in the hub's cache the
// command that fetches them, else nothing.
std::string hint_to_fetch(const std::string& directory);

// That a path is a directory at all.
Status check_directory(const std::string& path);

}  // namespace tessera
