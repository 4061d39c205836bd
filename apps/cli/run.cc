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
    "  tessera run models/tales --prompt \"The fox\" --json\n"
    "  tessera run models/tales --prompt \"The fox\" --stop . --num-sequences 3\n"
    "  tessera run models/tales --prompt \"The fox\" --beams 4 --max-tokens 30\n"};

constexpr int64_t kMaxInt32 = 2147483647;
constexpr int64_t kDefaultMaxTokens = 200;
constexpr float kDefaultTemperature = 0.8f;
constexpr float kDefaultTopP = 0.95f;
constexpr int64_t kMostSequences = 1024;

struct Options {
  ModelOptions model;
  std::optional<std::string> prompt, file, ids_file;
  std::vector<std::vector<int32_t>> ids;
  std::vector<std::string> stop;
  std::optional<int64_t> max_tokens, top_k, seed, beams, sequences;
  std::optional<double> temperature, top_p, min_p, repetition_penalty;
  bool greedy = false;
  bool ignore_end = false;
  bool echo = false;
  bool logprobs = false;
  bool json = false;
};

// How the next token is chosen.
void declare_choice(CLI::App& app, Options* options) {
  add_integer(app, {"--seed", 0, INT64_MAX, "Draw as another run with this seed did"},
              &options->seed);
  add_number(app,
             {"--temperature", 0, 100,
              "Flatten (> 1) or sharpen (< 1) the choice (default: the model's, else 0.8)"},
             &options->temperature);
  add_integer(app,
              {"--top-k", 0, kMaxInt32,
               "Draw from the N likeliest; 0: from all (default: the model's, else 0)"},
              &options->top_k);
  add_number(
      app,
      {"--top-p", 0, 1, "Draw from the likeliest that make up X (default: the model's, else 0.95)"},
      &options->top_p);
  add_number(app,
             {"--min-p", 0, 1,
              "Draw from those at least X times as likely as the likeliest (default: the model's, "
              "else 0)"},
             &options->min_p);
  add_number(app,
             {"--repetition-penalty", 0, 100,
              "Make tokens that occurred less (> 1) or more (< 1) likely (default: the model's, "
              "else 1)"},
             &options->repetition_penalty);
  add_integer(
      app,
      {"--beams", 1, kMostSequences,
       "Search with N beams for the likeliest continuation instead of drawing (default: 1)"},
      &options->beams);
  add_integer(app,
              {"--num-sequences", 1, kMostSequences,
               "Draw N continuations, with seed, seed + 1, ..., or give the N best beams "
               "(default: 1)"},
              &options->sequences);
}

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
              {"--max-tokens", 1, kMaxInt32,
               "Stop after N tokens (default: the model's, else 200 or what fits)"},
              &options->max_tokens);
  add_texts(app,
            {"--stop", "TEXT",
             "Stop before TEXT, where the continuation contains it; may be given several times"},
            &options->stop);
  declare_choice(app, options);
  app.add_flag("--greedy", options->greedy, "Always the likeliest, temperature 0");
  app.add_flag("--ignore-end", options->ignore_end, "Go on behind the model's end token");
  app.add_flag("--echo", options->echo, "Print the prompt before its continuation");
  app.add_flag("--logprobs", options->logprobs,
               "With --json: the natural logarithm of each token's probability, as the model gave "
               "it before temperature and filters");
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
  if (options.repetition_penalty && *options.repetition_penalty == 0) {
    usage_error("--repetition-penalty: expected more than 0, found 0");
  }
  if (std::find(options.stop.begin(), options.stop.end(), "") != options.stop.end()) {
    usage_error("--stop: expected a text, found \"\"");
  }
  if (options.logprobs && !options.json) usage_error("expected --logprobs with --json, found none");
  const int64_t beams = options.beams.value_or(1), sequences = options.sequences.value_or(1);
  if (beams > 1 && options.temperature.value_or(0) > 0) {
    usage_error("expected --beams or --temperature, found both");
  }
  if (beams > 1 && !options.stop.empty()) usage_error("expected --beams or --stop, found both");
  if (beams > 1 && sequences > beams) {
    usage_error(fmt::format("--num-sequences: expected at most {}, one a beam, found {}", beams,
                            sequences));
  }
  if (beams == 1 && sequences > 1 && (options.greedy || options.temperature == 0.0)) {
    usage_error("expected --num-sequences or --greedy, whose sequences would be equal, found both");
  }
}

float either(const std::optional<double>& said, const std::optional<float>& recommended,
             float otherwise) {
  return said ? static_cast<float>(*said) : recommended.value_or(otherwise);
}

// What the user says, else what the model's generation_config.json recommends, else our own.
Sampling sampling_of(const Options& options, const ModelInfo& info) {
  const GenerationDefaults& model = info.generation;
  Sampling sampling;
  const bool is_greedy = options.greedy || options.beams.value_or(1) > 1 ||
                         (!options.temperature && model.do_sample == false);
  sampling.temperature =
      is_greedy ? 0 : either(options.temperature, model.temperature, kDefaultTemperature);
  sampling.top_k = static_cast<int32_t>(options.top_k.value_or(model.top_k.value_or(0)));
  sampling.top_p = either(options.top_p, model.top_p, kDefaultTopP);
  sampling.min_p = either(options.min_p, model.min_p, 0);
  sampling.repetition_penalty = either(options.repetition_penalty, model.repetition_penalty, 1);
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
  const int64_t usual = info.generation.max_new_tokens.value_or(kDefaultMaxTokens);
  request.max_new_tokens = static_cast<int32_t>(
      options.max_tokens.value_or(std::max<int64_t>(std::min(room, usual), 1)));
  request.sampling = sampling;
  request.sequences = static_cast<int32_t>(options.sequences.value_or(1));
  request.beams = static_cast<int32_t>(options.beams.value_or(1));
  request.stop_strings = options.stop;
  request.ignore_end = options.ignore_end;
  request.log_probabilities = options.logprobs;
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

// A request and what has come of it.
struct Job {
  using Clock = std::chrono::steady_clock;

  Request request;
  std::vector<Generation> generations = {};  // one a sequence
  size_t finished = 0;
  Clock::time_point start = {};
  double prompt_seconds = 0;  // until the first step was done
  double total_seconds = 0;

  void begin() {
    start = Clock::now();
    generations.resize(static_cast<size_t>(request.sequences));
  }
  void stepped() {
    total_seconds = std::chrono::duration<double>(Clock::now() - start).count();
    if (prompt_seconds == 0) prompt_seconds = total_seconds;
  }
  void take(const Event& event) {
    Generation& generation = generations[static_cast<size_t>(event.sequence)];
    generation.finished = event.finished;
    if (event.finished != FinishReason::kNone) ++finished;
    if (event.finished == FinishReason::kCancelled) return;
    generation.ids.push_back(event.token);
    generation.text += event.text;
    if (event.log_probability) generation.log_probabilities.push_back(*event.log_probability);
  }
  bool is_cancelled() const {
    return std::any_of(generations.begin(), generations.end(), [](const Generation& each) {
      return each.finished == FinishReason::kCancelled;
    });
  }
  size_t tokens() const {
    size_t sum = 0;
    for (const Generation& each : generations) sum += each.ids.size();
    return sum;
  }
  // Without the first tokens, which the prompt's time holds.
  double tokens_per_second() const {
    const double seconds = total_seconds - prompt_seconds;
    const size_t count = tokens();
    return count <= generations.size() || seconds <= 0
               ? 0
               : static_cast<double>(count - generations.size()) / seconds;
  }
};

void print_summary(const Job& job) {
  const bool one = job.tokens() == 1;
  std::string line = fmt::format("{} token{}", job.tokens(), one ? "" : "s");
  if (const double rate = job.tokens_per_second(); rate > 0) {
    line += fmt::format(", {:.1f} tokens/s", rate);
  }
  line += fmt::format(", first after {:.1f} ms, peak memory {}", job.prompt_seconds * 1e3,
                      human_bytes(peak_memory_bytes()));
  const Sampling& sampling = job.request.sampling;
  if (sampling.temperature > 0) line += fmt::format(", seed {}", sampling.seed);
  fmt::print(stderr, "[{}]\n", line);
}

void add_generation(Json& json, const Generation& generation, const Job& job,
                    const ModelInfo& info) {
  json["ids"] = generation.ids;
  json["text"] = info.has_tokenizer ? Json(generation.text) : Json();
  if (job.request.log_probabilities) json["log_probabilities"] = generation.log_probabilities;
  json["finish_reason"] = name(generation.finished);
}

// One sequence stands in the object itself, several in a list.
std::string to_json(const Job& job, const ModelInfo& info) {
  Json json;
  json["prompt_ids"] = job.request.prompt_ids;
  if (job.generations.size() == 1) {
    add_generation(json, job.generations[0], job, info);
  } else {
    for (const Generation& generation : job.generations) {
      add_generation(json["sequences"].emplace_back(), generation, job, info);
    }
  }
  json["seed"] = job.request.sampling.seed;
  json["prompt_seconds"] = job.prompt_seconds;
  json["total_seconds"] = job.total_seconds;
  json["tokens_per_second"] = job.tokens_per_second();
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

// Generates until the end or an interrupt; a sequence's reason is kCancelled then. One sequence is
// streamed.
Status generate_shown(const std::shared_ptr<Model>& model, Stream* stream, Job& job) {
  const Interrupt interrupt;
  Result<std::unique_ptr<Engine>> engine = Engine::create(model, {});
  if (!engine.ok()) return engine.status();
  const Result<int64_t> number = (*engine)->submit(job.request);
  if (!number.ok()) return number.status();
  job.begin();
  while (!(*engine)->idle()) {
    Result<std::vector<Event>> events = (*engine)->step();
    if (!events.ok()) return events.status();
    job.stepped();
    bool wanted = !interrupt.requested();
    for (const Event& event : *events) {
      job.take(event);
      if (stream == nullptr || event.finished == FinishReason::kCancelled) continue;
      wanted = stream->take(event) && wanted;
    }
    if (!wanted) (*engine)->cancel(*number);
  }
  return stream == nullptr ? Status() : stream->finish();
}

Status print_text(const std::string& text) {
  Output out;
  if (Status status = out.write(text); !status.ok()) return status;
  return out.flush();
}

Result<std::string> echo_of(const Model& model, const TokenSequence& prompt) {
  if (model.info().has_tokenizer) return model.detokenize(prompt.ids);
  return join_ids(prompt.ids) + ",";
}

// Several sequences, each behind a line that counts them.
std::string listed(const Job& job, const ModelInfo& info, const std::string& echo) {
  std::string text;
  const size_t count = job.generations.size();
  for (size_t i = 0; i < count; ++i) {
    const Generation& each = job.generations[i];
    text += fmt::format("--- {} of {} ---\n{}{}", i + 1, count, echo,
                        info.has_tokenizer ? each.text : join_ids(each.ids));
    if (!text.ends_with('\n')) text += '\n';
  }
  return text;
}

Status run_once(const std::shared_ptr<Model>& model, const Options& options,
                const TokenSequence& prompt) {
  const ModelInfo& info = model->info();
  Job job{make_request(options, info, sampling_of(options, info), prompt.ids)};
  std::string echo;
  if (options.echo && !options.json) {
    Result<std::string> text = echo_of(*model, prompt);
    if (!text.ok()) return text.status();
    echo = std::move(text).value();
  }
  Stream stream(info);
  const bool streams = !options.json && job.request.sequences == 1;
  if (streams && !echo.empty()) stream.put(echo);
  if (Status status = generate_shown(model, streams ? &stream : nullptr, job); !status.ok()) {
    return status;
  }
  if (!streams) {
    Status status = print_text(options.json ? to_json(job, info) : listed(job, info, echo));
    if (!status.ok()) return status;
  }
  if (!options.json) print_summary(job);
  if (job.is_cancelled()) return {StatusCode::kCancelled, ""};
  return {};
}

// Many prompts of ids through one engine, answered in their order.
class Batch {
 public:
  Batch(std::shared_ptr<Model> model, const Options& options)
      : model_(std::move(model)),
        options_(options),
        sampling_(sampling_of(options, model_->info())) {}

  Status run(std::vector<std::vector<int32_t>> prompts) {
    Result<std::unique_ptr<Engine>> engine = Engine::create(model_, {});
    if (!engine.ok()) return engine.status();
    engine_ = std::move(engine).value();
    for (std::vector<int32_t>& ids : prompts) {
      jobs_.push_back({make_request(options_, model_->info(), sampling_, std::move(ids))});
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
      jobs_[next_].begin();
      running_[*number] = next_++;
    }
    return {};
  }

  Status step() {
    Result<std::vector<Event>> events = engine_->step();
    if (!events.ok()) return events.status();
    for (const auto& [number, index] : running_) jobs_[index].stepped();
    for (const Event& event : *events) {
      const auto running = running_.find(event.request);
      if (running == running_.end()) continue;
      Job& job = jobs_[running->second];
      job.take(event);
      if (job.finished == job.generations.size()) running_.erase(running);
    }
    return {};
  }

  // A line of JSON a prompt, or a line of ids a sequence.
  Status write() {
    while (written_ < next_ && jobs_[written_].finished == jobs_[written_].generations.size()) {
      const Job& job = jobs_[written_++];
      std::string text;
      if (options_.json) {
        text = to_json(job, model_->info());
      } else {
        for (const Generation& each : job.generations) text += join_ids(each.ids) + "\n";
      }
      if (Status status = out_.write(text); !status.ok()) return status;
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
      : model_(std::move(model)),
        options_(options),
        sampling_(sampling_of(options, model_->info())) {}

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
    Job job{make_request(options_, model_->info(), sampling_, std::move(ids).value())};
    ++sampling_.seed;  // the same line again draws anew
    Stream stream(model_->info());
    if (Status status = generate_shown(model_, &stream, job); !status.ok()) return status;
    print_summary(job);
    const Generation& generation = job.generations[0];
    turns_.back() += generation.text;
    if (generation.finished == FinishReason::kEndToken) turns_.clear();
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
    return unsupported(
        fmt::format("{} has no tokenizer: give token ids with --ids", info.directory));
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
  if (!has_prompt && !options.json && is_terminal(stdin)) {
    if (options.sequences.value_or(1) > 1) {
      return invalid_input("--num-sequences: expected a prompt, since turns have one continuation");
    }
    return Turns(*model, options).run();
  }
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
