#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cli/records.h"
#include "cli/results.h"
#include "cli/terminal.h"

namespace tessera::cli {

// Whether the results have a row for a record that was skipped.
enum class SkippedRows { kWrite, kOmit };

struct RunOptions {
  const char* label = "";      // "embedding"
  const char* unit = "texts";  // what is counted
  ResultOptions results = {};  // without what the records' options say of them
  SkippedRows skipped_rows = SkippedRows::kWrite;
  // Enough for full passes through a model, and little enough that an interrupt loses some seconds
  // of work at most.
  ChunkLimits chunk = {.records = 512, .bytes = size_t{1} << 16};
};

// Takes records in chunks through a function, with progress, interrupts and a report:
//
//   RecordRun run({"classifying", "texts", {.file = options.output, .json = options.json}});
//   return run.all(options.records, [&](std::span<const Record> records) -> Status {
//     TaskOptions task;
//     task.on_progress = [&](int64_t done) { return run.progress(done); };
//     auto results = classify(model, as_inputs(records), task);
//     if (!results.ok()) return results.status();
//     for (...) { run.count_tokens(n); if (Status s = run.write(records[i], line); !s.ok()) return
//     s; } return {};
//   });
class RecordRun {
 public:
  explicit RecordRun(RunOptions options) : options_(std::move(options)) {}

  // Writes a row for each record, in order, and gives kCancelled after an interrupt; what was
  // written until then stays and is counted on standard error. A status of `chunk` whose message
  // begins with "input N: " or "text N: ", N a record's index in the chunk from 0, is that of the
  // record: it comes back with the record's place, or, with OnError::kSkip, on standard error, and
  // the run goes on. `chunk` is called again for the records before it and must not write before it
  // fails. `last`, where there is one, is called behind the last chunk and may still write.
  Status all(const RecordOptions& options,
             const std::function<Status(std::span<const Record>)>& chunk,
             const std::function<Status()>& last = {});

  // For use by the function of a chunk. Shows how many of the chunk are done; false: the user wants
  // to stop, return kCancelled.
  bool progress(int64_t done_in_chunk);
  // The result of a record, once for each and in order: a line, or what a file of vectors holds.
  Status write(const Record& record, std::string_view line);
  Status write(const Record& record, std::span<const float> vector);
  bool writes_vectors() const { return results_->writes_vectors(); }
  bool writes_json() const { return results_->writes_json(); }
  void count_tokens(int64_t tokens) { tokens_ += tokens; }
  void count_truncated(int64_t records) { truncated_ += records; }

 private:
  using Chunk = std::function<Status(std::span<const Record>)>;

  Status open(const RecordOptions& options);
  Status run(const Chunk& chunk);
  Status take(std::span<const Record> records, const Chunk& chunk);
  Status skip(Record record);
  Status write_skipped(int64_t before_number);
  // What comes of the run, whose results are put in place or left where they are.
  Status settle(Status status);
  std::string interrupted(const std::string& left);
  void report() const;
  double seconds() const;

  RunOptions options_;
  OnError on_error_ = OnError::kStop;
  std::unique_ptr<RecordReader> reader_;
  std::optional<Results> results_;
  std::optional<Progress> shown_;
  std::chrono::steady_clock::time_point start_;
  std::optional<int64_t> total_;
  std::deque<Record> skipped_;  // of this chunk, without a row yet
  int64_t taken_ = 0;           // with this chunk
  int64_t done_ = 0;            // in the chunks before this one
  int64_t skips_ = 0;
  int64_t tokens_ = 0;
  int64_t truncated_ = 0;
};

}  // namespace tessera::cli
