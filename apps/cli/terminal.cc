#include "cli/terminal.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
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
volatile std::sig_atomic_t last_signal = SIGINT;
Verbosity chosen_verbosity = Verbosity::kNormal;

std::string& speaker_name() {
  static std::string name = "tessera";
  return name;
}

void note_interrupt(int signal) {
  interrupts = interrupts + 1;
  last_signal = signal;
  if (interrupts > 1) _exit(128 + signal);
}

// How wide the window behind standard error is now: COLUMNS does not follow it.
size_t columns_of_window() {
  winsize size{};
  const bool known = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  return known ? size.ws_col : size_t{kUsualWidth};
}

// The first so many characters (code points).
std::string_view first_characters(std::string_view text, size_t most) {
  for (size_t i = 0; i < text.size(); ++i) {
    const bool begins = (static_cast<unsigned char>(text[i]) & 0xC0) != 0x80;
    if (begins && most-- == 0) return text.substr(0, i);
  }
  return text;
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

// fmt::print would throw where nobody reads any more.
void say(std::string_view text) { (void)std::fwrite(text.data(), 1, text.size(), stderr); }

void complain(std::string_view message) { say(fmt::format("{}: {}\n", speaker(), message)); }
void warn(std::string_view message) {
  if (verbosity() != Verbosity::kQuiet) complain(message);
}
void note(std::string_view message) {
  if (verbosity() != Verbosity::kQuiet) say(fmt::format("[{}]\n", message));
}

std::string counted(int64_t count, std::string_view units) {
  return counted(count, units.substr(0, units.size() - 1), units);
}

std::string counted(int64_t count, std::string_view one, std::string_view several) {
  return fmt::format("{} {}", count, count == 1 ? one : several);
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
  for (const int signal : {SIGINT, SIGTERM}) std::signal(signal, note_interrupt);
}

Interrupt::~Interrupt() {
  for (const int signal : {SIGINT, SIGTERM}) std::signal(signal, SIG_DFL);
  interrupts = 0;
}

bool Interrupt::requested() { return interrupts > 0; }
int Interrupt::exit_code() { return 128 + last_signal; }

Progress::Progress(std::string label, int64_t total)
    : label_(std::move(label)),
      total_(total),
      has_terminal_(is_terminal(stderr) && verbosity() != Verbosity::kQuiet) {
  if (has_terminal_) draw(0, {});
}

Progress::~Progress() { hide(); }

void Progress::hide() {
  if (shown_) say("\r\033[K");
  shown_ = false;
  std::fflush(stderr);
}

void Progress::update(int64_t done, std::string_view note) {
  if (!has_terminal_) return;
  // Redrawing more often than the eye sees costs time on slow terminals.
  constexpr std::chrono::milliseconds kInterval(50);
  if ((total_ <= 0 || done < total_) && std::chrono::steady_clock::now() - last_draw_ < kInterval)
    return;
  draw(done, note);
}

void Progress::draw(int64_t done, std::string_view note) {
  last_draw_ = std::chrono::steady_clock::now();
  shown_ = true;
  std::string line = label_;
  // The last column stays free: a terminal may wrap behind it.
  const size_t columns = columns_of_window() - 1;
  if (total_ > 0) {
    const std::string numbers = fmt::format(" {}/{}", done, total_);
    constexpr size_t kLeast = 6, kMost = 24, kFrame = 3;
    const size_t taken = label_.size() + numbers.size() + note.size() + kFrame;
    const size_t width = columns > taken ? std::min(columns - taken, kMost) : 0;
    if (width >= kLeast) {
      const size_t filled = static_cast<size_t>(done) * width / static_cast<size_t>(total_);
      line += fmt::format(" [{:#<{}}{:.<{}}]", "", filled, "", width - filled);
    }
    line += numbers;
  }
  line += note;
  say(fmt::format("\r\033[K{}", first_characters(line, columns)));
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
