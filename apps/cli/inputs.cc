#include "cli/inputs.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <memory>

namespace tessera::cli {
namespace {

struct CloseFile {
  void operator()(std::FILE* file) const {
    if (file != stdin) std::fclose(file);
  }
};

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r";
  const size_t first = text.find_first_not_of(kSpace);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kSpace) - first + 1);
}

}  // namespace

bool has_ending(std::string_view path, std::string_view ending) {
  if (path.size() < ending.size()) return false;
  path.remove_prefix(path.size() - ending.size());
  return std::equal(path.begin(), path.end(), ending.begin(), [](unsigned char c, char wanted) {
    return std::tolower(c) == static_cast<unsigned char>(wanted);
  });
}

Result<std::string> read_text(const std::string& path) {
  const std::string name = path == "-" ? "standard input" : path;
  std::unique_ptr<std::FILE, CloseFile> file(path == "-" ? stdin : std::fopen(path.c_str(), "rb"));
  if (file == nullptr)
    return io_error(fmt::format("cannot open {}: {}", name, std::strerror(errno)));
  std::string text;
  char buffer[1 << 16];
  while (const size_t count = std::fread(buffer, 1, sizeof buffer, file.get())) {
    text.append(buffer, count);
  }
  if (std::ferror(file.get()) != 0) {
    return io_error(fmt::format("cannot read {}: {}", name, std::strerror(errno)));
  }
  return text;
}

Result<std::vector<int32_t>> parse_ids(std::string_view text) {
  std::string_view rest = trimmed(text);
  if (rest.starts_with('[') && rest.ends_with(']')) rest = rest.substr(1, rest.size() - 2);
  std::vector<int32_t> ids;
  for (bool last = false; !last;) {
    const size_t comma = rest.find(',');
    last = comma == std::string_view::npos;
    const std::string_view item = trimmed(rest.substr(0, comma));
    int32_t id = -1;
    const auto [end, error] = std::from_chars(item.data(), item.data() + item.size(), id);
    if (error != std::errc() || end != item.data() + item.size() || id < 0) {
      return invalid_input(fmt::format(
          "expected token ids as integers from 0 to 2147483647 between commas, found \"{}\"",
          item));
    }
    ids.push_back(id);
    if (!last) rest = rest.substr(comma + 1);
  }
  return ids;
}

std::string join_ids(const std::vector<int32_t>& ids) {
  return fmt::format("{}", fmt::join(ids, ","));
}

}  // namespace tessera::cli
