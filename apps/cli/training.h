#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "cli/terminal.h"
#include "tessera/tune.h"

// What the verbs that train show of it.
namespace tessera::cli {

// What TuneOptions::on_progress takes: a line on a terminal; elsewhere a message after some seconds
// and then ever more seldom, so that a log of hours stays short and yet tells that it goes on.
class TrainingProgress {
 public:
  // False: the user wants to stop.
  bool operator()(const TuneProgress& progress);
  void clear() { line_.reset(); }

 private:
  std::optional<Progress> line_;
  bool trains_ = false;  // and no longer reads
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
  double next_seconds_ = 5;  // of the next message
};

// What was trained and what became of the loss, in sentences.
std::string training_text(const TuneReport& report);
std::string training_json(const TuneReport& report);

}  // namespace tessera::cli
