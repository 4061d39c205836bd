#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"

namespace tessera {

// What a step of a training was; a line of training.jsonl.
struct StepRecord {
  int64_t step = 0;  // from 1
  double loss = 0;
  std::optional<double> penalty = {};     // of the restrictions, where there are any
  std::optional<double> validation = {};  // the loss on other data, behind the step
  double learning_rate = 0;
  double gradient_norm = 0;  // before it was clipped
  int64_t tokens = 0;
  double seconds = 0;
};

// One JSON object without a line break. Numbers are as short as they can be and still be read back
// as what they were.
std::string to_line(const StepRecord& record);

// A training's log, a file of lines that is only ever appended to.
class TrainingLog {
 public:
  // Keeps the first `steps` lines of what an interrupted training left and cuts the others, which
  // will come again. kInvalidInput where they are not all there.
  static Result<TrainingLog> open(const std::string& path, int64_t steps);
  TrainingLog(TrainingLog&& other) noexcept;
  TrainingLog& operator=(TrainingLog&&) = delete;
  ~TrainingLog();

  Status append(const StepRecord& record);
  // Returns when all of it is on the disk.
  Status sync() const;
  const std::vector<StepRecord>& records() const { return records_; }

 private:
  TrainingLog(std::string path, int descriptor, std::vector<StepRecord> records)
      : path_(std::move(path)), descriptor_(descriptor), records_(std::move(records)) {}

  std::string path_;
  int descriptor_ = -1;
  std::vector<StepRecord> records_;
};

// Means of the losses of the first and the last twentieth of the steps, at least of one.
double first_loss(const std::vector<StepRecord>& records);
double last_loss(const std::vector<StepRecord>& records);
// Sums over the steps.
int64_t tokens_of(const std::vector<StepRecord>& records);
double seconds_of(const std::vector<StepRecord>& records);

// The losses, and the penalties where there are any, as an SVG picture: means of at most 400 spans
// of equal length. At least one record.
std::string draw_curve(const std::vector<StepRecord>& records, const std::string& title);

}  // namespace tessera
