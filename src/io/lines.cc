#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/guarded.h"
#include "io/utf8.h"
#include "tessera/records.h"

namespace tessera {
namespace {

constexpr size_t kBufferBytes = size_t{1} << 18;
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

// Waits without going deaf to the caller: what interrupts it restarts a read() but never a poll().
Status wait_for_input(int file, const KeepWaiting& keep_waiting) {
  constexpr int kMilliseconds = 200;
  for (pollfd wait{file, POLLIN, 0}; !keep_waiting || keep_waiting();) {
    const int ready = poll(&wait, 1, kMilliseconds);
    if (ready > 0 || (ready < 0 && errno != EINTR)) return {};
  }
  return {StatusCode::kCancelled, "cancelled"};
}

}  // namespace

Status check_utf8(std::string_view text) {
  const size_t bad = find_invalid_utf8(text);
  if (bad == std::string_view::npos) return {};
  return invalid_input(fmt::format("expected UTF-8, found byte 0x{:02X} at offset {}",
                                   static_cast<unsigned char>(text[bad]), bad));
}

LineReader::LineReader(int file, std::string name, KeepWaiting keep_waiting)
    : file_(file),
      name_(std::move(name)),
      keep_waiting_(std::move(keep_waiting)),
      buffer_(new char[kBufferBytes]) {}

LineReader::~LineReader() {
  if (file_ != STDIN_FILENO) close(file_);
}

Result<std::unique_ptr<LineReader>> LineReader::open(const std::string& path,
                                                     KeepWaiting keep_waiting) {
  const std::string name = path == "-" ? "standard input" : path;
  return guarded(name, [&]() -> Result<std::unique_ptr<LineReader>> {
    const int file = path == "-" ? STDIN_FILENO : ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0) return io_error(fmt::format("cannot open {}: {}", name, std::strerror(errno)));
    return std::unique_ptr<LineReader>(new LineReader(file, name, std::move(keep_waiting)));
  });
}

// False at the end.
Result<bool> LineReader::fill() {
  for (;;) {
    TESSERA_RETURN_IF_ERROR(wait_for_input(file_, keep_waiting_));
    const ssize_t count = read(file_, buffer_.get(), kBufferBytes);
    if (count < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (count < 0) {
      return io_error(fmt::format("cannot read {}: {}", name_, std::strerror(errno)));
    }
    begin_ = 0;
    end_ = static_cast<size_t>(count);
    return count > 0;
  }
}

Result<bool> LineReader::next(std::string* line) {
  return guarded(name_, [&]() -> Result<bool> {
    line->clear();
    for (bool whole = false, some = false; !whole;) {
      if (begin_ == end_) {
        TESSERA_ASSIGN_OR_RETURN(const bool more, fill());
        if (!more && !some) return false;
        if (!more) break;
      }
      if (!some) ++line_;
      some = true;
      const char* const from = buffer_.get() + begin_;
      const auto* const at = static_cast<const char*>(std::memchr(from, '\n', end_ - begin_));
      whole = at != nullptr;
      const size_t count = whole ? static_cast<size_t>(at - from) : end_ - begin_;
      if (line->size() + count > kLineLimitBytes) {
        return error(
            line_, fmt::format("expected at most {} bytes in a line, found more", kLineLimitBytes));
      }
      line->append(from, count);
      begin_ += count + (whole ? 1 : 0);
    }
    if (line_ == 1 && line->starts_with(kByteOrderMark)) line->erase(0, kByteOrderMark.size());
    return true;
  });
}

Status LineReader::error(int64_t line, const std::string& message) const {
  return invalid_input(fmt::format("{}, line {}: {}", name_, line, message));
}

}  // namespace tessera
