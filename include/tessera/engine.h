#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tessera/export.h"
#include "tessera/model.h"
#include "tessera/names.h"
#include "tessera/status.h"

// Generation: one request with generate(), or any number of them at a time with an Engine, which
// runs encodings too.
namespace tessera {

struct EngineState;  // the library's own

// How the next token is drawn, as transformers defines it. Applied in the order of the members but
// repetition_penalty, which comes first: temperature, top_k, top_p, min_p. Top_k 0, top_p 1, min_p
// 0 and repetition_penalty 1 change nothing.
struct Sampling {
  // Divides the logits; 0 takes the largest one (greedy) and leaves only the penalty in force.
  float temperature = 0;
  int32_t top_k = 0;  // the so many most probable tokens stay
  float top_p = 1;    // the fewest most probable tokens that make up this share stay, at least one
  float min_p = 0;    // tokens at least so probable, relative to the most probable one, stay
  // For every token of the prompt and the output: a logit above 0 is divided by it, another one
  // multiplied.
  float repetition_penalty = 1;
  uint64_t seed = 0;
};

// Which tokens may come next, as transformers defines it: beside the score of every other one is
// -infinity. Applied behind the repetition penalty, to beams as well, in the order of the members.
struct TokenRules {
  // No run of so many tokens, of prompt and output, occurs twice; 0: any may.
  int32_t no_repeat_ngram_size = 0;
  // None of these lists of tokens is completed. A list that is one end token alone has no effect.
  std::vector<std::vector<int32_t>> bad_words = {};
  int32_t min_new_tokens = 0;                  // before that no stop_ids
  std::optional<int32_t> forced_first = {};    // the first new token, behind a prompt of one token
  std::vector<int32_t> forced_last = {};       // the token at max_new_tokens is one of these
  std::vector<int32_t> suppressed = {};        // never
  std::vector<int32_t> suppressed_first = {};  // not as the first new token
};

// When a beam search is over once as many beams are finished as there are: kHeuristic where the
// best running one, by its length so far, is no better than the worst of them; kAtOnce; kNever as
// kHeuristic by the longest length that it can reach, where length_penalty is above 0.
enum class EarlyStopping { kHeuristic, kAtOnce, kNever };
constexpr auto names_of(EarlyStopping) { return enum_names("heuristic", "at_once", "never"); }

// A prompt to continue; greedily, unless sampling or beams say otherwise.
struct Request {
  std::vector<int32_t> prompt_ids = {};  // at least one; Model::tokenize makes them of a text
  int32_t max_new_tokens = 128;
  Sampling sampling = {};
  // How many continuations of the prompt, 1 to 1024; the prompt runs once and its cache is shared.
  // Drawn ones: the i-th, from 0, draws with seed + i and is what a request of its own with that
  // seed gives. With beams: the best so many. A greedy request has one.
  int32_t sequences = 1;
  // More than 1: a deterministic beam search, as transformers' generate with so many num_beams and
  // do_sample false. Sampling must have temperature 0; its repetition_penalty works on
  // log-probabilities. At most 1024.
  int32_t beams = 1;
  // A finished beam's score is the sum of its log-probabilities over its length to this power.
  float length_penalty = 1;
  EarlyStopping early_stopping = EarlyStopping::kHeuristic;
  // What leaves while prompt and continuation run, as LoadOptions::pruning is written, all of it in
  // place of the model's: what it does not name stays and is read. Empty: the model's; "none":
  // nothing leaves. Where tokens or heads do, a prompt runs in one pass. Bits of keys and values
  // must be those that the model was loaded with, as all requests share its cache: kUnsupported.
  std::string pruning = {};
  TokenRules rules = {};
  // The model's own end tokens are added by submit unless ignore_end is set.
  std::vector<int32_t> stop_ids = {};
  // A continuation ends when its text contains one of these; its text stops before it, its tokens
  // do not. Needs a tokenizer, and no beams.
  std::vector<std::string> stop_strings = {};
  bool ignore_end = false;
  bool log_probabilities = false;  // fill Event::log_probability
};

enum class EncodeOutput {
  kEmbedding,  // as Model::embed gives it, of a sequence cut as there
  kHead,       // the logits of the model's head, as Model::forward gives them; of a head for
               // questions and answers [tokens, 2]: start and end
};
constexpr auto names_of(EncodeOutput) { return enum_names("embedding", "head"); }

// A whole sequence to run once.
struct EncodeRequest {
  TokenSequence sequence = {};
  EncodeOutput output = EncodeOutput::kEmbedding;
};

enum class FinishReason {
  kNone,        // it goes on
  kEndToken,    // the model's own or one of stop_ids, which is the last token
  kStopString,  // one of stop_strings
  kLength,      // max_new_tokens
  kCancelled,
  kFailed,   // Event::status says why
  kEncoded,  // Event::values is the result
};
constexpr auto names_of(FinishReason) {
  return enum_names("none", "end", "stop_string", "length", "cancelled", "failed", "encoded");
}

// One token of one continuation of a request, or the result of an encoding. A beam search gives all
// of its events at once when it is over: one continuation after the other, best first; fewer than
// asked for when the vocabulary cannot form as many.
struct Event {
  int64_t request = 0;   // the number that submit gave
  int32_t sequence = 0;  // which continuation, from 0
  int32_t token = 0;
  // Where the request asks for it: the natural logarithm of the token's share in the softmax of the
  // model's own logits, before penalty, temperature and filters.
  std::optional<float> log_probability = {};
  // What became certain with this token: empty inside a character, where a stop string may have
  // begun, or without a tokenizer.
  std::string text = {};
  // The last event of a sequence says why it ended; kCancelled, kFailed and kEncoded come without a
  // token.
  FinishReason finished = FinishReason::kNone;
  Status status = {};              // of kFailed
  std::vector<float> values = {};  // of kEncoded
};

// Advances any number of requests together, a token each a step, which takes little longer than one
// alone. Requests wait in a queue until there is room for them. Any thread may submit and cancel at
// any time; one thread at a time steps and asks everything else. The engine keeps its model alive.
// Several engines, and the functions of Model, may use one model from threads of their own: their
// passes take turns.
//   while (!engine->idle()) {
//     tessera::Result<std::vector<tessera::Event>> events = engine->step();
//     if (!events.ok()) return events.status();
//     for (const tessera::Event& event : *events) text[event.request] += event.text;
//   }
class TESSERA_API Engine {
 public:
  struct Options {
    // Memory for keys and values; 0 means what the machine has free, less a reserve.
    int64_t cache_bytes = 0;
    // Tokens of a step while somebody waits for the next one: those that are generated come first,
    // then a piece of the oldest prompt, which so holds nobody up. Fewer make steps shorter and
    // prompts slower; where nobody waits for tokens, kBatchStepTokens is faster. 0 means
    // kStepTokens.
    int32_t step_tokens = 0;
    // Requests that are generated at a time; further ones wait. More gain nothing on a CPU, where
    // the products are bound by arithmetic then.
    int32_t running_requests = 64;
  };
  static constexpr int32_t kStepTokens = 32;
  // For batch jobs.
  static constexpr int32_t kBatchStepTokens = 2048;

  // kInvalidInput for negative options. A model without a causal language-model head encodes only.
  static Result<std::unique_ptr<Engine>> create(std::shared_ptr<Model> model,
                                                const Options& options);
  ~Engine();

  // Checks prompt and length against the model's context and the cache up front; gives the
  // request's number. The last token is not run, so that prompt + max_new_tokens - 1 positions must
  // fit into the cache, if need be alone: what can never run is kInvalidInput. kUnsupported: the
  // model has no causal language-model head.
  Result<int64_t> submit(Request request);
  Result<int64_t> submit(EncodeRequest request);
  // Runs one token of every request that generates, all continuations and beams together, and
  // prompts and encodings as Options::step_tokens allows, the oldest first. Gives the tokens
  // chosen; of a beam search only its result. Where the cache is full the youngest request gives
  // its part back and is computed again later, which changes its results by no more than rounding.
  // A request that cannot go on, or whose pass cannot run for lack of memory, ends with kFailed,
  // and the others go on. An error means that the engine itself cannot go on.
  Result<std::vector<Event>> step();
  // The next step to begin ends the request with kCancelled, wherever it is; unknown numbers are
  // nothing to do.
  void cancel(int64_t request);
  bool idle() const;  // nothing left to step
  int64_t cache_bytes_in_use() const;
  // Tokens that a request has to read before it can choose its next one; 0 when it generates or is
  // over.
  int64_t prompt_tokens_left(int64_t request) const;

 private:
  friend struct EngineAccess;  // the library's own
  explicit Engine(std::unique_ptr<EngineState> state);
  std::unique_ptr<EngineState> state_;
};

// One continuation.
struct Generation {
  std::vector<int32_t> ids = {};
  std::vector<float> log_probabilities = {};  // of the ids, where asked for
  std::string text = {};
  FinishReason finished = FinishReason::kNone;
  double prompt_seconds = 0;  // until the prompt had run and the first token was chosen
  double total_seconds = 0;   // until the last one
};

// Submits one request and steps until it ends; a request that fails gives its error. on_token sees
// every token as it comes until it returns false to stop. generate is for requests of one sequence,
// generate_sequences gives all of a request in their order.
TESSERA_API Result<Generation> generate(std::shared_ptr<Model> model, Request request,
                                        const std::function<bool(const Event&)>& on_token = {});
TESSERA_API Result<std::vector<Generation>> generate_sequences(
    std::shared_ptr<Model> model, Request request,
    const std::function<bool(const Event&)>& on_token = {});

}  // namespace tessera
