#include "cli/record_run.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>

namespace tessera::cli {
namespace {

// What "input N: message" and "text N: message" say of a chunk.
struct Wrong {
  size_t index = 0;
  std::string_view message;
};

std::optional<Wrong> wrong_one(const Status& status, size_t records) {
  std::string_view rest = status.message();
  if (!rest.starts_with("input ") && !rest.starts_with("text ")) return std::nullopt;
  rest.remove_prefix(rest.find(' ') + 1);
  size_t index = 0;
  const auto [after, error] = std::from_chars(rest.data(), rest.data() + rest.size(), index);
  rest.remove_prefix(static_cast<size_t>(after - rest.data()));
  if (error != std::errc() || !rest.starts_with(": ") || index >= records) return std::nullopt;
  return Wrong{index, rest.substr(2)};
}

// Opening a file for output empties it, so that nothing would be left to read.
Status check_apart(const RecordOptions& input, const std::string& output) {
  if (!input.texts.empty() || !input.ids.empty()) return {};
  struct stat in {
  }, out{};
  const std::string path = input.file.value_or("-");
  const int found = path == "-" ? fstat(STDIN_FILENO, &in) : stat(path.c_str(), &in);
  if (found != 0 || stat(output.c_str(), &out) != 0 || !S_ISREG(out.st_mode)) return {};
  if (in.st_dev != out.st_dev || in.st_ino != out.st_ino) return {};
  return invalid_input(
      fmt::format("expected to write to another file than the input's, {}", output));
}

}  // namespace

RecordRun::RecordRun(RunOptions options) : options_(std::move(options)) {}

Status RecordRun::all(const RecordOptions& options,
                      const std::function<Status(std::span<const Record>)>& chunk,
                      const std::function<Status()>& last) {
  const Interrupt interrupt;
  Result<std::unique_ptr<RecordReader>> reader = RecordReader::open(options);
  if (!reader.ok()) return reader.status();
  if (options_.output) {
    Status status = check_apart(options, *options_.output);
    if (status.ok()) status = out_.open(*options_.output);
    if (!status.ok()) return status;
  }
  start_ = std::chrono::steady_clock::now();
  total_ = (*reader)->total();
  Status status = run(**reader, chunk);
  shown_.reset();
  if (status.ok() && last) status = last();
  // What was made before a failure is kept; the failure is what is told.
  const Status closed = out_.close();
  if (!status.ok()) return status;
  if (!closed.ok()) return closed;
  report();
  return {};
}

Status RecordRun::run(RecordReader& reader,
                      const std::function<Status(std::span<const Record>)>& chunk) {
  for (;;) {
    Result<std::vector<Record>> records = reader.next(options_.most_records);
    if (!records.ok()) return records.status();
    if (records->empty()) return {};
    // Not before: a person may still be typing.
    if (!shown_) shown_.emplace(options_.label, total_.value_or(0));
    if (!progress(0)) return {StatusCode::kCancelled, ""};
    Status status = take(reader, *records, chunk);
    if (!status.ok()) return status;
    done_ += static_cast<int64_t>(records->size());
    // A reader on the other side of a pipe sees what is done.
    if (status = out_.flush(); !status.ok()) return status;
  }
}

Status RecordRun::take(const RecordReader& reader, std::span<const Record> records,
                       const std::function<Status(std::span<const Record>)>& chunk) {
  const Status status = chunk(records);
  if (status.ok()) return {};
  const std::optional<Wrong> wrong = wrong_one(status, records.size());
  if (!wrong) return status;
  if (wrong->index > 0) {
    // Where several are wrong the first one is told.
    Status before = take(reader, records.first(wrong->index), chunk);
    if (!before.ok()) return before;
  }
  const std::string place = reader.place(records[wrong->index]);
  return {status.code(), place.empty() ? std::string(wrong->message)
                                       : fmt::format("{}: {}", place, wrong->message)};
}

bool RecordRun::progress(int64_t done_in_chunk) {
  const int64_t done = done_ + done_in_chunk;
  const std::string rate =
      fmt::format("{:.0f} {}/s", static_cast<double>(done) / seconds(), options_.unit);
  shown_->update(done,
                 total_ ? ", " + rate : fmt::format(": {} {}, {}", done, options_.unit, rate));
  return !Interrupt::requested();
}

Status RecordRun::write(std::string_view text) { return out_.write(text); }

double RecordRun::seconds() const {
  // Never 0, since it divides.
  constexpr double kLeast = 1e-9;
  const auto passed = std::chrono::steady_clock::now() - start_;
  return std::max(std::chrono::duration<double>(passed).count(), kLeast);
}

void RecordRun::report() const {
  if (is_terminal(stderr)) {
    std::string line = counted(done_, options_.unit);
    if (tokens_ > 0) line += ", " + counted(tokens_, "tokens");
    line += fmt::format(", {:.1f} {}/s", static_cast<double>(done_) / seconds(), options_.unit);
    if (tokens_ > 0)
      line += fmt::format(", {:.0f} tokens/s", static_cast<double>(tokens_) / seconds());
    note(fmt::format("{}, peak memory {}", line, human_bytes(peak_memory_bytes())));
  }
  if (truncated_ > 0) {
    warn(fmt::format("{} of {} {} cut to the model's limit", truncated_,
                     counted(done_, options_.unit), truncated_ == 1 ? "was" : "were"));
  }
}

}  // namespace tessera::cli
