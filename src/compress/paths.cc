#include "compress/paths.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

namespace tessera {

namespace fs = std::filesystem;

Status cannot(const char* what, const std::string& path, const std::error_code& error) {
  return io_error(fmt::format("{}: cannot {}: {}", path, what, error.message()));
}

Status cannot(const char* what, const std::string& path) {
  return cannot(what, path, {errno, std::generic_category()});
}

bool is_within(const fs::path& inner, const fs::path& outer) {
  std::error_code ignored;
  const fs::path in = fs::weakly_canonical(fs::absolute(inner), ignored);
  const fs::path out = fs::weakly_canonical(fs::absolute(outer), ignored);
  return std::mismatch(out.begin(), out.end(), in.begin(), in.end()).first == out.end();
}

std::string plain_path(std::string path) {
  while (path.size() > 1 && (path.ends_with('/') || path.ends_with("/.")))
    path.pop_back();  // of "/." the slash goes next
  if (path != "." && path != ".." && !path.ends_with("/..")) return path;
  std::error_code error;
  const fs::path own = fs::weakly_canonical(fs::absolute(path), error);
  if (error) return path;
  return own.has_filename() ? own.string() : own.parent_path().string();
}

}  // namespace tessera
