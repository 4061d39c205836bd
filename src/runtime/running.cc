#include "runtime/running.h"

#include <algorithm>
#include <utility>

namespace tessera {

OutputText::OutputText(std::shared_ptr<const Tokenizer> tokenizer, const Request& request)
    : stops_(request.stop_strings) {
  if (tokenizer == nullptr) return;
  decoder_ = std::make_unique<StreamDecoder>(std::move(tokenizer), DecodeSpecial::kSkip);
  decoder_->prime(request.prompt_ids);
}

void OutputText::write(Event& event) {
  if (decoder_ == nullptr) return;
  // An id beyond the tokenizer's vocabulary has no text.
  if (const auto text = decoder_->next(event.token); text.ok()) event.text = stops_.next(*text);
  if (event.finished != FinishReason::kNone) {
    if (const auto rest = decoder_->finish(); rest.ok()) event.text += stops_.next(*rest);
    event.text += stops_.finish();
  }
  if (stops_.found()) event.finished = FinishReason::kStopString;
}

Running::Running(int64_t number, Request request, int32_t layers,
                 std::shared_ptr<const Tokenizer> tokenizer)
    : number_(number), request_(std::move(request)), tokenizer_(std::move(tokenizer)) {
  sequences_.push_back(
      {.ids = request_.prompt_ids, .tables = std::vector<PageTable>(static_cast<size_t>(layers))});
  if (request_.beams == 1) return;
  search_ = std::make_unique<BeamSearch>(
      BeamSearch::Options{.beams = request_.beams,
                          .max_new_tokens = request_.max_new_tokens,
                          .repetition_penalty = request_.sampling.repetition_penalty,
                          .end_ids = request_.stop_ids});
}

int32_t Running::waiting() const {
  int32_t rows = 0;
  for (const Sequence& sequence : sequences_) rows += sequence.waiting();
  return rows;
}

Status Running::advance(std::span<const float> logits, CachePool& pool,
                        std::vector<Event>& events) {
  if (search_ != nullptr) return advance_beams(logits, pool, events);
  const size_t width = logits.size() / sequences_.size();
  const bool is_first = outputs_.empty();
  if (is_first) start_outputs(pool);
  for (size_t i = 0; i < outputs_.size(); ++i) {
    const size_t row = is_first ? 0 : i;
    TESSERA_ASSIGN_OR_RETURN(Event event, draw(i, logits.subspan(row * width, width)));
    events.push_back(std::move(event));
  }
  drop_finished(pool);
  return {};
}

// All continuations begin behind the same prompt.
void Running::start_outputs(CachePool& pool) {
  fork(std::vector<int32_t>(static_cast<size_t>(request_.sequences), 0), pool);
  const auto memory = std::make_shared<SamplerMemory>();
  for (int32_t index = 0; index < request_.sequences; ++index) {
    Sampling sampling = request_.sampling;
    sampling.seed += static_cast<uint64_t>(index);
    outputs_.push_back({.index = index,
                        .sampler = Sampler(sampling, memory),
                        .text = OutputText(tokenizer_, request_)});
  }
}

Result<Event> Running::draw(size_t i, std::span<const float> logits) {
  Output& output = outputs_[i];
  std::vector<int32_t>& ids = sequences_[i].ids;
  Event event{.request = number_, .sequence = output.index};
  TESSERA_ASSIGN_OR_RETURN(event.token, output.sampler.next(logits, ids));
  if (request_.log_probabilities) {
    event.log_probability =
        static_cast<float>(logits[static_cast<size_t>(event.token)] - log_sum_exp(logits));
  }
  ids.push_back(event.token);
  ++output.tokens;
  const auto& stops = request_.stop_ids;
  if (std::find(stops.begin(), stops.end(), event.token) != stops.end()) {
    event.finished = FinishReason::kEndToken;
  } else if (output.tokens >= request_.max_new_tokens) {
    event.finished = FinishReason::kLength;
  }
  output.text.write(event);
  output.finished = event.finished != FinishReason::kNone;
  return event;
}

void Running::drop_finished(CachePool& pool) {
  std::vector<int32_t> left;
  for (size_t i = 0; i < outputs_.size(); ++i) {
    if (!outputs_[i].finished) left.push_back(static_cast<int32_t>(i));
  }
  if (left.size() == outputs_.size()) return;
  fork(left, pool);
  std::erase_if(outputs_, [](const Output& output) { return output.finished; });
}

Status Running::advance_beams(std::span<const float> logits, CachePool& pool,
                              std::vector<Event>& events) {
  const size_t width = logits.size() / sequences_.size();
  std::vector<BeamInput> inputs;
  for (size_t i = 0; i < sequences_.size(); ++i) {
    inputs.push_back({logits.subspan(i * width, width), sequences_[i].ids});
  }
  TESSERA_ASSIGN_OR_RETURN(const std::vector<BeamStep> steps, search_->next(inputs));
  std::vector<int32_t> parents;
  for (const BeamStep& step : steps) parents.push_back(step.parent);
  fork(parents, pool);
  for (size_t i = 0; i < steps.size(); ++i) sequences_[i].ids.push_back(steps[i].token);
  if (steps.empty()) add_results(events);
  return {};
}

void Running::add_results(std::vector<Event>& events) const {
  const auto& results = search_->results();
  const size_t count = std::min(results.size(), static_cast<size_t>(request_.sequences));
  for (size_t rank = 0; rank < count; ++rank) {
    const BeamResult& result = results[rank];
    OutputText text(tokenizer_, request_);
    for (size_t i = 0; i < result.ids.size(); ++i) {
      Event event{
          .request = number_, .sequence = static_cast<int32_t>(rank), .token = result.ids[i]};
      if (request_.log_probabilities) event.log_probability = result.log_probabilities[i];
      if (i + 1 == result.ids.size()) event.finished = result.finished;
      text.write(event);
      events.push_back(std::move(event));
    }
  }
}

// Puts a copy of the parents' sequences, which shares their pages, in place of all.
void Running::fork(const std::vector<int32_t>& parents, CachePool& pool) {
  std::vector<int32_t> children(sequences_.size(), 0);
  for (int32_t parent : parents) ++children[static_cast<size_t>(parent)];
  std::vector<Sequence> next;
  next.reserve(parents.size());
  for (int32_t parent : parents) {
    Sequence& old = sequences_[static_cast<size_t>(parent)];
    if (--children[static_cast<size_t>(parent)] == 0) {
      next.push_back(std::move(old));
      continue;
    }
    Sequence& copy = next.emplace_back(Sequence{.ids = old.ids, .done = old.done, .tables = {}});
    copy.tables.reserve(old.tables.size());
    for (const PageTable& table : old.tables) copy.tables.push_back(pool.share(table));
  }
  release(pool);
  sequences_ = std::move(next);
}

void Running::add_last(FinishReason reason, std::vector<Event>& events) const {
  const auto add = [&](int32_t index) {
    events.push_back({.request = number_, .sequence = index, .finished = reason});
  };
  for (const Output& output : outputs_)
    if (!output.finished) add(output.index);
  for (int32_t i = 0; outputs_.empty() && i < request_.sequences; ++i) add(i);
}

void Running::release(CachePool& pool) {
  for (Sequence& sequence : sequences_) {
    for (PageTable& table : sequence.tables) pool.release(table);
  }
  sequences_.clear();
}

}  // namespace tessera
