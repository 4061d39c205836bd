#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tessera/export.h"
#include "tessera/model.h"
#include "tessera/status.h"

// Generation: one request with generate(), or any number of them at a time with an Engine.
namespace tessera {

struct EngineState;  // the library's own

// How the next token is drawn, as transformers defines it. Applied in the order of the members but
// repetition_penalty, which comes first: temperature, top_k, top_p, min_p. Top_k 0, top_p 1, min_p
// 0 and repetition_penalty 1 change nothing.
struct Sampling {
  // Divides the logits; 0 takes the largest one (greedy) and leaves only the penalty in force.
  float temperature = 0;
  int32_t top_k = 0;  // the so many most probable tokens stay
  float top_p = 1;    // the fewest most probable tokens that make up this share stay
  float min_p = 0;    // tokens at least so probable, relative to the most probable one, stay
  // For every token of the prompt and the output: a logit above 0 is divided by it, another one
  // multiplied.
  float repetition_penalty = 1;
  uint64_t seed = 0;
};

// A prompt to continue; greedily, unless sampling or beams say otherwise.
struct Request {
  std::vector<int32_t> prompt_ids = {};  // at least one; Model::tokenize makes them of a text
  int32_t max_new_tokens = 128;
  Sampling sampling = {};
  // How many continuations of the prompt, 1 to 1024; the prompt runs once and its cache is shared.
  // Drawn ones: the i-th, from 0, draws with seed + i and is what a request of its own with that
  // seed gives. With beams: the best so many. A greedy request has one.
  int32_t sequences = 1;
  // More than 1: a deterministic beam search, as transformers' generate with so many num_beams,
  // do_sample false, early_stopping false and length_penalty 1. Sampling must have temperature 0;
  // its repetition_penalty works on log-probabilities. At most 1024.
  int32_t beams = 1;
  // The model's own end tokens are added by submit unless ignore_end is set.
  std::vector<int32_t> stop_ids = {};
  // A continuation ends when its text contains one of these; its text stops before it, its tokens
  // do not. Needs a tokenizer, and no beams.
  std::vector<std::string> stop_strings = {};
  bool ignore_end = false;
  bool log_probabilities = false;  // fill Event::log_probability
};

enum class FinishReason {
  kNone,        // it goes on
  kEndToken,    // the model's own or one of stop_ids, which is the last token
  kStopString,  // one of stop_strings
  kLength,      // max_new_tokens
  kCancelled,
  kFailed,  // a step gave the error
};

// One token of one continuation of a request. A beam search gives all of its events at once when it
// is over: one continuation after the other, best first; fewer than asked for when the vocabulary
// cannot form as many.
struct Event {
  int64_t request = 0;   // the number that submit gave
  int32_t sequence = 0;  // which continuation, from 0
  int32_t token = 0;
  // Where the request asks for it: the natural logarithm of the token's share in the softmax of the
  // model's own logits, before penalty, temperature and filters.
  std::optional<float> log_probability;
  // What became certain with this token: empty inside a character, where a stop string may have
  // begun, or without a tokenizer.
  std::string text;
  // The last event of a sequence says why it ended; kCancelled and kFailed come without a token.
  FinishReason finished = FinishReason::kNone;
};

// Advances any number of requests together, a token each a step, which takes little longer than one
// alone. Requests may be submitted and cancelled between steps; one thread at a time. The engine
// keeps its model alive and is alone in using it while a step runs.
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
  };
  // kUnsupported for a model without a causal language-model head.
  static Result<std::unique_ptr<Engine>> create(std::shared_ptr<Model> model,
                                                const Options& options);
  ~Engine();

  // Checks prompt and length against the model's context and the cache up front; gives the
  // request's number. The last token is not run, so that prompt + max_new_tokens - 1 positions must
  // fit. kOutOfMemory: not while the requests before it hold the cache; anything else: never.
  Result<int64_t> submit(Request request);
  // Runs the prompts of new requests and one token of every other, all continuations and beams
  // together; gives a token for each, but of a beam search only its result. A request that cannot
  // go on gives an error; the next step gives its last events and those that the others had made.
  Result<std::vector<Event>> step();
  // The next step ends the request with kCancelled; unknown numbers are nothing to do.
  void cancel(int64_t request);
  bool idle() const;  // nothing left to step
  int64_t cache_bytes_in_use() const;

 private:
  explicit Engine(std::unique_ptr<EngineState> state);
  std::unique_ptr<EngineState> state_;
};

// One continuation.
struct Generation {
  std::vector<int32_t> ids;
  std::vector<float> log_probabilities;  // of the ids, where asked for
  std::string text;
  FinishReason finished = FinishReason::kNone;
  double prompt_seconds = 0;  // until the prompt had run and the first token was chosen
  double total_seconds = 0;   // until the last one
};

// Submits one request and steps until it ends. on_token sees every token as it comes until it
// returns false to stop. generate is for requests of one sequence, generate_sequences gives all of
// a request in their order.
TESSERA_API Result<Generation> generate(std::shared_ptr<Model> model, Request request,
                                        const std::function<bool(const Event&)>& on_token = {});
TESSERA_API Result<std::vector<Generation>> generate_sequences(
    std::shared_ptr<Model> model, Request request,
    const std::function<bool(const Event&)>& on_token = {});

}  // namespace tessera
