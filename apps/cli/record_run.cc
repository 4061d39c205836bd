#include "cli/record_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

namespace tessera::cli {
namespace {

// Enough to sort by length, and little memory.
constexpr size_t kChunkRecords = 8192;

// "input N: message" or "text N: message" with the place of the chunk's record N.
Status with_place(const Status& status, const RecordReader& reader,
                  std::span<const Record> records) {
  std::string_view rest = status.message();
  if (!rest.starts_with("input ") && !rest.starts_with("text ")) return status;
  rest.remove_prefix(rest.find(' ') + 1);
  size_t index = 0;
  const auto [after, error] = std::from_chars(rest.data(), rest.data() + rest.size(), index);
  rest.remove_prefix(static_cast<size_t>(after - rest.data()));
  if (error != std::errc() || !rest.starts_with(": ") || index >= records.size()) return status;
  const std::string place = reader.place(records[index]);
  return {status.code(), place.empty() ? std::string(rest.substr(2)) : place + std::string(rest)};
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
    if (Status status = out_.open(*options_.output); !status.ok()) return status;
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
    Result<std::vector<Record>> records = reader.next(kChunkRecords);
    if (!records.ok()) return records.status();
    if (records->empty()) return {};
    // Not before: a person may still be typing.
    if (!shown_) shown_.emplace(options_.label, total_.value_or(0));
    if (!progress(0)) return {StatusCode::kCancelled, ""};
    Status status = chunk(*records);
    if (!status.ok()) return with_place(status, reader, *records);
    done_ += static_cast<int64_t>(records->size());
    // A reader on the other side of a pipe sees what is done.
    if (status = out_.flush(); !status.ok()) return status;
  }
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
    std::string line = fmt::format("{} {}", done_, options_.unit);
    if (tokens_ > 0) line += fmt::format(", {} tokens", tokens_);
    line += fmt::format(", {:.1f} {}/s", static_cast<double>(done_) / seconds(), options_.unit);
    if (tokens_ > 0)
      line += fmt::format(", {:.0f} tokens/s", static_cast<double>(tokens_) / seconds());
    fmt::print(stderr, "[{}, peak memory {}]\n", line, human_bytes(peak_memory_bytes()));
  }
  if (truncated_ > 0) {
    fmt::print(stderr, "tessera: {} of {} {} were cut to the model's limit\n", truncated_, done_,
               options_.unit);
  }
}

}  // namespace tessera::cli
