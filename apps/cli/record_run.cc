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

bool is_same_file(const struct stat& in, const std::string& path) {
  struct stat out {};
  return stat(path.c_str(), &out) == 0 && S_ISREG(out.st_mode) && in.st_dev == out.st_dev &&
         in.st_ino == out.st_ino;
}

// What is read must not be emptied or replaced meanwhile.
Status check_apart(const RecordOptions& input, const std::string& output) {
  if (!input.texts.empty() || !input.ids.empty()) return {};
  struct stat in {};
  const std::string path = input.file.value_or("-");
  const int found = path == "-" ? fstat(STDIN_FILENO, &in) : stat(path.c_str(), &in);
  if (found != 0) return {};
  if (!is_same_file(in, output) && !is_same_file(in, partial_path_of(output))) return {};
  return invalid_input(
      fmt::format("expected to write to another file than the input's, {}", output));
}

}  // namespace

Status RecordRun::all(const RecordOptions& options, const Chunk& chunk,
                      const std::function<Status()>& last) {
  const Interrupt interrupt;
  if (Status status = open(options); !status.ok()) return status;
  start_ = std::chrono::steady_clock::now();
  total_ = reader_->total();
  Status status = run(chunk);
  shown_.reset();
  if (status.ok() && last) status = last();
  status = settle(std::move(status));
  if (status.ok()) report();
  return status;
}

Status RecordRun::open(const RecordOptions& options) {
  on_error_ = options.on_error;
  Result<std::unique_ptr<RecordReader>> reader = RecordReader::open(options);
  if (!reader.ok()) return reader.status();
  reader_ = std::move(reader).value();
  const std::optional<std::string>& file = options_.results.file;
  if (file) {
    if (Status status = check_apart(options, *file); !status.ok()) return status;
  }
  options_.results.kept = kept_names(options);
  options_.results.keeps_always = !options.keep_columns.empty();
  return results_.emplace(options_.results).open();
}

Status RecordRun::run(const Chunk& chunk) {
  for (;;) {
    Result<std::vector<Record>> records = reader_->next(options_.chunk);
    if (!records.ok()) return records.status();
    if (records->empty()) return {};
    taken_ += static_cast<int64_t>(records->size());
    // Not before: a person may still be typing.
    if (!shown_) shown_.emplace(options_.label, total_.value_or(0));
    if (!progress(0)) return {StatusCode::kCancelled, ""};
    std::vector<Record> good;
    for (Record& record : *records) {
      if (record.error.empty()) {
        good.push_back(std::move(record));
      } else {
        skipped_.push_back(std::move(record));
      }
    }
    Status status = take(good, chunk);
    if (status.ok()) status = write_skipped(INT64_MAX);
    if (!status.ok()) return status;
    done_ += static_cast<int64_t>(records->size());
    // A reader on the other side of a pipe sees what is done.
    if (status = results_->flush(); !status.ok()) return status;
  }
}

Status RecordRun::take(std::span<const Record> records, const Chunk& chunk) {
  while (!records.empty()) {
    const Status status = chunk(records);
    if (status.ok()) return {};
    const std::optional<Wrong> wrong = wrong_one(status, records.size());
    if (!wrong) return status;
    // Where several are wrong the first one is told.
    Status before = take(records.first(wrong->index), chunk);
    if (!before.ok()) return before;
    Record record = records[wrong->index];
    const std::string place = reader_->place(record);
    record.error =
        place.empty() ? std::string(wrong->message) : fmt::format("{}: {}", place, wrong->message);
    if (on_error_ == OnError::kStop || status.code() != StatusCode::kInvalidInput) {
      return {status.code(), record.error};
    }
    if (before = skip(std::move(record)); !before.ok()) return before;
    records = records.subspan(wrong->index + 1);
  }
  return {};
}

Status RecordRun::skip(Record record) {
  const int64_t number = record.number;
  const auto at = std::find_if(skipped_.begin(), skipped_.end(),
                               [&](const Record& each) { return each.number > number; });
  skipped_.insert(at, std::move(record));
  return write_skipped(number + 1);
}

Status RecordRun::write_skipped(int64_t before_number) {
  while (!skipped_.empty() && skipped_.front().number < before_number) {
    const Record record = std::move(skipped_.front());
    skipped_.pop_front();
    ++skips_;
    shown_->hide();
    warn(record.error + ": skipped");
    if (options_.skipped_rows == SkippedRows::kOmit) continue;
    if (Status status = results_->add_skipped(record); !status.ok()) return status;
  }
  return {};
}

Status RecordRun::write(const Record& record, std::string_view line) {
  if (Status status = write_skipped(record.number); !status.ok()) return status;
  if (results_->is_shown() && shown_) shown_->hide();
  return results_->add(record, line);
}

Status RecordRun::write(const Record& record, std::span<const float> vector) {
  if (Status status = write_skipped(record.number); !status.ok()) return status;
  return results_->add(record, vector);
}

Status RecordRun::settle(Status status) {
  if (status.ok()) status = results_->finish();
  if (status.ok() && skips_ > 0 && skips_ == done_) {
    return all_were_skipped(skips_, options_.unit);
  }
  if (status.ok()) return status;
  const std::string left = results_->leave();
  if (status.code() == StatusCode::kCancelled) {
    complain(interrupted(left));
    return status;
  }
  if (left.empty()) return status;
  return {status.code(), fmt::format("{}; the results of the first {} are in {}", status.message(),
                                     counted(results_->rows(), options_.unit), left)};
}

std::string RecordRun::interrupted(const std::string& left) {
  if (!total_) {
    if (const std::optional<int64_t> rest = reader_->count_rest()) total_ = taken_ + *rest;
  }
  std::string text = interrupted_after(results_->rows(), total_, options_.unit);
  if (!left.empty()) {
    text +=
        fmt::format(", whose results are in {}; {} was not touched", left, *options_.results.file);
  }
  return text;
}

bool RecordRun::progress(int64_t done_in_chunk) {
  const int64_t done = done_ + done_in_chunk;
  const std::string rate =
      fmt::format("{:.0f} {}/s", static_cast<double>(done) / seconds(), options_.unit);
  shown_->update(done,
                 total_ ? ", " + rate : fmt::format(": {} {}, {}", done, options_.unit, rate));
  return !Interrupt::requested();
}

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
  if (const std::string remark = reader_->remark(); !remark.empty()) warn(remark);
  if (skips_ > 0) {
    warn(fmt::format("{} of {} {} skipped", skips_, counted(done_, options_.unit),
                     skips_ == 1 ? "was" : "were"));
  }
  if (truncated_ > 0) {
    warn(fmt::format("{} of {} {} cut to the model's limit", truncated_,
                     counted(done_, options_.unit), truncated_ == 1 ? "was" : "were"));
  }
}

}  // namespace tessera::cli
