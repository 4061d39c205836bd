#pragma once

#include <memory>
#include <string>

#include "tessera/status.h"

namespace tessera::cli {

// Messages that a person types at a terminal. Lines that come at once, as pasted ones do, are one
// message.
class LineEditor {
 public:
  enum class Outcome { kMessage, kInterrupted, kEnd };

  // With editing and a history where the program was built with libedit and the terminal can move
  // its cursor; else the terminal's own lines.
  static std::unique_ptr<LineEditor> open();
  virtual ~LineEditor() = default;

  // kInterrupted: Ctrl-C. kEnd: Ctrl-D, or the terminal is gone. kIo when it cannot be read.
  Result<Outcome> read(std::string* message);

 protected:
  // Notes interrupts meanwhile (see Interrupt).
  virtual Result<Outcome> read_line(const char* prompt, std::string* line) = 0;
  // Whether the next line began to come together with the one before.
  virtual bool goes_on() = 0;
  virtual void remember(const std::string&) {}
};

// How long input may take to come and still count as coming at once: longer than the pieces of a
// paste lie apart, shorter than fingers.
inline constexpr int kAtOnceMilliseconds = 30;
// How often whoever waits for a key looks for interrupts.
inline constexpr int kLookMilliseconds = 200;

bool has_input_within(int milliseconds);  // standard input

// Null where the terminal cannot do it, or the program was built without libedit.
std::unique_ptr<LineEditor> open_libedit();

}  // namespace tessera::cli
