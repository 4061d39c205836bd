#include <algorithm>
#include <utility>

#include "base/guarded.h"
#include "runtime/engine_state.h"
#include "runtime/sequence_pass.h"
#include "runtime/whole_sequences.h"

// What an engine does in a step. The scheduler says who runs; here it runs.
namespace tessera {

std::vector<Event> EngineState::step() {
  events_.clear();
  drop_cancelled(inbox.take(jobs));
  const StepPlan planned = plan();
  std::vector<Turn> generating, encoding;
  size_t i = 0;
  for (Job& job : jobs) {
    const int32_t rows = planned.rows[i++];
    if (rows > 0) (job.running() != nullptr ? generating : encoding).push_back({&job, rows});
  }
  generate(generating);
  if (!encoding.empty()) encode(encoding);
  std::erase_if(jobs, [](const Job& job) { return job.is_over; });
  return std::exchange(events_, {});
}

void EngineState::end(Job& job, FinishReason reason, const Status& status) {
  const Event last{.request = job.number, .finished = reason, .status = status};
  if (Running* running = job.running()) {
    running->add_last(last, events_);
    running->release(pool);
  } else {
    events_.push_back(last);
  }
  job.is_over = true;
}

void EngineState::drop_cancelled(const std::set<int64_t>& numbers) {
  for (Job& job : jobs) {
    if (numbers.contains(job.number)) end(job, FinishReason::kCancelled, {});
  }
  std::erase_if(jobs, [](const Job& job) { return job.is_over; });
}

// Asks the scheduler, and takes the pages of those whom it preempts.
StepPlan EngineState::plan() {
  std::vector<Candidate> candidates;
  std::vector<Running*> running;  // null: an encoding
  for (Job& job : jobs) {
    Running* each = job.running();
    running.push_back(each);
    if (each == nullptr) {
      const auto rows = static_cast<int32_t>(job.encoding()->sequence.ids.size());
      candidates.push_back({.stage = Stage::kEncoding, .rows = rows});
      continue;
    }
    candidates.push_back({.stage = each->is_decoding() ? Stage::kDecoding : Stage::kPrompt,
                          .rows = each->next_rows(),
                          .sequences = static_cast<int32_t>(each->sequences().size()),
                          .holds_pages = each->holds_pages(),
                          .is_whole = each->is_pruned()});
  }
  const PageCounts pages{.free = pool.free_pages(),
                         .a_sequence = architecture().layer_count(),
                         .needed =
                             [&](size_t i, int32_t rows) {
                               return candidates[i].holds_pages || running[i]->is_pruned()
                                          ? running[i]->pages_needed(rows, pool)
                                          : pages_of(rows);
                             },
                         .held = [&](size_t i) { return running[i]->pages_held(); }};
  StepPlan planned = plan_step(candidates, budget, pages);
  for (const size_t i : planned.preempted) running[i]->preempt(pool);
  return planned;
}

// In passes of at most kPassRows, but for a request of more sequences.
void EngineState::generate(std::span<const Turn> turns) {
  std::vector<int64_t> rows;
  for (const Turn& turn : turns) rows.push_back(turn.rows);
  for (size_t first = 0; first < turns.size();) {
    const size_t count = sequences_in_pass(std::span(rows).subspan(first), kPassRows);
    run_or_fail(turns.subspan(first, count));
    first += count;
  }
}

// A pass that fails is tried again for each request alone, so that it is known whose fault it is.
void EngineState::run_or_fail(std::span<const Turn> turns) {
  const Status status = run_together(turns);
  if (status.ok()) return;
  if (turns.size() == 1) return end(*turns.front().job, FinishReason::kFailed, status);
  for (size_t i = 0; i < turns.size(); ++i) run_or_fail(turns.subspan(i, 1));
}

// An error: nothing has run. Who then cannot go on ends by itself.
Status EngineState::run_together(std::span<const Turn> turns) {
  const std::lock_guard<std::mutex> in_turn(state_of(*model).in_use);
  ForwardOutput output;
  const Status status = guarded("step", [&] { return forward_parts(turns, output); });
  if (!status.ok()) {
    for (const Turn& turn : turns) {
      for (Sequence& sequence : turn.job->running()->sequences()) forget_unrun(sequence);
    }
    return status;
  }
  const Status advanced = guarded("step", [&] { return advance(turns, output); });
  for (const Turn& turn : turns) {
    if (!advanced.ok() && !turn.job->is_over) end(*turn.job, FinishReason::kFailed, advanced);
  }
  return {};
}

// Runs the next rows of each turn through the model, with the logits of those that draw.
Status EngineState::forward_parts(std::span<const Turn> turns, ForwardOutput& output) {
  std::vector<SequencePart> parts;
  for (const Turn& turn : turns) {
    const std::vector<SequencePart> of_turn = turn.job->running()->parts(turn.rows);
    parts.insert(parts.end(), of_turn.begin(), of_turn.end());
  }
  return run_parts(state_of(*model), pool, forward, parts, output);
}

// Lets each request go on with its logits. Draws are dealt over the team: each has a generator and
// logits of its own, so that who draws changes nothing.
Status EngineState::advance(std::span<const Turn> turns, const ForwardOutput& output) {
  struct Draw {
    Running* running;
    size_t index;
  };
  std::vector<Draw> draws;
  std::vector<Job*> drawing;
  std::span<const float> logits = output.logits;
  for (const Turn& turn : turns) {
    Running& running = *turn.job->running();
    if (running.waiting() > 0 || !running.draws_after(0)) {
      running.settle(pool);
      continue;
    }
    const size_t size = running.sequences().size() * static_cast<size_t>(output.width);
    const size_t count = running.prepare(logits.first(size), pool);
    logits = logits.subspan(size);
    for (size_t i = 0; i < count; ++i) draws.push_back({&running, i});
    drawing.push_back(turn.job);
  }
  const auto draw = [&](Range range, SamplerMemory& memory) {
    for (int64_t i = range.begin; i < range.end; ++i)
      draws[static_cast<size_t>(i)].running->draw(draws[static_cast<size_t>(i)].index, memory);
  };
  const auto count = static_cast<int64_t>(draws.size());
  if (count > 1) {
    state_of(*model).team->run([&](Team::Member& member) {
      draw(member.slice(count), samplers_[static_cast<size_t>(member.rank())]);
    });
  } else {
    draw({0, count}, samplers_.front());
  }
  for (Job* job : drawing) {
    const Status status = job->running()->advance(pool, events_);
    if (!status.ok()) end(*job, FinishReason::kFailed, status);
    job->is_over = job->running()->sequences().empty();
  }
  return {};
}

void EngineState::encode(std::span<const Turn> turns) {
  std::vector<const EncodeRequest*> requests;
  for (const Turn& turn : turns) requests.push_back(turn.job->encoding());
  std::vector<std::vector<float>> values;
  const Status status = guarded("step", [&]() -> Status {
    const std::lock_guard<std::mutex> in_turn(state_of(*model).in_use);
    return encode_pass(state_of(*model), forward, requests, values);
  });
  if (!status.ok() && turns.size() > 1) {
    for (size_t i = 0; i < turns.size(); ++i) encode(turns.subspan(i, 1));
    return;
  }
  for (size_t i = 0; i < turns.size(); ++i) {
    Job& job = *turns[i].job;
    Status ended = status;
    if (ended.ok()) ended = check_finite(values[i], "values");
    if (!ended.ok()) {
      end(job, FinishReason::kFailed, ended);
      continue;
    }
    events_.push_back({.request = job.number,
                       .finished = FinishReason::kEncoded,
                       .values = std::move(values[i])});
    job.is_over = true;
  }
}

}  // namespace tessera
