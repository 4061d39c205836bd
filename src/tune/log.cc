#include "tune/log.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <limits>
#include <span>
#include <string_view>
#include <utility>

#include "compress/paths.h"
#include "io/json.h"
#include "io/json_at.h"
#include "io/mapped_file.h"
#include "plot/plot.h"

namespace tessera {
namespace {

constexpr size_t kLogLimitBytes = size_t{1} << 32;
constexpr double kAny = std::numeric_limits<double>::max();

Result<StepRecord> parse_line(std::string_view line, const std::string& source) {
  TESSERA_ASSIGN_OR_RETURN(const Json json, parse_json(line, source));
  const JsonAt at(json, source);
  TESSERA_RETURN_IF_ERROR(at.known({"step", "loss", "penalty", "learning_rate", "gradient_norm",
                                    "tokens", "seconds", "validation"}));
  StepRecord record;
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  TESSERA_ASSIGN_OR_RETURN(record.step, at.integer_or("step", 0, 1, kMost));
  TESSERA_ASSIGN_OR_RETURN(record.tokens, at.integer_or("tokens", 0, 0, kMost));
  const std::pair<const char*, double*> numbers[] = {{"loss", &record.loss},
                                                     {"learning_rate", &record.learning_rate},
                                                     {"gradient_norm", &record.gradient_norm},
                                                     {"seconds", &record.seconds}};
  for (const auto& [key, number] : numbers) {
    TESSERA_ASSIGN_OR_RETURN(*number, at.number_or(key, 0, -kAny, kAny));
  }
  if (json.find("penalty") != nullptr) {
    TESSERA_ASSIGN_OR_RETURN(record.penalty, at.number_or("penalty", 0, -kAny, kAny));
  }
  if (json.find("validation") != nullptr) {
    TESSERA_ASSIGN_OR_RETURN(record.validation, at.number_or("validation", 0, -kAny, kAny));
  }
  return record;
}

Status not_whole(const std::string& path, int64_t expected, int64_t found) {
  return invalid_input(
      fmt::format("{}: expected the {} steps up to the checkpoint beside it, found {}: remove that "
                  "directory to begin anew",
                  path, expected, found));
}

// The first so many records of a text, and how long that is.
struct Beginning {
  std::vector<StepRecord> records;
  size_t bytes = 0;
};
Result<Beginning> beginning_of(const std::string& text, int64_t steps, const std::string& path) {
  Beginning beginning;
  for (int64_t i = 0; i < steps; ++i) {
    const size_t end = text.find('\n', beginning.bytes);
    if (end == std::string::npos) return not_whole(path, steps, i);
    const auto record =
        parse_line(std::string_view(text).substr(beginning.bytes, end - beginning.bytes), path);
    if (!record.ok() || record->step != i + 1) return not_whole(path, steps, i);
    beginning.records.push_back(*record);
    beginning.bytes = end + 1;
  }
  return beginning;
}

using Member = double StepRecord::*;
double mean(std::span<const StepRecord> records, Member member) {
  double sum = 0;
  for (const StepRecord& record : records) sum += record.*member;
  return sum / static_cast<double>(std::max<size_t>(1, records.size()));
}

size_t twentieth(const std::vector<StepRecord>& records) {
  return std::min(records.size(), std::max<size_t>(1, records.size() / 20));
}

}  // namespace

std::string to_line(const StepRecord& record) {
  std::string line = fmt::format("{{\"step\":{},\"loss\":{}", record.step, record.loss);
  if (record.penalty) line += fmt::format(",\"penalty\":{}", *record.penalty);
  line += fmt::format(",\"learning_rate\":{},\"gradient_norm\":{},\"tokens\":{},\"seconds\":{:.4g}",
                      record.learning_rate, record.gradient_norm, record.tokens, record.seconds);
  if (record.validation) line += fmt::format(",\"validation\":{}", *record.validation);
  return line + "}";
}

Result<TrainingLog> TrainingLog::open(const std::string& path, int64_t steps) {
  Beginning beginning;
  if (steps > 0) {
    const Result<std::string> text = read_text_file(path, kLogLimitBytes);
    if (!text.ok()) return not_whole(path, steps, 0);
    TESSERA_ASSIGN_OR_RETURN(beginning, beginning_of(*text, steps, path));
  }
  const int descriptor = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (descriptor < 0) return cannot("write", path);
  TrainingLog log(path, descriptor, std::move(beginning.records));
  if (ftruncate(descriptor, static_cast<off_t>(beginning.bytes)) != 0) return cannot("cut", path);
  return log;
}

TrainingLog::TrainingLog(TrainingLog&& other) noexcept
    : path_(std::move(other.path_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      records_(std::move(other.records_)) {}

TrainingLog::~TrainingLog() {
  if (descriptor_ >= 0) close(descriptor_);
}

Status TrainingLog::append(const StepRecord& record) {
  const std::string line = to_line(record) + "\n";
  for (size_t done = 0; done < line.size();) {
    const ssize_t written = write(descriptor_, &line[done], line.size() - done);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return cannot("write", path_);
    done += static_cast<size_t>(written);
  }
  records_.push_back(record);
  return {};
}

Status TrainingLog::sync() const {
  return fsync(descriptor_) == 0 ? Status() : cannot("write to the disk", path_);
}

double first_loss(const std::vector<StepRecord>& records) {
  return mean(std::span(records).first(twentieth(records)), &StepRecord::loss);
}

double last_loss(const std::vector<StepRecord>& records) {
  return mean(std::span(records).last(twentieth(records)), &StepRecord::loss);
}

int64_t tokens_of(const std::vector<StepRecord>& records) {
  int64_t tokens = 0;
  for (const StepRecord& record : records) tokens += record.tokens;
  return tokens;
}

double seconds_of(const std::vector<StepRecord>& records) {
  double seconds = 0;
  for (const StepRecord& record : records) seconds += record.seconds;
  return seconds;
}

std::string draw_curve(const std::vector<StepRecord>& records, const std::string& title) {
  constexpr size_t kMostSpans = 400;
  const size_t spans = std::min(records.size(), kMostSpans);
  PlotSeries loss{.name = "loss", .style = SeriesStyle::kLine};
  PlotSeries penalty{.name = "penalty", .style = SeriesStyle::kLine};
  for (size_t i = 0; i < spans; ++i) {
    const size_t begin = i * records.size() / spans, end = (i + 1) * records.size() / spans;
    const std::span<const StepRecord> span(&records[begin], end - begin);
    const double step = static_cast<double>(span.front().step + span.back().step) / 2;
    loss.points.push_back({.x = step, .y = mean(span, &StepRecord::loss)});
    double sum = 0;
    for (const StepRecord& record : span) sum += record.penalty.value_or(0);
    penalty.points.push_back({.x = step, .y = sum / static_cast<double>(span.size())});
  }
  Plot plot{.title = title};
  plot.panels.push_back(
      {.title = "", .x = {.label = "step"}, .y = {.label = "loss"}, .series = {}});
  plot.panels[0].series.push_back(std::move(loss));
  PlotSeries validation{.name = "loss on other data", .style = SeriesStyle::kMarkers};
  for (const StepRecord& record : records) {
    if (record.validation)
      validation.points.push_back({.x = static_cast<double>(record.step), .y = *record.validation});
  }
  if (!validation.points.empty()) plot.panels[0].series.push_back(std::move(validation));
  if (records.front().penalty) {
    plot.columns = 2;
    plot.panels.push_back(
        {.title = "", .x = {.label = "step"}, .y = {.label = "penalty"}, .series = {}});
    plot.panels[1].series.push_back(std::move(penalty));
  }
  return draw_svg(plot);
}

}  // namespace tessera
