#include <fmt/format.h>

#include <algorithm>
#include <deque>

#include "cli/line_editor.h"
#include "cli/run.h"

namespace tessera::cli {
namespace {

enum class Command { kHelp, kReset, kQuit };

struct CommandName {
  const char* name;
  Command command;
  const char* help;  // none: another name of the one before
};
constexpr CommandName kCommands[] = {
    {"/help", Command::kHelp, "Lists these commands."},
    {"/reset", Command::kReset, "Forgets what was said and starts afresh."},
    {"/new", Command::kReset, nullptr},
    {"/quit", Command::kQuit, "Leaves, as Ctrl-D does."},
    {"/exit", Command::kQuit, nullptr}};

// "/word", whether there is such a command or not; a path or a sentence is none.
bool looks_like_command(const std::string& message) {
  return message.size() > 1 && message[0] == '/' &&
         std::all_of(message.begin() + 1, message.end(),
                     [](unsigned char c) { return c >= 'a' && c <= 'z'; });
}

// A text or a conversation that grows in turns: a message from the terminal, then what the model
// says. The oldest of it is forgotten when the context is full.
class Turns {
 public:
  Turns(std::shared_ptr<Model> model, const GenerateOptions& options, const Request& request)
      : model_(std::move(model)),
        options_(options),
        prompter_(model_, options),
        request_(request) {}

  Status run() {
    say(fmt::format("{} /help lists the commands, Ctrl-C stops the text, Ctrl-D leaves.\n",
                    options_.chat ? "Say something." : "Type a beginning; an empty line goes on."));
    const std::unique_ptr<LineEditor> editor = LineEditor::open();
    using Outcome = LineEditor::Outcome;
    std::string message;
    for (Outcome last = Outcome::kMessage;;) {
      const Result<Outcome> outcome = editor->read(&message);
      if (!outcome.ok()) return outcome.status();
      if (*outcome == Outcome::kEnd) return {};
      if (*outcome == Outcome::kInterrupted) {
        if (last == *outcome) return {StatusCode::kCancelled, ""};
        say("Ctrl-C once more leaves.\n");
      } else if (looks_like_command(message)) {
        if (obey(message) == Command::kQuit) return {};
      } else if (Status status = take(message); !status.ok()) {
        return status;
      }
      last = *outcome;
    }
  }

 private:
  static const CommandName* find(const std::string& message) {
    const auto* const found = std::find_if(std::begin(kCommands), std::end(kCommands),
                                           [&](const auto& each) { return message == each.name; });
    return found == std::end(kCommands) ? nullptr : found;
  }

  Command obey(const std::string& message) {
    const CommandName* const found = find(message);
    if (found == nullptr) {
      say(fmt::format("There is no command {}; /help lists them.\n", message));
      return Command::kHelp;
    }
    if (found->command == Command::kReset) turns_.clear();
    if (found->command == Command::kHelp) help();
    return found->command;
  }

  void help() const {
    for (const CommandName& each : kCommands) {
      if (each.help != nullptr) say(fmt::format("  {:<8}{}\n", each.name, each.help));
    }
    say("Lines that are pasted together are one message. Ctrl-C stops the text and, pressed "
        "twice here, leaves.\n");
  }

  // A message that cannot be answered is no reason to leave; a terminal that is gone is.
  Status take(const std::string& message) {
    // An empty one: the model goes on behind its own words.
    const bool is_new = !message.empty();
    if (!is_new && (turns_.empty() || options_.chat)) return {};
    if (is_new) {
      turns_.push_back({"user", options_.chat || turns_.empty() ? message : "\n" + message});
    }
    const Status status = turn();
    if (status.ok() || status.code() == StatusCode::kIo) return status;
    finish(status);
    if (is_new) turns_.pop_back();
    return {};
  }

  Status turn() {
    Result<std::vector<int32_t>> ids = fitting_ids();
    if (!ids.ok()) return ids.status();
    Result<Request> request = prompter_.request(request_, std::move(ids).value());
    if (!request.ok()) return request.status();
    Job job{std::move(request).value()};
    ++request_.sampling.seed;  // the same line again draws anew
    Stream stream(model_->info());
    if (Status status = generate_shown(model_, &stream, job); !status.ok()) return status;
    print_summary(job);
    const Generation& generation = job.generations[0];
    if (options_.chat) {
      turns_.push_back({"assistant", generation.text});
    } else if (generation.finished == FinishReason::kEndToken) {
      turns_.clear();
    } else {
      turns_.back().content += generation.text;
    }
    return {};
  }

  // Of the turns from that one on.
  Result<std::vector<int32_t>> ids(size_t first) {
    const auto begin = turns_.begin() + static_cast<ptrdiff_t>(first);
    if (options_.chat) return prompter_.messages(std::vector<ChatMessage>(begin, turns_.end()));
    std::string text;
    for (auto turn = begin; turn != turns_.end(); ++turn) text += turn->content;
    return prompter_.text(text);
  }

  // As many of the last turns as leave room for an answer; the others are forgotten.
  Result<std::vector<int32_t>> fitting_ids() {
    const int64_t context = model_->info().max_positions;
    const int64_t wanted =
        options_.max_tokens.value_or(std::min<int64_t>(kDefaultMaxTokens, context / 2));
    const int64_t room = std::max<int64_t>(context - wanted + 1, 1);
    const size_t step = options_.chat ? 2 : 1;  // a conversation begins with its user
    for (size_t first = 0;; first += step) {
      Result<std::vector<int32_t>> found = ids(first);
      if (!found.ok()) return found;
      const auto size = static_cast<int64_t>(found->size());
      const bool is_last = first + step >= turns_.size();
      if (size > room && !is_last) continue;
      if (size > room && options_.chat) {
        return invalid_input(fmt::format(
            "expected a message of at most {} tokens beside an answer of {}, found {}: the context "
            "has {}",
            room, wanted, size, context));
      }
      if (size > room) shorten(&*found, room);
      if (size > room || first > 0) tell_full(context);
      turns_.erase(turns_.begin(), turns_.begin() + static_cast<ptrdiff_t>(first));
      return found;
    }
  }

  // Leaves out the beginning, but for the token that begins every text of the model.
  void shorten(std::vector<int32_t>* ids, int64_t most) {
    const Result<std::vector<int32_t>> nothing = prompter_.text("");
    const bool has_begin = nothing.ok() && !nothing->empty() && nothing->front() == ids->front();
    const auto begin = ids->begin() + (has_begin && most > 1 ? 1 : 0);
    ids->erase(begin, begin + (static_cast<int64_t>(ids->size()) - most));
  }

  void tell_full(int64_t context) const {
    warn(fmt::format("the context of {} tokens is full: the {} left out", context,
                     options_.chat ? "oldest messages are" : "beginning of the text is"));
  }

  std::shared_ptr<Model> model_;
  const GenerateOptions& options_;
  Prompter prompter_;
  Request request_;
  std::deque<ChatMessage> turns_;  // without --chat only their contents count
};

}  // namespace

Status run_turns(const std::shared_ptr<Model>& model, const GenerateOptions& options,
                 const Request& request) {
  return Turns(model, options, request).run();
}

}  // namespace tessera::cli
