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

// How the next token is chosen.
void declare_choice(Parser& parser, GenerateOptions* options) {
  parser.add_integer({"--seed", 0, INT64_MAX, "Draw as another run with this seed did"},
                     &options->seed);
  parser.add_number({"--temperature", 0, 100,
                     "Flatten (> 1) or sharpen (< 1) the choice (default: the model's, else 0.8)"},
                    &options->temperature);
  parser.add_integer({"--top-k", 0, kMaxInt32,
                      "Draw from the N likeliest; 0: from all (default: the model's, else 0)"},
                     &options->top_k);
  parser.add_number(
      {"--top-p", 0, 1, "Draw from the likeliest that make up X (default: the model's, else 0.95)"},
      &options->top_p);
  parser.add_number(
      {"--min-p", 0, 1,
       "Draw from those at least X times as likely as the likeliest (default: the model's, "
       "else 0)"},
      &options->min_p);
  parser.add_number(
      {"--repetition-penalty", 0, 100,
       "Make tokens that occurred less (> 1) or more (< 1) likely (default: the model's, "
       "else 1)"},
      &options->repetition_penalty);
  parser.add_integer(
      {"--beams", 1, kMostSequences,
       "Search with N beams for the likeliest continuation instead of drawing (default: 1)"},
      &options->beams);
  parser.add_integer({"--num-sequences", 1, kMostSequences,
                      "Draw N continuations, with seed, seed + 1, ..., or give the N best beams "
                      "(default: 1)"},
                     &options->sequences);
}

void check_choice(const GenerateOptions& options) {
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

}  // namespace

void declare(Parser& parser, GenerateOptions* options) {
  const Option prompt =
      parser.add_text({"--prompt", "TEXT", "The text to continue"}, &options->prompt);
  const Option file = parser.add_text(
      {"--file", "FILE", "Continue the text in FILE, less its last line end"}, &options->file);
  const Option ids = parser.add_ids("Continue these token ids", &options->ids);
  const Option batch =
      parser.add_text({"--batch", "FILE",
                       "Continue every prompt in FILE (- for standard input), many at a time; "
                       "answers come in the file's order"},
                      &options->batch.file);
  add_format_options(parser, &options->batch);
  prompt.excludes({file, ids, batch});
  file.excludes({ids, batch});
  ids.excludes({batch});
  parser.add_flag("--chat", &options->chat,
                  "Prompts are what a user says, and the answer is the assistant's, as the model's "
                  "chat template writes them");
  parser.add_text(
      {"--system", "TEXT",
       "What the conversation begins with (with --chat, or conversations in JSON lines)"},
      &options->system);
  parser.add_integer({"--max-tokens", 1, kMaxInt32,
                      "Stop after N tokens (default: the model's, else 200 or what fits)"},
                     &options->max_tokens);
  parser.add_texts(
      {"--stop", "TEXT",
       "Stop before TEXT, where the continuation contains it; may be given several times"},
      &options->stop);
  declare_choice(parser, options);
  parser.add_flag("--greedy", &options->greedy, "Always the likeliest, temperature 0");
  parser.add_flag("--ignore-end", &options->ignore_end, "Go on behind the model's end token");
  parser.add_flag("--echo", &options->echo, "Print the prompt before its continuation");
  parser.add_flag(
      "--logprobs", &options->logprobs,
      "With --json: the natural logarithm of each token's probability, as the model gave "
      "it before temperature and filters");
  parser.add_flag("--json", &options->json, "Print one JSON object a prompt instead of the text");
}

void check(GenerateOptions* options) {
  if (options->ids.size() > 1)
    usage_error("--ids: expected one list, found several (see --batch and --format ids)");
  if (options->chat && !options->ids.empty()) {
    usage_error("expected --chat or --ids, found both");
  }
  // Messages say themselves that they are a conversation.
  if (options->system && !options->chat && !options->batch.file) {
    usage_error("expected --system with --chat, found it alone");
  }
  if (options->batch.file) {
    check_records(options->batch);
    if (options->system && !options->chat &&
        format_of(options->batch) != RecordFormat::kJsonLines) {
      usage_error("expected --system with --chat or --format jsonl, found neither");
    }
    if (options->echo) usage_error("expected --echo or --batch, found both");
  } else if (has_format_options(options->batch)) {
    usage_error("expected --format and columns with --batch, found none");
  }
  check_choice(*options);
}

// What the user says, else what the model's generation_config.json recommends, else our own.
Sampling sampling_of(const GenerateOptions& options, const ModelInfo& info) {
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

}  // namespace tessera::cli
