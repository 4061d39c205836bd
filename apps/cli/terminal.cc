#include "cli/terminal.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>

namespace tessera::cli {
namespace {

volatile std::sig_atomic_t interrupts = 0;
Verbosity chosen_verbosity = Verbosity::kNormal;

std::string& speaker_name() {
  static std::string name = "tessera";
  return name;
}

void note_interrupt(int) {
  interrupts = interrupts + 1;
  if (interrupts > 1) _exit(130);
}

Status cannot_write(const std::string& what) {
  return io_error(fmt::format("cannot write {}: {}", what, std::strerror(errno)));
}

std::string scaled(double value, const char* const (&units)[5]) {
  int unit = 0;
  while (value >= 999.5 && unit < 4) {
    value /= 1000;
    ++unit;
  }
  if (unit == 0) return fmt::format("{:.0f}{}", value, units[unit]);
  return fmt::format("{:.{}f}{}", value, value < 9.995 ? 2 : value < 99.95 ? 1 : 0, units[unit]);
}

}  // namespace

bool is_terminal(std::FILE* file) { return isatty(fileno(file)) == 1; }

std::optional<int> terminal_width(std::FILE* file) {
  const char* const wanted = std::getenv("COLUMNS");
  const std::string_view text = wanted == nullptr ? "" : wanted;
  int columns = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), columns);
  if (error == std::errc() && end == text.data() + text.size() && columns > 0) return columns;
  struct winsize size {};
  if (ioctl(fileno(file), TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return std::nullopt;
  return size.ws_col;
}

void set_verbosity(Verbosity verbosity) { chosen_verbosity = verbosity; }
Verbosity verbosity() { return chosen_verbosity; }

void set_speaker(const std::string& verb) { speaker_name() = "tessera " + verb; }
const std::string& speaker() { return speaker_name(); }

void complain(std::string_view message) { fmt::print(stderr, "{}: {}\n", speaker(), message); }
void warn(std::string_view message) {
  if (verbosity() != Verbosity::kQuiet) complain(message);
}
void note(std::string_view message) {
  if (verbosity() != Verbosity::kQuiet) fmt::print(stderr, "[{}]\n", message);
}

std::string counted(int64_t count, std::string_view units) {
  if (count == 1) units.remove_suffix(1);
  return fmt::format("{} {}", count, units);
}

Output::~Output() {
  if (file_ != nullptr && file_ != stdout) std::fclose(file_);
}

Status Output::open(const std::string& path) {
  path_ = path;
  file_ = std::fopen(path.c_str(), "wb");
  return file_ != nullptr ? Status() : failure();
}

Status Output::write(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), file_) != text.size()) return failure();
  return {};
}

Status Output::flush() { return std::fflush(file_) == 0 ? Status() : failure(); }

Status Output::close() {
  std::FILE* const file = file_;
  file_ = nullptr;
  return std::fclose(file) == 0 ? Status() : failure();
}

Status Output::failure() const { return cannot_write(path_.empty() ? "standard output" : path_); }

Status check_writable(const std::string& path) {
  struct stat found {};
  const bool exists = stat(path.c_str(), &found) == 0;
  const std::string folder = path.substr(0, path.rfind('/') + 1) + ".";
  if (exists && S_ISDIR(found.st_mode)) {
    errno = EISDIR;
  } else if (access((exists ? path : folder).c_str(), W_OK) == 0) {
    return {};
  }
  return cannot_write(path);
}

Interrupt::Interrupt() {
  interrupts = 0;
  std::signal(SIGINT, note_interrupt);
}

Interrupt::~Interrupt() {
  std::signal(SIGINT, SIG_DFL);
  interrupts = 0;
}

bool Interrupt::requested() { return interrupts > 0; }

Progress::Progress(std::string label, int64_t total)
    : label_(std::move(label)),
      total_(total),
      shown_(is_terminal(stderr) && verbosity() != Verbosity::kQuiet) {
  if (shown_) draw(0, {});
}

Progress::~Progress() {
  if (shown_) fmt::print(stderr, "\r\033[K");
}

void Progress::update(int64_t done, std::string_view note) {
  if (!shown_) return;
  // Redrawing more often than the eye sees costs time on slow terminals.
  constexpr std::chrono::milliseconds kInterval(50);
  if ((total_ <= 0 || done < total_) && std::chrono::steady_clock::now() - last_draw_ < kInterval)
    return;
  draw(done, note);
}

void Progress::draw(int64_t done, std::string_view note) {
  last_draw_ = std::chrono::steady_clock::now();
  constexpr int kBar = 24;
  const int width = terminal_width(stderr).value_or(kUsualWidth);
  std::string line = label_;
  if (total_ > 0) {
    const int filled = static_cast<int>(done * kBar / total_);
    const bool fits = static_cast<int>(label_.size() + note.size()) + kBar + 25 < width;
    if (fits) line += fmt::format(" [{:#<{}}{:.<{}}]", "", filled, "", kBar - filled);
    line += fmt::format(" {}/{}", done, total_);
  }
  line += note;
  // A line that wraps would not be erased by the next one.
  if (static_cast<int>(line.size()) >= width) line.resize(static_cast<size_t>(width - 1));
  fmt::print(stderr, "\r\033[K{}", line);
  std::fflush(stderr);
}

bool Steps::operator()(const std::string& what, int64_t done, int64_t total) {
  if (what != what_ || total != total_) clear();
  if (!line_) line_.emplace(what, total);
  what_ = what;
  total_ = total;
  line_->update(done);
  return !Interrupt::requested();
}

// Not getrusage's maximum, which a process inherits from the one that started it.
int64_t peak_memory_bytes() {
  constexpr std::string_view kKey = "VmHWM:";
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(kKey)) return std::strtoll(&line[kKey.size()], nullptr, 10) * 1024;  // KiB
  }
  return 0;
}

std::string human_bytes(int64_t bytes) {
  return scaled(static_cast<double>(bytes), {" bytes", " KB", " MB", " GB", " TB"});
}

std::string human_count(int64_t count) {
  return scaled(static_cast<double>(count), {"", " K", " M", " B", " T"});
}

}  // namespace tessera::cli
