#include <fmt/format.h>
#include <histedit.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <clocale>
#include <cstdlib>
#include <cstring>
#include <cwchar>
#include <filesystem>
#include <string_view>
#include <system_error>

#include "cli/line_editor.h"
#include "cli/terminal.h"

namespace tessera::cli {
namespace {

constexpr int kHistorySize = 1000;

// Where the history is kept between runs; empty where there is no place for it.
std::string history_path() {
  const auto variable = [](const char* name) {
    const char* const value = std::getenv(name);
    return std::filesystem::path(value == nullptr ? "" : value);
  };
  std::filesystem::path state = variable("XDG_STATE_HOME");
  if (!state.is_absolute()) {
    const std::filesystem::path home = variable("HOME");
    if (!home.is_absolute()) return "";
    state = home / ".local" / "state";
  }
  std::error_code ignored;
  std::filesystem::create_directories(state / "tessera", ignored);
  return (state / "tessera" / "history").string();
}

class EditedLines : public LineEditor {
 public:
  EditedLines(EditLine* editor, History* past) : editor_(editor), history_(past) {
    el_set(editor_, EL_CLIENTDATA, this);
    el_set(editor_, EL_PROMPT, &EditedLines::prompt);
    el_set(editor_, EL_GETCFN, &EditedLines::get_character);
    el_set(editor_, EL_EDITOR, "emacs");
    el_set(editor_, EL_BIND, "^R", "em-inc-search-prev", nullptr);
    if (history_ != nullptr) {
      HistEvent event;
      history(history_, &event, H_SETSIZE, kHistorySize);
      history(history_, &event, H_SETUNIQUE, 1);
      if (!path_.empty()) history(history_, &event, H_LOAD, path_.c_str());
      el_set(editor_, EL_HIST, history, history_);
    }
    el_source(editor_, nullptr);  // what the user's ~/.editrc says
  }
  ~EditedLines() override {
    el_end(editor_);
    if (history_ != nullptr) history_end(history_);
  }

 protected:
  Result<Outcome> read_line(const char* prompt, std::string* line) override {
    prompt_ = prompt;
    goes_on_ = false;
    // Keys that follow the prompt at once are ours already, not the terminal's.
    el_set(editor_, EL_PREP_TERM, 1);
    int count = 0;
    const char* const text = el_gets(editor_, &count);
    if (text == nullptr && Interrupt::requested()) return Outcome::kInterrupted;
    if (text == nullptr && !failed_.ok()) return failed_;
    if (text == nullptr) return Outcome::kEnd;
    line->assign(text, static_cast<size_t>(count));
    if (line->ends_with('\n')) line->pop_back();
    return Outcome::kMessage;
  }
  bool goes_on() override { return goes_on_; }
  void remember(const std::string& message) override {
    if (history_ == nullptr) return;
    HistEvent event;
    history(history_, &event, H_ENTER, message.c_str());
    if (!path_.empty()) history(history_, &event, H_SAVE, path_.c_str());
  }

 private:
  static EditedLines& of(EditLine* editor) {
    void* self = nullptr;
    el_get(editor, EL_CLIENTDATA, &self);
    return *static_cast<EditedLines*>(self);
  }
  static char* prompt(EditLine* editor) { return of(editor).prompt_.data(); }
  // As EL_GETCFN wants it: 1 and a character, or -1.
  static int get_character(EditLine* editor, wchar_t* character) {
    return of(editor).get(character) ? 1 : -1;
  }

  bool get(wchar_t* character) {
    for (;;) {
      if (begin_ == end_ && !fill()) return false;
      const size_t length = std::mbrtowc(character, &bytes_[begin_], end_ - begin_, &half_);
      if (length == static_cast<size_t>(-2)) {  // the rest of it has not come yet
        begin_ = end_;
        continue;
      }
      if (length == static_cast<size_t>(-1)) {  // not UTF-8
        half_ = {};
        ++begin_;
        continue;
      }
      begin_ += length == 0 ? 1 : length;
      // Asked while the terminal still gives every key as it comes.
      if (*character == L'\n' || *character == L'\r') {
        goes_on_ = begin_ < end_ || has_input_within(kAtOnceMilliseconds);
      }
      return true;
    }
  }

  bool fill() {
    for (;;) {
      if (Interrupt::requested()) return false;
      if (!has_input_within(kLookMilliseconds)) {
        follow_window();
        continue;
      }
      const ssize_t count = ::read(STDIN_FILENO, bytes_.data(), bytes_.size());
      if (count < 0 && (errno == EINTR || errno == EAGAIN)) continue;
      if (count < 0)
        failed_ = io_error(fmt::format("cannot read standard input: {}", std::strerror(errno)));
      begin_ = 0;
      end_ = static_cast<size_t>(count > 0 ? count : 0);
      return count > 0;
    }
  }

  void follow_window() {
    winsize now{};
    if (ioctl(STDIN_FILENO, TIOCGWINSZ, &now) != 0) return;
    const bool changed = now.ws_col != columns_ && columns_ != 0;
    columns_ = now.ws_col;
    if (changed) el_resize(editor_);
  }

  EditLine* editor_;
  History* history_;
  std::string path_ = history_path();
  std::string prompt_;
  bool goes_on_ = false;
  Status failed_;
  unsigned short columns_ = 0;
  std::array<char, 4096> bytes_;  // that came and were not given
  size_t begin_ = 0, end_ = 0;
  std::mbstate_t half_ = {};  // of a character
};

}  // namespace

std::unique_ptr<LineEditor> open_libedit() {
  const char* const terminal = std::getenv("TERM");
  const std::string_view kind = terminal == nullptr ? "" : terminal;
  if (kind.empty() || kind == "dumb" || !is_terminal(stdin) || !is_terminal(stderr)) return nullptr;
  // Text is UTF-8 whatever the locale says.
  std::setlocale(LC_CTYPE, "");
  if (MB_CUR_MAX == 1) std::setlocale(LC_CTYPE, "C.UTF-8");
  EditLine* const editor = el_init("tessera", stdin, stderr, stderr);
  if (editor == nullptr) return nullptr;
  return std::make_unique<EditedLines>(editor, history_init());
}

}  // namespace tessera::cli
