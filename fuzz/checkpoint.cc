// Any bytes as model.safetensors.index.json and its shards are refused with a sentence, or give
// every tensor that the index names and none of a file outside the directory.

#include "io/checkpoint.h"

#include <algorithm>

#include "io/json.h"
#include "support/target.h"

namespace tessera::fuzz {
namespace {

// A file of one tensor of one byte.
std::string one_tensor(const std::string& name) {
  std::string header = "{\"" + name + R"(":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})";
  return std::string(1, static_cast<char>(header.size())) + std::string(7, '\0') + header + "x";
}

struct Folders {
  Folders() {
    home.put("config.json", "{}");
    outside.put("secret.safetensors", one_tensor("secret"));
    std::filesystem::create_directory_symlink(outside.path(), home.path() + "/folder");
  }
  Folder home, outside;
};

std::vector<std::string> wanted(const std::string& index) {
  const auto root = parse_json(index, "index");
  require(root.ok());
  std::vector<std::string> names;
  for (const Json::Member& member : *root->find("weight_map")->as<Json::Object>()) {
    names.push_back(member.key);
  }
  return names;
}

}  // namespace

void check(std::string_view input) {
  static const Folders folders;
  const std::vector<std::string_view> sections = sections_of(input);
  const std::string index(sections[0]);
  folders.home.put("model.safetensors.index.json", index);
  for (size_t i = 1; i <= 2; ++i) {
    const std::string name = std::string(1, static_cast<char>('`' + i));
    folders.home.put(name + ".safetensors",
                     i < sections.size() ? std::string(sections[i]) : one_tensor(name));
  }
  const auto checkpoint = Checkpoint::open(folders.home.path());
  if (!checkpoint.ok()) {
    require(!checkpoint.status().message().empty());
    return;
  }
  for (const std::string& name : wanted(index)) require(checkpoint->has(name));
  if (checkpoint->has("secret")) require(input.find("secret", index.size()) != input.npos);
  for (const std::string& name : checkpoint->names()) (void)checkpoint->tensor(name, {-1, -1}).ok();
}

}  // namespace tessera::fuzz
