#include <fmt/format.h>

#include <deque>
#include <iostream>

#include "cli/run.h"

namespace tessera::cli {
namespace {

// A text or a conversation that grows in turns: a line from the terminal, then what the model
// says. The oldest turns are forgotten when the context is full.
class Turns {
 public:
  Turns(std::shared_ptr<Model> model, const GenerateOptions& options, const Request& request)
      : model_(std::move(model)),
        options_(options),
        prompter_(model_, options),
        request_(request) {}

  Status run() {
    fmt::print(stderr, "{}, /new starts afresh, Ctrl-C stops the text, Ctrl-D ends.\n",
               options_.chat ? "Say something" : "Type a beginning; an empty line goes on");
    for (std::string line; ask(&line);) {
      if (line == "/new") {
        turns_.clear();
        continue;
      }
      if (line.empty() && (turns_.empty() || options_.chat)) continue;
      if (Status status = turn(line); !status.ok()) {
        // A line that cannot be continued is no reason to leave; a terminal that is gone is.
        if (status.code() == StatusCode::kIo) return status;
        finish(status);
        turns_.clear();
      }
    }
    return {};
  }

 private:
  static bool ask(std::string* line) {
    fmt::print(stderr, "> ");
    if (std::getline(std::cin, *line)) return true;
    fmt::print(stderr, "\n");
    return false;
  }

  Status turn(const std::string& line) {
    // An empty line: the model goes on behind its own words.
    if (!line.empty()) {
      turns_.push_back({"user", options_.chat || turns_.empty() ? line : "\n" + line});
    }
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

  Result<std::vector<int32_t>> ids() {
    if (options_.chat) {
      return prompter_.messages(std::vector<ChatMessage>(turns_.begin(), turns_.end()));
    }
    std::string text;
    for (const ChatMessage& turn : turns_) text += turn.content;
    return prompter_.text(text);
  }

  // As many of the last turns as leave room for an answer.
  Result<std::vector<int32_t>> fitting_ids() {
    const int64_t wanted = options_.max_tokens.value_or(
        std::min<int64_t>(kDefaultMaxTokens, model_->info().max_positions / 2));
    for (;;) {
      Result<std::vector<int32_t>> found = ids();
      if (!found.ok()) return found;
      const int64_t needed = static_cast<int64_t>(found->size()) + wanted - 1;
      if (needed <= model_->info().max_positions || turns_.size() == 1) return found;
      turns_.pop_front();
      // A conversation begins with its user.
      if (options_.chat) turns_.pop_front();
    }
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
