#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "tessera/status.h"

namespace tessera::cli {

// A longer line is refused: no tokenizer takes more than 256 MiB of text.
inline constexpr size_t kLineLimitBytes = size_t{1} << 28;

// The lines of a file or of standard input, one at a time, in bounded memory.
class LineReader {
 public:
  // "-" is standard input.
  static Result<std::unique_ptr<LineReader>> open(const std::string& path);
  ~LineReader();
  LineReader(const LineReader&) = delete;
  LineReader& operator=(const LineReader&) = delete;

  // The next line without its LF; a last line needs none. False at the end. kCancelled when the
  // user interrupts the wait (see Interrupt).
  Result<bool> next(std::string* line);
  int64_t line() const { return line_; }  // number of the line that next gave last, from 1
  const std::string& name() const { return name_; }
  // "FILE, line 3: message"
  Status error(int64_t line, const std::string& message) const;

 private:
  LineReader(int file, std::string name);
  Result<bool> fill();

  int file_;
  std::string name_;
  int64_t line_ = 0;
  std::unique_ptr<char[]> buffer_;
  size_t begin_ = 0, end_ = 0;  // what of the buffer is not yet given
};

// An error that names the first byte that belongs to no character.
Status check_utf8(std::string_view text);

}  // namespace tessera::cli
