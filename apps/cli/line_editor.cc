#include "cli/line_editor.h"

#include <poll.h>
#include <unistd.h>

#include <cstdio>
#include <utility>

#include "cli/terminal.h"
#include "tessera/records.h"

namespace tessera::cli {
namespace {

class PlainLines : public LineEditor {
 public:
  explicit PlainLines(std::unique_ptr<LineReader> lines) : lines_(std::move(lines)) {}

 protected:
  Result<Outcome> read_line(const char* prompt, std::string* line) override {
    say(prompt);
    const Result<bool> more = lines_->next(line);
    if (more.ok() && *more) return Outcome::kMessage;
    if (Interrupt::requested()) return Outcome::kInterrupted;
    if (!more.ok()) return more.status();
    return Outcome::kEnd;
  }
  bool goes_on() override {
    return lines_->ready() || (has_input_within(kAtOnceMilliseconds) && lines_->ready());
  }

 private:
  std::unique_ptr<LineReader> lines_;
};

}  // namespace

bool has_input_within(int milliseconds) {
  pollfd wait{STDIN_FILENO, POLLIN, 0};
  return poll(&wait, 1, milliseconds) > 0;
}

#ifndef TESSERA_LIBEDIT
std::unique_ptr<LineEditor> open_libedit() { return nullptr; }
#endif

std::unique_ptr<LineEditor> LineEditor::open() {
  if (std::unique_ptr<LineEditor> editor = open_libedit()) return editor;
  Result<std::unique_ptr<LineReader>> lines =
      LineReader::open("-", [] { return !Interrupt::requested(); });
  return std::make_unique<PlainLines>(std::move(lines).value());
}

Result<LineEditor::Outcome> LineEditor::read(std::string* message) {
  const Interrupt interrupt;
  Result<Outcome> outcome = read_line("> ", message);
  while (outcome.ok() && *outcome == Outcome::kMessage && goes_on()) {
    std::string line;
    const Result<Outcome> next = read_line("... ", &line);
    if (next.ok() && *next == Outcome::kEnd) break;
    outcome = next;
    *message += "\n" + line;
  }
  const bool is_message = outcome.ok() && *outcome == Outcome::kMessage;
  if (is_message && !message->empty()) remember(*message);
  if (!is_message) say("\n");
  return outcome;
}

}  // namespace tessera::cli
