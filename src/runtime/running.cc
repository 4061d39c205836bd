#include "runtime/running.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "base/guarded.h"

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

void Sequence::prune(const PruningSchedule& schedule, const ScheduledModel& model) {
  cascade = TokenCascade(schedule, model, CascadeKind::kPrompt);
  if (!schedule.keeps_all_heads()) heads = HeadCascade(schedule, model, schedule.prefill);
}

int32_t Sequence::keys_with(int32_t rows, size_t layer) const {
  const int32_t keys = tables[layer].tokens() + rows;
  return cascade ? std::min(keys, cascade->lengths()[layer]) : keys;
}

TokenCascade* SequencePart::begin() const {
  if (!sequence->cascade) return nullptr;
  sequence->cascade->begin(sequence->done,
                           {sequence->ids.data() + sequence->done, static_cast<size_t>(rows)});
  if (sequence->heads) sequence->heads->begin(sequence->done, rows);
  return &*sequence->cascade;
}

Running::Running(int64_t number, Request request, const ScheduledModel& model,
                 std::shared_ptr<const Tokenizer> tokenizer, RequestPruning pruning)
    : number_(number),
      request_(std::move(request)),
      tokenizer_(std::move(tokenizer)),
      pruning_(std::move(pruning)) {
  sequences_.push_back({.ids = request_.prompt_ids,
                        .tables = std::vector<PageTable>(static_cast<size_t>(model.layers))});
  if (is_pruned()) sequences_.front().prune(*pruning_.schedule, model);
  if (request_.beams == 1) return;
  search_ = std::make_unique<BeamSearch>(
      BeamSearch::Options{.beams = request_.beams,
                          .max_new_tokens = request_.max_new_tokens,
                          .repetition_penalty = request_.sampling.repetition_penalty,
                          .length_penalty = request_.length_penalty,
                          .early_stopping = request_.early_stopping,
                          .end_ids = request_.stop_ids,
                          .rules = ActiveRules(request_)});
}

int32_t Running::waiting() const {
  int32_t rows = 0;
  for (const Sequence& sequence : sequences_) rows += sequence.waiting();
  return rows;
}

bool Running::holds_pages() const { return !sequences_.empty() && sequences_.front().done > 0; }

bool Running::is_decoding() const {
  const auto decodes = [](const Sequence& each) { return each.done > 0 && each.waiting() == 1; };
  return branches_.empty() && std::all_of(sequences_.begin(), sequences_.end(), decodes);
}

bool Running::is_in_prompt() const {
  return !sequences_.empty() &&
         sequences_.front().done < static_cast<int32_t>(request_.prompt_ids.size());
}

int32_t Running::next_rows() const {
  if (!has_steps()) return waiting();
  if (is_in_prompt())
    return static_cast<int32_t>(request_.prompt_ids.size()) - sequences_.front().done;
  const auto more_wait = [](const Sequence& each) { return each.waiting() > 1; };
  const auto behind = std::count_if(sequences_.begin(), sequences_.end(), more_wait);
  return behind > 0 ? static_cast<int32_t>(behind) : waiting();
}

SequencePart Running::part(Sequence& sequence, int32_t rows, bool is_read) const {
  return {.sequence = &sequence,
          .rows = rows,
          .prompt_tokens = static_cast<int32_t>(request_.prompt_ids.size()),
          .is_read = is_read,
          .rules = pruning_.rules != nullptr ? pruning_.rules->data() : nullptr};
}

std::vector<SequencePart> Running::parts(int32_t rows) {
  std::vector<SequencePart> parts;
  const bool is_read = draws_after(rows);
  if (has_steps() && rows < waiting() && !is_in_prompt()) {
    for (Sequence& sequence : sequences_)
      if (sequence.waiting() > 1) parts.push_back(part(sequence, 1, is_read));
    return parts;
  }
  const int32_t kept = rows < waiting() ? 1 : 0;
  for (Sequence& sequence : sequences_) {
    const int32_t count = std::min(rows, sequence.waiting() - kept);
    if (count > 0) parts.push_back(part(sequence, count, is_read));
    rows -= count;
  }
  return parts;
}

int64_t Running::pages_needed(int32_t rows, const CachePool& pool) {
  int64_t pages = 0;
  // Parts that write to a page, which one of its tables may keep.
  std::map<std::byte*, int32_t> writers;
  // Without pruning one layer is like another.
  const size_t all = sequences_.front().tables.size(), layers = is_pruned() ? all : 1;
  for (const SequencePart& part : parts(rows)) {
    const TokenCascade* cascade = part.begin();
    for (size_t layer = 0; layer < layers; ++layer) {
      const PageTable& table = part.sequence->tables[layer];
      const auto held = static_cast<int32_t>(table.pages.size());
      pages += std::max(0, pages_for(part.sequence->keys_with(part.rows, layer)) - held);
      // Only sequences of one request share pages.
      if (sequences_.size() == 1) continue;
      if (cascade != nullptr && cascade->may_drop(static_cast<int32_t>(layer))) {
        for (std::byte* page : table.pages) ++writers[page];
      } else if (table.tokens() % kPageTokens != 0) {
        ++writers[table.pages[static_cast<size_t>(table.tokens() / kPageTokens)]];
      }
    }
  }
  for (const auto& [page, count] : writers)
    pages += count - (count == pool.tables_of(page) ? 1 : 0);
  return pages * static_cast<int64_t>(all / layers);
}

int64_t Running::pages_held() const {
  std::set<std::byte*> pages;
  for (const Sequence& sequence : sequences_) {
    for (const PageTable& table : sequence.tables)
      pages.insert(table.pages.begin(), table.pages.end());
  }
  return static_cast<int64_t>(pages.size());
}

size_t Running::prepare(std::span<const float> logits, CachePool& pool) {
  logits_ = logits;
  if (search_ != nullptr) return 0;
  first_draw_ = outputs_.empty();
  if (first_draw_) start_outputs(pool);
  return outputs_.size();
}

void Running::draw(size_t i, SamplerMemory& memory) {
  Output& output = outputs_[i];
  const size_t width = first_draw_ ? logits_.size() : logits_.size() / outputs_.size();
  const std::span<const float> logits = logits_.subspan(first_draw_ ? 0 : i * width, width);
  output.drawn = guarded("sampling", [&]() -> Result<int32_t> {
    TESSERA_ASSIGN_OR_RETURN(const int32_t token,
                             output.sampler.next(logits, sequences_[i].ids, &memory));
    if (request_.log_probabilities) {
      output.log_probability =
          static_cast<float>(logits[static_cast<size_t>(token)] - log_sum_exp(logits));
    }
    return token;
  });
}

Status Running::advance(CachePool& pool, std::vector<Event>& events) {
  if (search_ != nullptr) return advance_beams(pool, events);
  for (const Output& output : outputs_) TESSERA_RETURN_IF_ERROR(output.drawn.status());
  for (size_t i = 0; i < outputs_.size(); ++i)
    events.push_back(take_drawn(outputs_[i], sequences_[i].ids));
  drop_finished(pool);
  return {};
}

// All continuations begin behind the same prompt.
void Running::start_outputs(CachePool& pool) {
  fork(std::vector<int32_t>(static_cast<size_t>(request_.sequences), 0), pool);
  for (int32_t index = 0; index < request_.sequences; ++index) {
    Sampling sampling = request_.sampling;
    sampling.seed += static_cast<uint64_t>(index);
    outputs_.push_back({.index = index,
                        .sampler = Sampler(sampling, ActiveRules(request_)),
                        .text = OutputText(tokenizer_, request_)});
  }
}

Event Running::take_drawn(Output& output, std::vector<int32_t>& ids) {
  Event event{.request = number_,
              .sequence = output.index,
              .token = *output.drawn,
              .log_probability = output.log_probability};
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

Status Running::advance_beams(CachePool& pool, std::vector<Event>& events) {
  const size_t width = logits_.size() / sequences_.size();
  std::vector<BeamInput> inputs;
  for (size_t i = 0; i < sequences_.size(); ++i) {
    inputs.push_back({logits_.subspan(i * width, width), sequences_[i].ids});
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
    Sequence& copy = next.emplace_back(Sequence{.ids = old.ids,
                                                .done = old.done,
                                                .tables = {},
                                                .cascade = old.cascade,
                                                .heads = old.heads});
    if (copy.cascade) copy.cascade->set_number(-1);
    copy.tables.reserve(old.tables.size());
    for (const PageTable& table : old.tables) copy.tables.push_back(pool.share(table));
  }
  release(pool);
  sequences_ = std::move(next);
}

void Running::add_last(const Event& last, std::vector<Event>& events) const {
  const auto add = [&](int32_t index) { events.emplace_back(last).sequence = index; };
  for (const Output& output : outputs_)
    if (!output.finished) add(output.index);
  for (int32_t i = 0; outputs_.empty() && i < request_.sequences; ++i) add(i);
}

void Running::preempt(CachePool& pool) {
  if (branches_.empty() && sequences_.size() > 1) {
    for (const Sequence& sequence : sequences_) branches_.push_back(sequence.ids);
    // Their last tokens are not common: each branch has something to run.
    size_t common = branches_.front().size() - 1;
    for (const std::vector<int32_t>& ids : branches_) {
      const auto end = ids.begin() + static_cast<std::ptrdiff_t>(common);
      common = static_cast<size_t>(
          std::mismatch(ids.begin(), end, branches_.front().begin()).first - ids.begin());
    }
    sequences_.front().ids.resize(common);
  }
  while (sequences_.size() > 1) {
    for (PageTable& table : sequences_.back().tables) pool.release(table);
    sequences_.pop_back();
  }
  sequences_.front().done = 0;
  for (PageTable& table : sequences_.front().tables) pool.release(table);
}

void Running::settle(CachePool& pool) {
  if (branches_.empty() || sequences_.front().waiting() > 0) return;
  fork(std::vector<int32_t>(branches_.size(), 0), pool);
  for (size_t i = 0; i < branches_.size(); ++i) sequences_[i].ids = std::move(branches_[i]);
  branches_.clear();
}

void Running::release(CachePool& pool) {
  for (Sequence& sequence : sequences_) {
    for (PageTable& table : sequence.tables) pool.release(table);
  }
  sequences_.clear();
}

}  // namespace tessera
