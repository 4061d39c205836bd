#include <fmt/format.h>

#include <deque>
#include <map>

#include "cli/inputs.h"
#include "cli/run.h"

namespace tessera::cli {
namespace {

// Prompts that the engine has at a time, so that its queue is never empty.
constexpr size_t kSubmitted = 256;
// Finished ones wait for those before them; so many may.
constexpr size_t kHeld = 4096;

// Many prompts through one engine, answered in their order.
class Batch {
 public:
  Batch(std::shared_ptr<Model> model, const GenerateOptions& options, const Request& request)
      : model_(std::move(model)),
        options_(options),
        prompter_(model_, options),
        request_(request) {}

  Status run() {
    const Interrupt interrupt;
    Result<std::unique_ptr<RecordReader>> reader = RecordReader::open(options_.batch);
    if (!reader.ok()) return reader.status();
    reader_ = std::move(reader).value();
    Result<std::unique_ptr<Engine>> engine =
        Engine::create(model_, {.step_tokens = Engine::kBatchStepTokens});
    if (!engine.ok()) return engine.status();
    engine_ = std::move(engine).value();
    const Status status = loop();
    // What came before a failure or an interrupt stays.
    const Status flushed = out_.flush();
    progress_.reset();
    if (!status.ok()) return status;
    if (!flushed.ok()) return flushed;
    report();
    return {};
  }

 private:
  struct Entry {
    Record record;
    Job job;
  };

  Status loop() {
    for (;;) {
      if (Interrupt::requested()) return {StatusCode::kCancelled, ""};
      if (failed_.ok()) failed_ = submit();
      // Prompts before one that is wrong are answered nevertheless.
      if (running_.empty()) return failed_;
      if (Status status = step(); !status.ok()) return status;
      if (Status status = write(); !status.ok()) return status;
      show();
    }
  }

  // Reads and submits, not too far ahead.
  Status submit() {
    while (running_.size() < kSubmitted && entries_.size() < kHeld) {
      if (next_ == entries_.size()) {
        if (Status status = read(); !status.ok()) return status;
        if (next_ == entries_.size()) return {};
      }
      Entry& entry = entries_[next_];
      Result<int64_t> number = engine_->submit(entry.job.request);
      if (!number.ok()) return at(entry.record, number.status());
      entry.job.begin();
      running_[*number] = first_ + next_++;
    }
    return {};
  }

  Status read() {
    if (!pending_.ok()) return pending_;
    Result<std::vector<Record>> records = reader_->next(kSubmitted);
    if (!records.ok()) return records.status();
    if (!progress_) progress_.emplace("generating", 0);
    for (Record& record : *records) {
      Result<std::vector<int32_t>> ids = prompter_.record(record);
      Result<Request> request =
          ids.ok() ? prompter_.request(request_, std::move(ids).value()) : ids.status();
      if (!request.ok()) {
        // Told when those before it have been submitted.
        pending_ = at(record, request.status());
        return next_ == entries_.size() ? pending_ : Status();
      }
      entries_.push_back({std::move(record), Job{std::move(request).value()}});
    }
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
      if (event.finished == FinishReason::kFailed) return at(entry.record, event.status);
      Job& job = entry.job;
      job.take(event);
      if (job.is_finished()) running_.erase(running);
    }
    return {};
  }

  // What is finished at the front.
  Status write() {
    while (next_ > 0 && entries_[0].job.is_finished()) {
      const Entry& entry = entries_[0];
      Status status = out_.write(text_of(entry));
      if (status.ok()) status = out_.flush();
      if (!status.ok()) return status;
      tokens_ += static_cast<int64_t>(entry.job.tokens());
      entries_.pop_front();
      ++first_;
      --next_;
    }
    return {};
  }

  // A line of JSON a prompt; ids of a prompt of ids, a line a sequence; or text behind a heading,
  // since it may have several lines.
  std::string text_of(const Entry& entry) const {
    const ModelInfo& info = model_->info();
    const std::vector<Generation>& generations = entry.job.generations;
    if (options_.json) return to_json(entry.job, info);
    std::string text;
    for (size_t i = 0; i < generations.size(); ++i) {
      if (entry.record.tokens) {
        text += join_ids(generations[i].ids) + "\n";
        continue;
      }
      const std::string which =
          generations.size() == 1 ? "" : fmt::format(", {} of {}", i + 1, generations.size());
      text += fmt::format("--- prompt {}{} ---\n{}", first_ + 1, which, generations[i].text);
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
    if (!is_terminal(stderr)) return;
    note(fmt::format("{}, {}, {:.1f} tokens/s, peak memory {}",
                     counted(static_cast<int64_t>(first_), "prompts"), counted(tokens_, "tokens"),
                     static_cast<double>(tokens_) / seconds(), human_bytes(peak_memory_bytes())));
  }

  double seconds() const {
    const auto passed = Job::Clock::now() - start_;
    return std::max(std::chrono::duration<double>(passed).count(), 1e-9);
  }

  Status at(const Record& record, const Status& status) const {
    if (status.code() == StatusCode::kCancelled) return status;
    return {status.code(), fmt::format("{}: {}", reader_->place(record), status.message())};
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
  Status failed_;                      // nothing more is submitted
  Status pending_;                     // found while reading ahead
  int64_t tokens_ = 0;
  Job::Clock::time_point start_ = Job::Clock::now();
  std::optional<Progress> progress_;
  Output out_;
};

}  // namespace

Status run_batch(const std::shared_ptr<Model>& model, const GenerateOptions& options,
                 const Request& request) {
  return Batch(model, options, request).run();
}

}  // namespace tessera::cli
