#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cli/records.h"
#include "cli/terminal.h"

namespace tessera::cli {

struct RunOptions {
  const char* label = "";             // "embedding"
  const char* unit = "texts";         // what is counted
  std::optional<std::string> output;  // a file instead of standard output
  // Records of a chunk: enough to sort by length, and little memory.
  size_t most_records = 8192;
};

// Takes records in chunks through a function, with progress, interrupts and a report:
//
//   RecordRun run({"classifying", "texts", options.output});
//   return run.all(options.records, [&](std::span<const Record> records) -> Status {
//     TaskOptions task;
//     task.on_progress = [&](int64_t done) { return run.progress(done); };
//     auto results = classify(model, as_inputs(records), task);
//     if (!results.ok()) return results.status();
//     for (...) { run.count_tokens(n); if (Status s = run.write(line); !s.ok()) return s; }
//     return {};
//   });
class RecordRun {
 public:
  explicit RecordRun(RunOptions options);

  // Writes whole lines in the records' order and gives kCancelled after an interrupt: what was
  // written until then stays. A status of `chunk` whose message begins with "input N: " or
  // "text N: ", N a record's index in the chunk from 0, comes back with the record's place instead,
  // after `chunk` was called again for the records before it: it must not write before it fails.
  // `last`, where there is one, is called behind the last chunk and may still write.
  Status all(const RecordOptions& options,
             const std::function<Status(std::span<const Record>)>& chunk,
             const std::function<Status()>& last = {});

  // For use by the function of a chunk. Shows how many of the chunk are done; false: the user wants
  // to stop, return kCancelled.
  bool progress(int64_t done_in_chunk);
  Status write(std::string_view text);  // one or more whole lines
  void count_tokens(int64_t tokens) { tokens_ += tokens; }
  void count_truncated(int64_t records) { truncated_ += records; }

 private:
  Status run(RecordReader& reader, const std::function<Status(std::span<const Record>)>& chunk);
  static Status take(const RecordReader& reader, std::span<const Record> records,
                     const std::function<Status(std::span<const Record>)>& chunk);
  void report() const;
  double seconds() const;

  RunOptions options_;
  Output out_;
  std::optional<Progress> shown_;
  std::chrono::steady_clock::time_point start_;
  std::optional<int64_t> total_;
  int64_t done_ = 0;  // in the chunks before this one
  int64_t tokens_ = 0;
  int64_t truncated_ = 0;
};

}  // namespace tessera::cli
