#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/status.h"
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
  std::vector<PageTable> tables;  // [layer]

  int32_t waiting() const { return static_cast<int32_t>(ids.size()) - done; }
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
  Running(int64_t number, Request request, int32_t layers,
          std::shared_ptr<const Tokenizer> tokenizer);

  int64_t number() const { return number_; }
  const Request& request() const { return request_; }
  // What waits to be run; none when the request is over.
  std::vector<Sequence>& sequences() { return sequences_; }
  int32_t waiting() const;

  // Takes the logits [sequences, width] behind each sequence and adds the events that follow.
  Status advance(std::span<const float> logits, CachePool& pool, std::vector<Event>& events);
  // Adds the last event of every continuation that is not finished.
  void add_last(FinishReason reason, std::vector<Event>& events) const;
  void release(CachePool& pool);

  bool cancelled = false;
  bool failed = false;

 private:
  // A continuation that is drawn token by token.
  struct Output {
    int32_t index;
    Sampler sampler;
    OutputText text;
    int32_t tokens = 0;
    bool finished = false;
  };
  void start_outputs(CachePool& pool);
  Result<Event> draw(size_t i, std::span<const float> logits);
  void drop_finished(CachePool& pool);
  Status advance_beams(std::span<const float> logits, CachePool& pool, std::vector<Event>& events);
  void add_results(std::vector<Event>& events) const;
  void fork(const std::vector<int32_t>& parents, CachePool& pool);

  int64_t number_;
  Request request_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::vector<Sequence> sequences_;
  std::vector<Output> outputs_;  // one a sequence once the prompt has run; none in a beam search
  std::unique_ptr<BeamSearch> search_;  // null without beams
};

}  // namespace tessera
