#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/guarded.h"
#include "io/utf8.h"
#include "tessera/records.h"

namespace tessera {
namespace {

constexpr size_t kBufferBytes = size_t{1} << 18;
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

// Whether a read would not wait, asked for at most so long. The end and errors are input too.
bool has_input(int file, int milliseconds) {
  pollfd wait{file, POLLIN, 0};
  const int ready = poll(&wait, 1, milliseconds);
  return ready > 0 || (ready < 0 && errno != EINTR);
}

// Waits without going deaf to the caller: what interrupts it restarts a read() but never a poll().
Status wait_for_input(int file, const KeepWaiting& keep_waiting) {
  constexpr int kMilliseconds = 200;
  while (!keep_waiting || keep_waiting()) {
    if (has_input(file, kMilliseconds)) return {};
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

// Takes in what can be read, and does nothing where a signal or another reader came first.
void LineReader::fill() {
  const ssize_t count = read(file_, buffer_.get(), kBufferBytes);
  if (count < 0 && (errno == EINTR || errno == EAGAIN)) return;
  if (count < 0) failed_ = io_error(fmt::format("cannot read {}: {}", name_, std::strerror(errno)));
  begin_ = 0;
  end_ = static_cast<size_t>(std::max<ssize_t>(count, 0));
  ended_ = count == 0;
}

// Moves what was read of the next line behind part_. True: a line, the end or an error is there.
bool LineReader::gather() {
  if (whole_ || !failed_.ok()) return true;
  const char* const from = buffer_.get() + begin_;
  const auto* const at = static_cast<const char*>(std::memchr(from, '\n', end_ - begin_));
  const size_t count = at != nullptr ? static_cast<size_t>(at - from) : end_ - begin_;
  if (part_.size() + count > kLineLimitBytes) {
    failed_ = error(
        line_ + 1, fmt::format("expected at most {} bytes in a line, found more", kLineLimitBytes));
    return true;
  }
  part_.append(from, count);
  begin_ += count + (at != nullptr ? 1 : 0);
  whole_ = at != nullptr;
  return whole_ || ended_;
}

Result<bool> LineReader::next(std::string* line) {
  return guarded(name_, [&]() -> Result<bool> {
    while (!gather()) {
      TESSERA_RETURN_IF_ERROR(wait_for_input(file_, keep_waiting_));
      fill();
    }
    TESSERA_RETURN_IF_ERROR(failed_);
    line->clear();
    if (!whole_ && part_.empty()) return false;
    line->swap(part_);
    whole_ = false;
    if (++line_ > 1) return true;
    if (line->starts_with(kByteOrderMark)) line->erase(0, kByteOrderMark.size());
    for (const char* mark : {"\xFF\xFE", "\xFE\xFF"}) {
      if (!line->starts_with(mark)) continue;
      failed_ = invalid_input(
          fmt::format("{}: expected UTF-8, found UTF-16; save the file as UTF-8", name_));
      return failed_;
    }
    return true;
  });
}

bool LineReader::ready() {
  const Result<bool> found = guarded(name_, [&]() -> Result<bool> {
    while (!gather()) {
      if (!has_input(file_, 0)) return false;
      fill();
    }
    return true;
  });
  if (!found.ok()) failed_ = found.status();
  return !found.ok() || *found;
}

Status LineReader::error(int64_t line, const std::string& message) const {
  return invalid_input(fmt::format("{}, line {}: {}", name_, line, message));
}

}  // namespace tessera
