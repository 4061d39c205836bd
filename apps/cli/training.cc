#include "cli/training.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

namespace tessera::cli {
namespace {

using Json = nlohmann::ordered_json;

std::string duration(double seconds) {
  if (seconds < 120) return fmt::format("{:.0f} s", seconds);
  if (seconds < 7200) return fmt::format("{:.0f} min", seconds / 60);
  return fmt::format("{:.1f} h", seconds / 3600);
}

}  // namespace

bool TrainingProgress::operator()(const TuneProgress& progress) {
  const bool reads = progress.step == 0;
  if (!line_ || reads == trains_) {
    line_.emplace(reads ? "reading the model and the data" : "training",
                  reads ? 0 : progress.steps);
  }
  trains_ = !reads;
  if (Interrupt::requested()) return false;
  if (reads) return true;
  const std::string how = fmt::format("loss {:.4g}, {} tokens/s, {} left", progress.loss,
                                      human_count(static_cast<int64_t>(progress.tokens_per_second)),
                                      duration(progress.seconds_left));
  line_->update(progress.step, " " + how);
  const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - begin_;
  if (is_terminal(stderr) || passed.count() < next_seconds_) return true;
  constexpr double kMostSeconds = 600;
  next_seconds_ = passed.count() + std::min(passed.count(), kMostSeconds);
  note(fmt::format("step {} of {}: {}", progress.step, progress.steps, how));
  return true;
}

std::string training_text(const TuneReport& report) {
  const std::string validated =
      report.validation_loss
          ? fmt::format("The least loss on other data was {:.4g}, and its model is what is kept.\n",
                        *report.validation_loss)
          : "";
  const std::string drawn =
      report.drawn_parameters > 0
          ? fmt::format("{} of them were random at first.\n", human_count(report.drawn_parameters))
          : "";
  return fmt::format(
      "Trained {} of {} parameters in {}, {} tokens, {}.\n{}"
      "The loss was {:.4g} at first and {:.4g} in the end.\n{}",
      human_count(report.trained_parameters), human_count(report.parameters),
      counted(report.steps, "steps"), human_count(report.tokens), duration(report.seconds), drawn,
      report.first_loss, report.last_loss, validated);
}

std::string training_json(const TuneReport& report) {
  const Json json = {
      {"steps", report.steps},
      {"tokens", report.tokens},
      {"cut", report.cut},
      {"parameters", report.parameters},
      {"trained_parameters", report.trained_parameters},
      {"drawn_parameters", report.drawn_parameters},
      {"first_loss", report.first_loss},
      {"last_loss", report.last_loss},
      {"validation_loss", report.validation_loss ? Json(*report.validation_loss) : Json()},
      {"seconds", report.seconds},
      {"files", report.files},
      {"next", report.next}};
  return json.dump(2, ' ', false, Json::error_handler_t::replace);
}

}  // namespace tessera::cli
