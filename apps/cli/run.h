#pragma once

#include <chrono>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cli/options.h"
#include "cli/records.h"
#include "cli/terminal.h"
#include "tessera/chat.h"
#include "tessera/engine.h"
#include "tessera/tokenizer.h"

// The parts of the verb run.
namespace tessera::cli {

struct GenerateOptions {
  ModelOptions model;
  RecordOptions batch;  // its file is --batch
  std::optional<std::string> prompt, file, system;
  std::vector<std::vector<int32_t>> ids;
  std::vector<std::string> stop;
  std::optional<int64_t> max_tokens, top_k, seed, beams, sequences;
  std::optional<double> temperature, top_p, min_p, repetition_penalty;
  bool chat = false;
  bool greedy = false;
  bool ignore_end = false;
  bool echo = false;
  bool logprobs = false;
  bool json = false;
};

inline constexpr int64_t kDefaultMaxTokens = 200;

// Declares all but those of the model.
void declare(Parser& parser, GenerateOptions* options);
// The text after MODEL is the prompt.
void take_text(const std::vector<std::string>& rest, GenerateOptions* options);
// What options alone tell to be wrong; to be called by the parser.
void check(GenerateOptions* options);
// What the user says, else what the model's generation_config.json recommends, else our own: a
// request but for its prompt and lengths.
Result<Request> request_of(const GenerateOptions& options, const ModelInfo& info);
// What is wrong with a value of that file that is to be used.
Status check_recommended(const GenerationDefaults& model, std::string_view key);

// Text and conversations to ids, as the options ask for.
class Prompter {
 public:
  // The chat template is read only where the options or a message ask for it.
  Prompter(std::shared_ptr<Model> model, const GenerateOptions& options);

  // With --chat the text is what the user says.
  Result<std::vector<int32_t>> text(const std::string& text);
  // --system stands before messages that have no system message of their own.
  Result<std::vector<int32_t>> messages(std::span<const ChatMessage> messages);
  Result<std::vector<int32_t>> record(const Record& record);
  // The request with a prompt and the lengths that follow.
  Result<Request> request(Request made, std::vector<int32_t> prompt_ids) const;

 private:
  Status open_chat();

  std::shared_ptr<Model> model_;
  const GenerateOptions& options_;
  std::optional<ChatFormat> chat_;
  std::vector<int32_t> turn_ends_;
};

// A request and what has come of it.
struct Job {
  using Clock = std::chrono::steady_clock;

  Request request;
  std::vector<Generation> generations = {};  // one a sequence
  size_t finished = 0;
  Clock::time_point start = {};
  double prompt_seconds = 0;  // until the prompt had run
  double total_seconds = 0;

  void begin();
  // A step is done, with so many tokens of the prompt still to run.
  void stepped(int64_t prompt_tokens_left);
  void take(const Event& event);
  // What is not finished is cancelled.
  void give_up();
  bool is_cancelled() const;
  bool is_finished() const { return finished == generations.size(); }
  size_t tokens() const;
  // Without the first tokens, which the prompt's time holds.
  double tokens_per_second() const;
};

void print_summary(const Job& job);
// A line. One sequence stands in the object itself, several in a list.
std::string to_json(const Job& job, const ModelInfo& info);
// The text of a continuation, or its ids where there is no tokenizer.
std::string shown_text(const Generation& generation, const ModelInfo& info);

// Writes a request's tokens as they come: text, or ids between commas where there is no tokenizer.
class Stream {
 public:
  explicit Stream(const ModelInfo& info) : has_text_(info.has_tokenizer) {}

  // False: stop.
  bool take(const Event& event);
  bool put(const std::string& text);
  Status finish();

 private:
  Output out_;
  Status status_;
  bool has_text_;
  bool first_ = true;
  bool ends_line_ = false;
};

// Generates until the end or an interrupt; a sequence's reason is kCancelled then. One sequence is
// streamed.
Status generate_shown(const std::shared_ptr<Model>& model, Stream* stream, Job& job);

// In turns with a person at a terminal.
Status run_turns(const std::shared_ptr<Model>& model, const GenerateOptions& options,
                 const Request& request);
// Many prompts from a file, answered in their order.
Status run_batch(const std::shared_ptr<Model>& model, const GenerateOptions& options,
                 const Request& request);

}  // namespace tessera::cli
