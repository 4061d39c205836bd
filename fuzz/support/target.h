#pragma once

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace tessera::fuzz {

// What a target is: returns for every input, or aborts where something that must hold does not.
// libFuzzer calls it with inputs of its own, the regression test with the files of fuzz/corpus.
void check(std::string_view input);

inline void require(bool condition, const char* file = __builtin_FILE(),
                    int line = __builtin_LINE()) {
  if (condition) return;
  std::fprintf(stderr, "%s:%d: what must hold does not\n", file, line);
  std::abort();
}

// The parts of an input that stands for several files: what lies between the bytes 0x1E, which
// neither JSON nor text has.
std::vector<std::string_view> sections_of(std::string_view input);

// A directory in memory where the system has one, kept from input to input and gone at the end.
class Folder {
 public:
  Folder();
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder();

  const std::string& path() const { return path_; }
  void put(const std::string& name, std::string_view content) const;
  // As put, but no content takes the file away.
  void put_or_remove(const std::string& name, std::string_view content) const;

 private:
  std::string path_;
};

}  // namespace tessera::fuzz
