#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "attention/method.h"
#include "base/status.h"
#include "pruning/cascade.h"
#include "pruning/heads.h"
#include "runtime/beam_search.h"
#include "runtime/cache_pool.h"
#include "runtime/sampling.h"
#include "runtime/stop_strings.h"
#include "tessera/engine.h"
#include "tokenizer/tokenizer.h"

namespace tessera {

// Ids of which the first `done` are in the cache.
struct Sequence {
  std::vector<int32_t> ids;
  int32_t done = 0;
  std::vector<PageTable> tables;             // [layer]
  std::optional<TokenCascade> cascade = {};  // nothing: every token stays
  std::optional<HeadCascade> heads = {};     // nothing: every head does; never without the other

  int32_t waiting() const { return static_cast<int32_t>(ids.size()) - done; }
  // Tokens and heads leave from now on. The schedule stays where it is.
  void prune(const PruningSchedule& schedule, const ScheduledModel& model);
  // The keys that a layer's table has at most when so many more rows have run, a step that a
  // cascade has begun.
  int32_t keys_with(int32_t rows, size_t layer) const;
};

// Tokens of a sequence that run next.
struct SequencePart {
  Sequence* sequence = nullptr;
  int32_t rows = 0;
  int32_t prompt_tokens = 0;  // of the sequence
  bool is_read = false;       // the logits behind its last row are wanted
  // [layers]: how its generated tokens read; null: as the model's do.
  const ReadRules* rules = nullptr;

  // Begins the step of the sequence's cascade; null: it has none.
  TokenCascade* begin() const;
};

// What a request's schedule, or in its place the model's, makes of it.
struct RequestPruning {
  std::shared_ptr<const PruningSchedule> schedule = {};      // null: nothing leaves
  std::shared_ptr<const std::vector<ReadRules>> rules = {};  // [layers]; null: the model's
  // Generated tokens read less than a prompt's, so that what was generated runs again token by
  // token.
  bool selects = false;
};

// The text of one continuation as it becomes certain.
class OutputText {
 public:
  // tokenizer may be null: no text then.
  OutputText(std::shared_ptr<const Tokenizer> tokenizer, const Request& request);
  // Fills the text of an event whose token and end are known, and ends it where the text holds a
  // stop string.
  void write(Event& event);

 private:
  std::unique_ptr<StreamDecoder> decoder_;
  StopStrings stops_;
};

// A checked request on its way: the prompt alone at first, then its continuations or beams, which
// share the prompt's pages of the cache. release() must come before the end.
class Running {
 public:
  Running(int64_t number, Request request, const ScheduledModel& model,
          std::shared_ptr<const Tokenizer> tokenizer, RequestPruning pruning);

  const Request& request() const { return request_; }
  // None when the request is over.
  std::vector<Sequence>& sequences() { return sequences_; }
  // It has begun; a window may have given all pages back again.
  bool holds_pages() const;
  // One token behind each sequence waits, and nothing else.
  bool is_decoding() const;
  int32_t waiting() const;
  bool is_pruned() const { return pruning_.schedule != nullptr; }
  // How many rows may run next: all that wait; but with a schedule the prompt, which has to run
  // whole where tokens or heads leave, then a token of each sequence, whether they run for the
  // first time or anew.
  int32_t next_rows() const;

  // The next `rows` tokens: next_rows() or, without pruning, fewer, but never the last of a
  // sequence, since the sequences are drawn together.
  std::vector<SequencePart> parts(int32_t rows);
  // Whether the logits behind the sequences are wanted once so many tokens have run.
  bool draws_after(int32_t rows) const { return branches_.empty() && rows == waiting(); }
  // New pages that they take.
  int64_t pages_needed(int32_t rows, const CachePool& pool);
  int64_t pages_held() const;

  // Takes the logits [sequences, width] behind each sequence; how many draws they are for. None for
  // beams, which advance() searches.
  size_t prepare(std::span<const float> logits, CachePool& pool);
  // Draw i of those. Different ones may run at the same time, each with memory of its own.
  void draw(size_t i, SamplerMemory& memory);
  // Adds the events that follow. An error: the request cannot go on.
  Status advance(CachePool& pool, std::vector<Event>& events);
  // Adds the last event of every continuation that is not finished.
  void add_last(const Event& last, std::vector<Event>& events) const;

  // Gives the pages back; everything up to the last draw is to be run again. What all sequences
  // begin with will be run, and held, once.
  void preempt(CachePool& pool);
  // To be called when parts have run.
  void settle(CachePool& pool);
  void release(CachePool& pool);

 private:
  // What is generated runs token by token whenever it runs.
  bool has_steps() const { return is_pruned() || pruning_.selects; }
  bool is_in_prompt() const;
  SequencePart part(Sequence& sequence, int32_t rows, bool is_read) const;

  // A continuation that is drawn token by token.
  struct Output {
    int32_t index;
    Sampler sampler;
    OutputText text;
    int32_t tokens = 0;
    bool finished = false;
    Result<int32_t> drawn = 0;
    std::optional<float> log_probability = {};
  };
  void start_outputs(CachePool& pool);
  Event take_drawn(Output& output, std::vector<int32_t>& ids);
  void drop_finished(CachePool& pool);
  Status advance_beams(CachePool& pool, std::vector<Event>& events);
  void add_results(std::vector<Event>& events) const;
  void fork(const std::vector<int32_t>& parents, CachePool& pool);

  int64_t number_;
  Request request_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  RequestPruning pruning_;
  std::vector<Sequence> sequences_;
  // While what they begin with is run again, as the only sequence: the ids of the sequences.
  std::vector<std::vector<int32_t>> branches_;
  std::vector<Output> outputs_;  // one a sequence once the prompt has run; none in a beam search
  std::unique_ptr<BeamSearch> search_;  // null without beams
  std::span<const float> logits_;       // of prepare(), until advance()
  bool first_draw_ = false;
};

}  // namespace tessera
