#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <iterator>
#include <map>

#include "cli/inputs.h"
#include "cli/results.h"
#include "cli/run.h"

namespace tessera::cli {
namespace {

// Prompts that the engine has at a time, so that its queue is never empty.
constexpr size_t kSubmitted = 256;
// Finished ones wait for those before them; so many may.
constexpr size_t kHeld = 4096;

ResultOptions results_of(const GenerateOptions& options) {
  ResultOptions results{.json = options.json};
  results.keys = {
      "prompt_ids",       "ids",  "text",           "log_probabilities", "finish_reason",
      "sequences",        "seed", "prompt_seconds", "total_seconds",     "tokens_per_second",
      "peak_memory_bytes"};
  results.kept = kept_names(options.batch);
  results.keeps_always = !options.batch.keep_columns.empty();
  return results;
}

// Many prompts through one engine, answered in their order.
class Batch {
 public:
  Batch(std::shared_ptr<Model> model, const GenerateOptions& options, const Request& request)
      : model_(std::move(model)),
        options_(options),
        prompter_(model_, options),
        request_(request),
        results_(results_of(options)) {}

  Status run() {
    const Interrupt interrupt;
    Result<std::unique_ptr<RecordReader>> reader = RecordReader::open(options_.batch);
    if (!reader.ok()) return reader.status();
    reader_ = std::move(reader).value();
    Result<std::unique_ptr<Engine>> engine =
        Engine::create(model_, {.step_tokens = Engine::kBatchStepTokens});
    if (!engine.ok()) return engine.status();
    engine_ = std::move(engine).value();
    Status status = loop();
    if (Interrupt::requested()) status = stop();
    // What came before a failure or an interrupt stays.
    const Status flushed = results_.flush();
    progress_.reset();
    if (!status.ok()) return status;
    if (!flushed.ok()) return flushed;
    if (skips_ > 0 && answered_ == 0) return all_were_skipped(skips_, "prompts");
    report();
    return {};
  }

 private:
  struct Entry {
    Record record;
    Job job;
    bool is_skipped() const { return !record.error.empty(); }
  };

  Status loop() {
    while (!Interrupt::requested()) {
      if (failed_.ok()) failed_ = submit();
      if (!running_.empty()) {
        if (Status status = step(); !status.ok()) return status;
      }
      if (Status status = write(); !status.ok()) return status;
      // Prompts before one that is wrong are answered nevertheless.
      if (running_.empty() && (ended_ || !failed_.ok())) return failed_;
      show();
    }
    return {StatusCode::kCancelled, ""};
  }

  // Reads and submits, not too far ahead, and without waiting for more while there is work.
  Status submit() {
    while (running_.size() < kSubmitted && entries_.size() < kHeld) {
      if (next_ == entries_.size()) {
        if (ended_ || (!entries_.empty() && !reader_->ready())) return {};
        if (Status status = read(); !status.ok()) return status;
        if (next_ == entries_.size()) return {};
      }
      Entry& entry = entries_[next_];
      if (!entry.is_skipped()) {
        const Result<int64_t> number = engine_->submit(entry.job.request);
        if (number.ok()) {
          entry.job.begin();
          running_[*number] = first_ + next_;
        } else if (Status status = wrong(entry.record, number.status()); !status.ok()) {
          return status;
        }
      }
      ++next_;
    }
    return {};
  }

  Status read() {
    if (!pending_.ok()) return pending_;
    Result<std::vector<Record>> records = reader_->next({.records = kSubmitted});
    if (!records.ok()) return records.status();
    ended_ = records->empty();
    if (!progress_) progress_.emplace("generating", 0);
    for (Record& record : *records) {
      entries_.push_back({std::move(record), {}});
      Entry& entry = entries_.back();
      if (entry.is_skipped()) continue;
      Result<std::vector<int32_t>> ids = prompter_.record(entry.record);
      Result<Request> request =
          ids.ok() ? prompter_.request(request_, std::move(ids).value()) : ids.status();
      if (request.ok()) {
        entry.job.request = std::move(request).value();
        continue;
      }
      Status status = wrong(entry.record, request.status());
      if (status.ok()) continue;
      // Told when those before it have been submitted.
      entries_.pop_back();
      pending_ = std::move(status);
      return next_ == entries_.size() ? pending_ : Status();
    }
    return {};
  }

  // A prompt that cannot be answered: it is skipped, or the end.
  Status wrong(Record& record, const Status& status) const {
    if (status.code() == StatusCode::kCancelled) return status;
    Status placed(status.code(), fmt::format("{}: {}", reader_->place(record), status.message()));
    const bool skips =
        options_.batch.on_error == OnError::kSkip && status.code() == StatusCode::kInvalidInput;
    if (!skips) return placed;
    record.error = placed.message();
    return {};
  }

  Status step() {
    Result<std::vector<Event>> events = engine_->step();
    if (!events.ok()) return events.status();
    for (const auto& [number, place] : running_)
      entries_[place - first_].job.stepped(engine_->prompt_tokens_left(number));
    for (const Event& event : *events) {
      const auto running = running_.find(event.request);
      if (running == running_.end()) continue;
      Entry& entry = entries_[running->second - first_];
      if (event.finished == FinishReason::kFailed) {
        if (Status status = wrong(entry.record, event.status); !status.ok()) return status;
        running_.erase(running);
        continue;
      }
      Job& job = entry.job;
      job.take(event);
      if (job.is_finished()) running_.erase(running);
    }
    return {};
  }

  // What is finished at the front.
  Status write() {
    while (next_ > 0 && (entries_[0].is_skipped() || entries_[0].job.is_finished())) {
      if (Status status = write(entries_[0]); !status.ok()) return status;
      entries_.pop_front();
      ++first_;
      --next_;
    }
    return {};
  }

  Status write(const Entry& entry) {
    if (entry.is_skipped() || results_.is_shown()) progress_->hide();
    Status status;
    if (entry.is_skipped()) {
      ++skips_;
      warn(entry.record.error + ": skipped");
      status = results_.writes_json() ? results_.add_skipped(entry.record)
                                      : results_.add_text(heading(entry.record, "skipped"));
    } else {
      answered_ += entry.job.is_cancelled() ? 0 : 1;
      tokens_ += static_cast<int64_t>(entry.job.tokens());
      status = results_.writes_json()
                   ? results_.add(entry.record, to_json(entry.job, model_->info()))
                   : results_.add_text(text_of(entry));
    }
    return status.ok() ? results_.flush() : status;
  }

  // After an interrupt: what is done, and what stands before it as far as it came.
  Status stop() {
    const auto is_done = [](const Entry& entry) {
      return entry.is_skipped() || entry.job.is_finished();
    };
    const auto submitted = entries_.begin() + static_cast<ptrdiff_t>(next_);
    const auto last = std::find_if(std::reverse_iterator(submitted), entries_.rend(), is_done);
    int64_t total = static_cast<int64_t>(first_ + entries_.size());
    for (auto entry = entries_.begin(); entry != last.base(); ++entry) entry->job.give_up();
    if (Status status = write(); !status.ok()) return status;
    const std::optional<int64_t> rest = ended_ ? 0 : reader_->count_rest();
    progress_.reset();
    complain(interrupted_after(answered_, rest ? std::optional(total + *rest) : std::nullopt,
                               "prompts"));
    return {StatusCode::kCancelled, ""};
  }

  std::string heading(const Record& record, std::string_view what) const {
    const std::string kept = results_.kept_text(record);
    return fmt::format("--- prompt {}{}{}{} ---\n", first_ + 1,
                       kept.empty() ? "" : fmt::format(" ({})", kept), what.empty() ? "" : ", ",
                       what);
  }

  // Ids of a prompt of ids, a line a sequence; or text behind a heading, since it may have several
  // lines.
  std::string text_of(const Entry& entry) const {
    const std::vector<Generation>& generations = entry.job.generations;
    std::string text;
    for (size_t i = 0; i < generations.size(); ++i) {
      if (entry.record.tokens) {
        text += join_ids(generations[i].ids) + "\n";
        continue;
      }
      std::string which =
          generations.size() == 1 ? "" : fmt::format("{} of {}", i + 1, generations.size());
      if (generations[i].finished == FinishReason::kCancelled) {
        which += which.empty() ? "cancelled" : ", cancelled";
      }
      text += heading(entry.record, which) + generations[i].text;
      if (!text.ends_with('\n')) text += '\n';
    }
    return text;
  }

  void show() {
    progress_->update(static_cast<int64_t>(first_),
                      fmt::format(": {} prompts, {:.0f} tokens/s", first_,
                                  static_cast<double>(tokens_) / seconds()));
  }

  void report() const {
    if (skips_ > 0) {
      warn(fmt::format("{} of {} {} skipped", skips_,
                       counted(static_cast<int64_t>(first_), "prompts"),
                       skips_ == 1 ? "was" : "were"));
    }
    if (!is_terminal(stderr)) return;
    note(fmt::format("{}, {}, {:.1f} tokens/s, peak memory {}",
                     counted(static_cast<int64_t>(first_), "prompts"), counted(tokens_, "tokens"),
                     static_cast<double>(tokens_) / seconds(), human_bytes(peak_memory_bytes())));
  }

  double seconds() const {
    const auto passed = Job::Clock::now() - start_;
    return std::max(std::chrono::duration<double>(passed).count(), 1e-9);
  }

  std::shared_ptr<Model> model_;
  const GenerateOptions& options_;
  Prompter prompter_;
  Request request_;
  std::unique_ptr<RecordReader> reader_;
  std::unique_ptr<Engine> engine_;
  std::deque<Entry> entries_;          // neither written nor forgotten
  size_t first_ = 0;                   // the place of the first of them among all
  size_t next_ = 0;                    // of them, to be submitted
  std::map<int64_t, size_t> running_;  // request number to place among all
  bool ended_ = false;                 // everything was read
  Status failed_;                      // nothing more is submitted
  Status pending_;                     // found while reading ahead
  int64_t answered_ = 0;
  int64_t skips_ = 0;
  int64_t tokens_ = 0;
  Job::Clock::time_point start_ = Job::Clock::now();
  std::optional<Progress> progress_;
  Results results_;
};

}  // namespace

Status run_batch(const std::shared_ptr<Model>& model, const GenerateOptions& options,
                 const Request& request) {
  return Batch(model, options, request).run();
}

}  // namespace tessera::cli
