#include "support/target.h"

#include <unistd.h>

#include <fstream>

namespace tessera::fuzz {

namespace fs = std::filesystem;

std::vector<std::string_view> sections_of(std::string_view input) {
  std::vector<std::string_view> sections;
  while (true) {
    const size_t end = input.find('\x1E');
    sections.push_back(input.substr(0, end));
    if (end == std::string_view::npos) return sections;
    input.remove_prefix(end + 1);
  }
}

Folder::Folder() {
  const fs::path memory = "/dev/shm";
  std::error_code ignored;
  const bool is_writable = fs::is_directory(memory, ignored) && access(memory.c_str(), W_OK) == 0;
  path_ = ((is_writable ? memory : fs::temp_directory_path()) / "tessera_fuzz_XXXXXX").string();
  require(mkdtemp(path_.data()) != nullptr);
}

Folder::~Folder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

void Folder::put(const std::string& name, std::string_view content) const {
  const fs::path file = fs::path(path_) / name;
  fs::create_directories(file.parent_path());
  std::ofstream stream(file, std::ios::binary);
  stream << content;
  require(stream.good());
}

void Folder::put_or_remove(const std::string& name, std::string_view content) const {
  std::error_code ignored;
  if (content.empty()) {
    fs::remove(fs::path(path_) / name, ignored);
  } else {
    put(name, content);
  }
}

}  // namespace tessera::fuzz
