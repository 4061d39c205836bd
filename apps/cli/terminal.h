#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>

#include "tessera/status.h"

namespace tessera::cli {

bool is_terminal(std::FILE* file);

// How many columns a line to `file` may take: COLUMNS where it is set to a number, else the
// terminal's; none where there is no terminal.
std::optional<int> terminal_width(std::FILE* file);
inline constexpr int kUsualWidth = 80;  // of prose that goes to no terminal

// How much is said on standard error beside errors: with kQuiet nothing, with kVerbose also what is
// being done and why. Set once, when the command line has been read.
enum class Verbosity { kQuiet, kNormal, kVerbose };
void set_verbosity(Verbosity verbosity);
Verbosity verbosity();

// The text as it is on standard error. That nobody reads it any more is no failure of what follows.
void say(std::string_view text);

// Messages begin with "tessera", and with "tessera VERB" once the verb is known.
void set_speaker(const std::string& verb);
const std::string& speaker();
// "tessera VERB: message" on standard error: an error, which is always said.
void complain(std::string_view message);
// The same for what a user should know though nothing failed: nothing with --quiet.
void warn(std::string_view message);
// "[message]" on standard error: a summary of what was done; nothing with --quiet.
void note(std::string_view message);

// "2 tokens", but "1 token": units end with s.
std::string counted(int64_t count, std::string_view units);
// "2 matrices", but "1 matrix": for units that do not.
std::string counted(int64_t count, std::string_view one, std::string_view several);

// A stream that tells when something could not be written. Not copyable; `file` is not owned unless
// opened here.
class Output {
 public:
  Output() = default;  // standard output
  ~Output();
  Output(const Output&) = delete;
  Output& operator=(const Output&) = delete;

  Status open(const std::string& path);  // truncates; kIo when it cannot be opened
  Status write(std::string_view text);
  Status flush();
  Status close();  // the last chance to hear of an error

 private:
  Status failure() const;

  std::FILE* file_ = stdout;
  std::string path_;
};

// Whether Output could be opened there, as far as can be told without touching anything: for what
// is written after hours of work.
Status check_writable(const std::string& path);

// While it lives, the first SIGINT or SIGTERM is only noted and a second one ends the process at
// once. One at a time.
class Interrupt {
 public:
  Interrupt();
  ~Interrupt();
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

  static bool requested();  // of the one that lives
  // 128 and the signal that was noted last: 130, or 143 after SIGTERM.
  static int exit_code();
};

// A line on standard error that is redrawn in place, cut to what the terminal is wide at that
// moment: only on a terminal, and gone when destroyed.
class Progress {
 public:
  // total 0: no bar, only the label.
  Progress(std::string label, int64_t total);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void update(int64_t done, std::string_view note = {});
  // Makes room for other lines, until the next update.
  void hide();

 private:
  void draw(int64_t done, std::string_view note);

  std::string label_;
  int64_t total_;
  bool has_terminal_;
  bool shown_ = false;
  std::chrono::steady_clock::time_point last_draw_;
};

// A line of progress for whatever is being done, new where that changes; what the library's
// on_progress takes.
class Steps {
 public:
  // False: the user wants to stop.
  bool operator()(const std::string& what, int64_t done, int64_t total);
  void clear() { line_.reset(); }

 private:
  std::string what_;
  int64_t total_ = 0;
  std::optional<Progress> line_;
};

// The largest resident set of this process so far.
int64_t peak_memory_bytes();

// "1.3 GB", "512 KB": powers of 1000.
std::string human_bytes(int64_t bytes);
// "22.7 M", "1.10 B".
std::string human_count(int64_t count);

}  // namespace tessera::cli
