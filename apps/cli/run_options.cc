#include <fmt/format.h>

#include <algorithm>
#include <random>

#include "cli/run.h"

namespace tessera::cli {
namespace {

constexpr int64_t kMaxInt32 = 2147483647;
constexpr float kDefaultTemperature = 0.8f;
constexpr float kDefaultTopP = 0.95f;
constexpr int64_t kMostSequences = 1024;

// Whether the user asks for tokens to be drawn.
bool draws(const GenerateOptions& options) {
  return options.temperature.value_or(0) > 0 ||
         (!options.temperature && (options.top_k || options.top_p || options.min_p));
}

// How the next token is chosen.
void declare_choice(Parser& parser, GenerateOptions* options) {
  parser.add_number({"--temperature", 0, 100,
                     "Sampling temperature: higher is more random, lower more predictable "
                     "(default: the model's, else 0.8)."},
                    &options->temperature);
  parser.add_integer({"--top-k", 0, kMaxInt32,
                      "Sample from the N most likely tokens only; 0 means all (default: the "
                      "model's, else 0)."},
                     &options->top_k);
  parser.add_number({"--top-p", 0, 1,
                     "Nucleus sampling: sample from the smallest set of tokens with probability X "
                     "(default: the model's, else 0.95)."},
                    &options->top_p);
  parser.add_number({"--min-p", 0, 1,
                     "Sample from tokens at least X times as likely as the most likely one "
                     "(default: the model's, else 0)."},
                    &options->min_p);
  parser.add_number({"--repetition-penalty", 0, 100,
                     "Make tokens that have occurred less likely; below 1, more likely (default: "
                     "the model's, else 1)."},
                    &options->repetition_penalty);
  parser.add_integer({"--seed", 0, INT64_MAX, "Random seed; the same seed gives the same text."},
                     &options->seed);
  parser.add_flag("--greedy", &options->greedy,
                  "Always take the most likely token instead of sampling.");
  parser.add_integer({"--beams", 1, kMostSequences,
                      "Search for the most likely continuation with N beams instead of sampling "
                      "(default: the model's, else 1)."},
                     &options->beams);
  parser.add_integer({"--num-sequences", 1, kMostSequences,
                      "Give N continuations, with seed, seed + 1, ..., or the N best beams "
                      "(default: 1)."},
                     &options->sequences);
}

void check_choice(const GenerateOptions& options) {
  const int64_t beams = options.beams.value_or(1), sequences = options.sequences.value_or(1);
  for (const auto& [name, is_given] :
       {std::pair("--temperature", options.temperature.value_or(0) > 0),
        std::pair("--top-k", options.top_k.has_value()),
        std::pair("--top-p", options.top_p.has_value()),
        std::pair("--min-p", options.min_p.has_value())}) {
    if (is_given && options.greedy) {
      both_given("--greedy", name);
    }
    if (is_given && beams > 1) {
      both_given("--beams", name);
    }
  }
  if (options.greedy && beams > 1) both_given("--greedy", "--beams");
  if (options.repetition_penalty && *options.repetition_penalty == 0) {
    bad_value("--repetition-penalty", "a number above 0", "0");
  }
  if (std::find(options.stop.begin(), options.stop.end(), "") != options.stop.end()) {
    bad_value("--stop", "a text", "");
  }
  if (options.logprobs && !options.json) lacks("--logprobs", "--json");
  if (beams > 1 && !options.stop.empty()) both_given("--beams", "--stop");
  if (beams > 1 && sequences > beams) {
    usage_error(fmt::format("--num-sequences: expected at most {}, one for each beam, found {}",
                            beams, sequences));
  }
  if (beams == 1 && sequences > 1 && (options.greedy || options.temperature == 0.0)) {
    usage_error(
        "expected --num-sequences or --greedy, which would give equal sequences, found both");
  }
}

// What the user says, else generation_config.json, else our own.
class Choice {
 public:
  Choice(const GenerateOptions& options, const ModelInfo& info)
      : options_(options), model_(info.generation), vocabulary_(info.vocabulary_size) {}

  Result<Request> make() {
    choose_beams();
    choose_sampling();
    choose_rules();
    if (!status_.ok()) return status_;
    request_.sequences = static_cast<int32_t>(options_.sequences.value_or(1));
    request_.stop_strings = options_.stop;
    request_.ignore_end = options_.ignore_end;
    request_.log_probabilities = options_.logprobs;
    return request_;
  }

 private:
  // The file's value where the user gives none.
  template <typename T>
  T recommended(const char* key, const std::optional<T>& value, T otherwise) {
    use(key);
    return value.value_or(otherwise);
  }
  // A value is used: what is wrong with it matters.
  void use(const char* key) {
    if (status_.ok()) status_ = check_recommended(model_, key);
  }

  float either(const std::optional<double>& said, const char* key,
               const std::optional<float>& value, float otherwise) {
    return said ? static_cast<float>(*said) : recommended(key, value, otherwise);
  }

  void choose_beams() {
    const bool own_way = options_.greedy || draws(options_);
    request_.beams = static_cast<int32_t>(
        options_.beams ? *options_.beams
                       : (own_way ? 1 : recommended("num_beams", model_.num_beams, 1)));
    if (request_.beams == 1) return;
    if (!options_.beams && !options_.stop.empty()) {
      fail(fmt::format("num_beams: expected 1 with --stop, found {}: give --beams 1",
                       request_.beams));
    }
    request_.length_penalty = recommended("length_penalty", model_.length_penalty, 1.0f);
    const std::string stopping =
        recommended("early_stopping", model_.early_stopping, std::string("false"));
    request_.early_stopping = stopping == "true"    ? EarlyStopping::kAtOnce
                              : stopping == "never" ? EarlyStopping::kNever
                                                    : EarlyStopping::kHeuristic;
  }

  void choose_sampling() {
    Sampling& sampling = request_.sampling;
    const bool is_greedy = options_.greedy || request_.beams > 1 ||
                           (!draws(options_) && !options_.temperature &&
                            recommended("do_sample", model_.do_sample, true) == false);
    sampling.repetition_penalty =
        either(options_.repetition_penalty, "repetition_penalty", model_.repetition_penalty, 1);
    // 31 bits are easy to type again.
    sampling.seed =
        options_.seed ? static_cast<uint64_t>(*options_.seed) : std::random_device()() >> 1;
    if (is_greedy) return;
    sampling.temperature =
        either(options_.temperature, "temperature", model_.temperature, kDefaultTemperature);
    if (sampling.temperature == 0) return;
    sampling.top_k = options_.top_k ? static_cast<int32_t>(*options_.top_k)
                                    : recommended("top_k", model_.top_k, 0);
    sampling.top_p = either(options_.top_p, "top_p", model_.top_p, kDefaultTopP);
    sampling.min_p = either(options_.min_p, "min_p", model_.min_p, 0);
  }

  void choose_rules() {
    TokenRules& rules = request_.rules;
    rules.no_repeat_ngram_size =
        recommended("no_repeat_ngram_size", model_.no_repeat_ngram_size, 0);
    for (const char* key : {"suppress_tokens", "begin_suppress_tokens", "bad_words_ids",
                            "forced_bos_token_id", "forced_eos_token_id"}) {
      use(key);
    }
    rules.suppressed = in_vocabulary(model_.suppress_tokens);
    rules.suppressed_first = in_vocabulary(model_.begin_suppress_tokens);
    rules.bad_words = model_.bad_words_ids;
    for (const auto& word : rules.bad_words) check_ids("bad_words_ids", word);
    rules.forced_first = model_.forced_bos_token_id;
    if (rules.forced_first) check_ids("forced_bos_token_id", {*rules.forced_first});
    rules.forced_last = model_.forced_eos_token_id;
    check_ids("forced_eos_token_id", rules.forced_last);
  }

  // Those that the vocabulary lacks do not come anyway.
  std::vector<int32_t> in_vocabulary(std::vector<int32_t> ids) const {
    std::erase_if(ids, [&](int32_t id) { return id >= vocabulary_; });
    return ids;
  }

  void check_ids(const char* key, const std::vector<int32_t>& ids) {
    for (const int32_t id : ids) {
      if (id >= 0 && id < vocabulary_) continue;
      fail(fmt::format("{}: expected ids from 0 to {}, found {}", key, vocabulary_ - 1, id));
    }
  }

  void fail(const std::string& message) {
    if (status_.ok()) status_ = invalid_input("generation_config.json: " + message);
  }

  const GenerateOptions& options_;
  const GenerationDefaults& model_;
  int32_t vocabulary_;
  Request request_;
  Status status_;
};

}  // namespace

void declare(Parser& parser, GenerateOptions* options) {
  parser.group("Input");
  const Option prompt = parser.add_text(
      {"-p,--prompt", "TEXT", "Continue TEXT; the same as TEXT after MODEL."}, &options->prompt);
  const Option file = parser.add_text(
      {"--file", "FILE", "Continue the text in FILE, without its trailing newline."},
      &options->file);
  const Option ids = parser.add_ids("Continue these token ids.", &options->ids);
  const Option batch =
      parser.add_text({"--batch", "FILE",
                       "Continue every prompt in FILE (- is standard input), many at a time, and "
                       "answer in the file's order."},
                      &options->batch.file);
  add_format_options(parser, &options->batch);
  prompt.excludes({file, ids, batch});
  file.excludes({ids, batch});
  ids.excludes({batch});
  parser.add_flag("--chat", &options->chat,
                  "Treat prompts as what a user says and write the assistant's answer, by the "
                  "model's chat template.");
  parser.add_text({"--system", "TEXT",
                   "Begin the conversation with this system message (with --chat, or conversations "
                   "in JSON lines)."},
                  &options->system);
  parser.group("Generation");
  parser.add_integer({"-n,--max-tokens", 1, kMaxInt32,
                      "Stop after N tokens (default: the model's, else 200 or what fits)."},
                     &options->max_tokens);
  parser.add_texts(
      {"--stop", "TEXT", "Stop before TEXT when it is about to be written; may be repeated."},
      &options->stop);
  parser.add_flag("--ignore-end", &options->ignore_end,
                  "Do not stop at the model's end-of-text token.");
  declare_choice(parser, options);
  parser.group("Output");
  parser.add_flag("--echo", &options->echo, "Print the prompt before its continuation.");
  parser.add_flag("--logprobs", &options->logprobs,
                  "Add each token's natural log-probability, before temperature and filters, to "
                  "the output of --json.");
  parser.add_flag("--json", &options->json,
                  "Print one JSON object for each prompt instead of the text.");
}

void take_text(const std::vector<std::string>& rest, GenerateOptions* options) {
  if (rest.empty()) return;
  if (rest.size() > 1) {
    usage_error(fmt::format("expected one text after MODEL, found {}: put the text in quotes",
                            rest.size()));
  }
  for (const auto& [name, is_given] :
       {std::pair("--prompt", options->prompt.has_value()),
        std::pair("--file", options->file.has_value()), std::pair("--ids", !options->ids.empty()),
        std::pair("--batch", options->batch.file.has_value())}) {
    if (is_given) both_given("TEXT", name);
  }
  options->prompt = rest.front();
}

void check(GenerateOptions* options) {
  if (options->ids.size() > 1)
    usage_error("--ids: expected one list, found several (see --batch and --format ids)");
  if (options->chat && !options->ids.empty()) {
    both_given("--chat", "--ids");
  }
  // Messages say themselves that they are a conversation.
  if (options->system && !options->chat && !options->batch.file) {
    lacks("--system", "--chat");
  }
  if (options->batch.file) {
    check_records(options->batch);
    if (options->system && !options->chat &&
        format_of(options->batch) != RecordFormat::kJsonLines) {
      lacks("--system", "--chat or --format jsonl");
    }
    if (options->echo) both_given("--echo", "--batch");
  } else if (has_format_options(options->batch)) {
    lacks("--format and columns", "--batch");
  }
  check_choice(*options);
}

Status check_recommended(const GenerationDefaults& model, std::string_view key) {
  for (const GenerationDefaults::Wrong& wrong : model.wrong) {
    if (wrong.key == key) return invalid_input(wrong.message);
  }
  return {};
}

Result<Request> request_of(const GenerateOptions& options, const ModelInfo& info) {
  return Choice(options, info).make();
}

}  // namespace tessera::cli
