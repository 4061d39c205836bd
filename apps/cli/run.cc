#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <deque>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <random>

#include "cli/inputs.h"
#include "cli/terminal.h"
#include "cli/verbs.h"
#include "tessera/engine.h"

namespace tessera::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr Synopsis kSynopsis = {
    "run", "MODEL",
    "Continues a text, from --prompt, --file, --ids or standard input; at a terminal without any "
    "of\n"
    "them it reads a line, continues it, and goes on in turns.",
    "  tessera run models/tales --prompt \"Once upon a time\" --seed 7\n"
    "  tessera run models/tales --greedy --max-tokens 50 < beginning.txt\n"
    "  tessera run models/tales                      # in turns, Ctrl-D ends\n"
    "  tessera run models/nano-gpt-sort --greedy --ids 2,0,1,1,0,2 --max-tokens 6\n"
    "  tessera run models/tales --prompt \"The fox\" --json\n"};

constexpr int64_t kMaxInt32 = 2147483647;
constexpr int64_t kDefaultMaxTokens = 200;
constexpr float kDefaultTemperature = 0.8f;
constexpr float kDefaultTopP = 0.95f;

struct Options {
  ModelOptions model;
  std::optional<std::string> prompt, file, ids_file;
  std::vector<std::vector<int32_t>> ids;
  std::optional<int64_t> max_tokens, top_k, seed;
  std::optional<double> temperature, top_p;
  bool greedy = false;
  bool ignore_end = false;
  bool echo = false;
  bool json = false;
};

void declare(CLI::App& app, Options* options) {
  auto* prompt = add_text(app, {"--prompt", "TEXT", "The text to continue"}, &options->prompt);
  auto* file = add_text(
      app, {"--file", "FILE", "Continue the text in FILE, less its last line end"}, &options->file);
  auto* ids = add_ids(app, "Continue these token ids", &options->ids);
  auto* ids_file = add_text(app,
                            {"--ids-file", "FILE",
                             "Continue each line of ids in FILE (- for standard input) and print a "
                             "line of ids for it"},
                            &options->ids_file);
  prompt->excludes(file, ids, ids_file);
  file->excludes(ids, ids_file);
  ids->excludes(ids_file);
  add_integer(app,
              {"--max-tokens", 1, kMaxInt32, "Stop after N tokens (default: 200 or what fits)"},
              &options->max_tokens);
  add_integer(app, {"--seed", 0, INT64_MAX, "Draw as another run with this seed did"},
              &options->seed);
  add_number(app,
             {"--temperature", 0, 100, "Flatten (> 1) or sharpen (< 1) the choice (default: 0.8)"},
             &options->temperature);
  add_integer(app, {"--top-k", 0, kMaxInt32, "Draw from the N likeliest; 0: from all (default: 0)"},
              &options->top_k);
  add_number(app, {"--top-p", 0, 1, "Draw from the likeliest that make up X (default: 0.95)"},
             &options->top_p);
  app.add_flag("--greedy", options->greedy, "Always the likeliest, temperature 0");
  app.add_flag("--ignore-end", options->ignore_end, "Go on behind the model's end token");
  app.add_flag("--echo", options->echo, "Print the prompt before its continuation");
  app.add_flag("--json", options->json, "Print one JSON object instead of the text");
}

// What options alone tell to be wrong.
void check(const Options& options) {
  if (options.ids.size() > 1)
    usage_error("--ids: expected one list, found several (see --ids-file)");
  if (options.greedy && options.temperature.value_or(0) > 0) {
    usage_error("expected --greedy or --temperature, found both");
  }
  if (options.top_p && *options.top_p == 0) usage_error("--top-p: expected more than 0, found 0");
}

Sampling sampling_of(const Options& options) {
  Sampling sampling;
  sampling.temperature =
      options.greedy ? 0 : static_cast<float>(options.temperature.value_or(kDefaultTemperature));
  sampling.top_k = static_cast<int32_t>(options.top_k.value_or(0));
  sampling.top_p = static_cast<float>(options.top_p.value_or(kDefaultTopP));
  // 31 bits are easy to type again.
  sampling.seed = options.seed ? static_cast<uint64_t>(*options.seed) : std::random_device()() >> 1;
  return sampling;
}

Request make_request(const Options& options, const ModelInfo& info, const Sampling& sampling,
                     std::vector<int32_t> prompt_ids) {
  // The last token is not run and needs no position. A prompt that fills the context is for submit
  // to refuse.
  const int64_t room = info.max_positions - static_cast<int64_t>(prompt_ids.size()) + 1;
  Request request;
  request.prompt_ids = std::move(prompt_ids);
  request.max_new_tokens = static_cast<int32_t>(
      options.max_tokens.value_or(std::clamp<int64_t>(room, 1, kDefaultMaxTokens)));
  request.sampling = sampling;
  request.ignore_end = options.ignore_end;
  return request;
}

const char* name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kEndToken:
      return "end";
    case FinishReason::kStopString:
      return "stop_string";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kNone:
      break;
  }
  return "none";
}

// Without the first token, which the prompt's time holds.
double tokens_per_second(const Generation& generation) {
  const double seconds = generation.total_seconds - generation.prompt_seconds;
  return generation.ids.size() < 2 || seconds <= 0
             ? 0
             : static_cast<double>(generation.ids.size() - 1) / seconds;
}

void print_summary(const Generation& generation, const Sampling& sampling) {
  const bool one = generation.ids.size() == 1;
  std::string line = fmt::format("{} token{}", generation.ids.size(), one ? "" : "s");
  if (const double rate = tokens_per_second(generation); rate > 0) {
    line += fmt::format(", {:.1f} tokens/s", rate);
  }
  line += fmt::format(", first after {:.1f} ms, peak memory {}", generation.prompt_seconds * 1e3,
                      human_bytes(peak_memory_bytes()));
  if (sampling.temperature > 0) line += fmt::format(", seed {}", sampling.seed);
  fmt::print(stderr, "[{}]\n", line);
}

std::string to_json(const Generation& generation, const Request& request, const ModelInfo& info) {
  Json json;
  json["prompt_ids"] = request.prompt_ids;
  json["ids"] = generation.ids;
  json["text"] = info.has_tokenizer ? Json(generation.text) : Json();
  json["finish_reason"] = name(generation.finished);
  json["seed"] = request.sampling.seed;
  json["prompt_seconds"] = generation.prompt_seconds;
  json["total_seconds"] = generation.total_seconds;
  json["tokens_per_second"] = tokens_per_second(generation);
  json["peak_memory_bytes"] = peak_memory_bytes();
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

// Writes a request's tokens as they come: text, or ids between commas where there is no tokenizer.
class Stream {
 public:
  explicit Stream(const ModelInfo& info) : has_text_(info.has_tokenizer) {}

  // False: stop.
  bool take(const Event& event) {
    std::string text = event.text;
    if (!has_text_) text = fmt::format("{}{}", first_ ? "" : ",", event.token);
    first_ = false;
    return put(text);
  }
  bool put(const std::string& text) {
    if (!text.empty()) ends_line_ = text.back() == '\n';
    status_ = out_.write(text);
    if (status_.ok()) status_ = out_.flush();
    return status_.ok();
  }
  Status finish() {
    if (status_.ok() && !ends_line_) put("\n");
    return status_;
  }

 private:
  Output out_;
  Status status_;
  bool has_text_;
  bool first_ = true;
  bool ends_line_ = false;
};

// Generates until the end or an interrupt; the reason is kCancelled then.
Result<Generation> generate_shown(const std::shared_ptr<Model>& model, const Request& request,
                                  Stream* stream) {
  const Interrupt interrupt;
  Result<Generation> generation = generate(model, request, [&](const Event& event) {
    const bool wanted = stream == nullptr || stream->take(event);
    return wanted && !interrupt.requested();
  });
  if (!generation.ok()) return generation;
  if (interrupt.requested()) generation->finished = FinishReason::kCancelled;
  if (stream != nullptr) {
    if (Status status = stream->finish(); !status.ok()) return status;
  }
  return generation;
}

Status print_text(const std::string& text) {
  Output out;
  if (Status status = out.write(text); !status.ok()) return status;
  return out.flush();
}

Status run_once(const std::shared_ptr<Model>& model, const Options& options,
                const TokenSequence& prompt) {
  const ModelInfo& info = model->info();
  const Request request = make_request(options, info, sampling_of(options), prompt.ids);
  Stream stream(info);
  if (options.echo && !options.json) {
    std::string text = join_ids(prompt.ids) + ",";
    if (info.has_tokenizer) {
      Result<std::string> decoded = model->detokenize(prompt.ids);
      if (!decoded.ok()) return decoded.status();
      text = *decoded;
    }
    stream.put(text);
  }
  Result<Generation> generation = generate_shown(model, request, options.json ? nullptr : &stream);
  if (!generation.ok()) return generation.status();
  if (options.json) {
    if (Status status = print_text(to_json(*generation, request, info)); !status.ok())
      return status;
  } else {
    print_summary(*generation, request.sampling);
  }
  if (generation->finished == FinishReason::kCancelled) return {StatusCode::kCancelled, ""};
  return {};
}

// Many prompts of ids through one engine, answered in their order.
class Batch {
 public:
  Batch(std::shared_ptr<Model> model, const Options& options)
      : model_(std::move(model)), options_(options), sampling_(sampling_of(options)) {}

  Status run(std::vector<std::vector<int32_t>> prompts) {
    Result<std::unique_ptr<Engine>> engine = Engine::create(model_, {});
    if (!engine.ok()) return engine.status();
    engine_ = std::move(engine).value();
    for (std::vector<int32_t>& ids : prompts) {
      jobs_.push_back({make_request(options_, model_->info(), sampling_, std::move(ids)), {}, {}});
    }
    Progress progress("generating", static_cast<int64_t>(jobs_.size()));
    while (written_ < jobs_.size()) {
      if (Status status = submit(); !status.ok()) return status;
      if (Status status = step(); !status.ok()) return status;
      if (Status status = write(); !status.ok()) return status;
      progress.update(static_cast<int64_t>(written_));
    }
    return out_.flush();
  }

 private:
  using Clock = std::chrono::steady_clock;
  struct Job {
    Request request;
    Generation generation;
    Clock::time_point start;
  };
  // More in flight than this gain nothing on a CPU: the products are already bound by arithmetic.
  static constexpr size_t kInFlight = 64;

  Status submit() {
    while (next_ < jobs_.size() && running_.size() < kInFlight) {
      Result<int64_t> number = engine_->submit(jobs_[next_].request);
      // The cache is full: wait until others leave it.
      if (!number.ok() && number.status().code() == StatusCode::kOutOfMemory && !running_.empty()) {
        return {};
      }
      if (!number.ok()) {
        return {number.status().code(),
                fmt::format("prompt {}: {}", next_ + 1, number.status().message())};
      }
      jobs_[next_].start = Clock::now();
      running_[*number] = next_++;
    }
    return {};
  }

  Status step() {
    Result<std::vector<Event>> events = engine_->step();
    if (!events.ok()) return events.status();
    for (const Event& event : *events) {
      const auto running = running_.find(event.request);
      if (running == running_.end()) continue;
      Job& job = jobs_[running->second];
      Generation& generation = job.generation;
      const double seconds = std::chrono::duration<double>(Clock::now() - job.start).count();
      if (generation.ids.empty()) generation.prompt_seconds = seconds;
      generation.total_seconds = seconds;
      generation.ids.push_back(event.token);
      generation.text += event.text;
      generation.finished = event.finished;
      if (event.finished != FinishReason::kNone) running_.erase(running);
    }
    return {};
  }

  Status write() {
    while (written_ < jobs_.size() && jobs_[written_].generation.finished != FinishReason::kNone) {
      const Job& job = jobs_[written_++];
      Status status =
          out_.write(options_.json ? to_json(job.generation, job.request, model_->info())
                                   : join_ids(job.generation.ids) + "\n");
      if (!status.ok()) return status;
    }
    return {};
  }

  std::shared_ptr<Model> model_;
  const Options& options_;
  Sampling sampling_;
  std::unique_ptr<Engine> engine_;
  std::vector<Job> jobs_;
  std::map<int64_t, size_t> running_;  // request number to job
  size_t next_ = 0;
  size_t written_ = 0;
  Output out_;
};

// A text that grows in turns: a line from the terminal, then the model's continuation. The oldest
// turns are forgotten when the context is full.
class Turns {
 public:
  Turns(std::shared_ptr<Model> model, const Options& options)
      : model_(std::move(model)), options_(options), sampling_(sampling_of(options)) {}

  Status run() {
    fmt::print(stderr,
               "Type a beginning; an empty line goes on, /new starts afresh, Ctrl-C stops the "
               "text, Ctrl-D ends.\n");
    for (std::string line; ask(&line);) {
      if (line == "/new") {
        turns_.clear();
        continue;
      }
      if (line.empty() && turns_.empty()) continue;
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
    if (!line.empty()) turns_.push_back((turns_.empty() ? "" : "\n") + line);
    Result<std::vector<int32_t>> ids = fitting_ids();
    if (!ids.ok()) return ids.status();
    const Request request =
        make_request(options_, model_->info(), sampling_, std::move(ids).value());
    ++sampling_.seed;  // the same line again draws anew
    Stream stream(model_->info());
    Result<Generation> generation = generate_shown(model_, request, &stream);
    if (!generation.ok()) return generation.status();
    print_summary(*generation, request.sampling);
    turns_.back() += generation->text;
    if (generation->finished == FinishReason::kEndToken) turns_.clear();
    return {};
  }

  Result<std::vector<int32_t>> fitting_ids() {
    const int64_t wanted = options_.max_tokens.value_or(
        std::min<int64_t>(kDefaultMaxTokens, model_->info().max_positions / 2));
    for (;;) {
      std::string text;
      for (const std::string& turn : turns_) text += turn;
      Result<TokenSequence> prompt = model_->tokenize(text);
      if (!prompt.ok()) return prompt.status();
      const int64_t needed = static_cast<int64_t>(prompt->ids.size()) + wanted - 1;
      if (needed <= model_->info().max_positions || turns_.size() == 1) return prompt->ids;
      turns_.pop_front();
    }
  }

  std::shared_ptr<Model> model_;
  const Options& options_;
  Sampling sampling_;
  std::deque<std::string> turns_;
};

Result<TokenSequence> read_prompt(Model& model, const Options& options) {
  if (!options.ids.empty()) return TokenSequence{options.ids[0], {}};
  if (options.prompt) return model.tokenize(*options.prompt);
  Result<std::string> text = read_text(options.file.value_or("-"));
  if (!text.ok()) return text.status();
  if (text->ends_with('\n')) text->pop_back();  // what editors and echo put there
  return model.tokenize(*text);
}

Status check_model(const Options& options, const ModelInfo& info) {
  if (!info.is_decoder || info.head != Head::kCausalLm) {
    return unsupported(fmt::format(
        "{} cannot continue a text: it is {} ({}); try: tessera embed {}", info.directory,
        info.is_decoder ? "a decoder without a language head" : "an encoder", info.architecture,
        info.directory));
  }
  if (!info.has_tokenizer && options.ids.empty() && !options.ids_file) {
    return unsupported(fmt::format(
        "{} has no tokenizer (tokenizer.json): give token ids with --ids", info.directory));
  }
  return {};
}

Status run(const Options& options) {
  Result<std::shared_ptr<Model>> model = load_model(options.model);
  if (!model.ok()) return model.status();
  if (Status status = check_model(options, (*model)->info()); !status.ok()) return status;
  if (options.ids_file) {
    auto prompts = read_id_lines(*options.ids_file);
    if (!prompts.ok()) return prompts.status();
    return Batch(*model, options).run(std::move(prompts).value());
  }
  const bool has_prompt = options.prompt || options.file || !options.ids.empty();
  if (!has_prompt && !options.json && is_terminal(stdin)) return Turns(*model, options).run();
  Result<TokenSequence> prompt = read_prompt(**model, options);
  if (!prompt.ok()) return prompt.status();
  return run_once(*model, options, *prompt);
}

}  // namespace

int run_verb(const Arguments& arguments) {
  Options options;
  const auto app = make_parser(kSynopsis);
  declare(*app, &options);
  add_model_options(*app, &options.model);
  app->parse_complete_callback([&] { check(options); });
  if (const auto code = parse(*app, arguments)) return *code;
  return finish(run(options));
}

}  // namespace tessera::cli
