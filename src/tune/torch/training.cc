#include "tune/torch/training.h"

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <filesystem>
#include <optional>

#include "base/guarded.h"
#include "base/team.h"
#include "compress/model_card.h"
#include "compress/model_files.h"
#include "compress/output.h"
#include "compress/paths.h"
#include "compress/provenance.h"
#include "io/mapped_file.h"
#include "tune/batch.h"
#include "tune/beginning.h"
#include "tune/card.h"
#include "tune/learning_rate.h"
#include "tune/log.h"
#include "tune/options.h"
#include "tune/random.h"
#include "tune/torch/adapter_files.h"
#include "tune/torch/objective.h"
#include "tune/torch/optimizer.h"
#include "tune/torch/restrictions.h"
#include "tune/torch/state.h"
#include "tune/torch/validation.h"

namespace tessera::training {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// What libtorch keeps for the whole process, put back when a training ends.
class TorchSettings {
 public:
  explicit TorchSettings(int threads)
      : threads_(at::get_num_threads()),
        deterministic_(at::globalContext().deterministicAlgorithms()) {
    at::set_num_threads(threads);
    at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
  }
  ~TorchSettings() {
    at::set_num_threads(threads_);
    at::globalContext().setDeterministicAlgorithms(deterministic_, false);
  }
  TorchSettings(const TorchSettings&) = delete;
  TorchSettings& operator=(const TorchSettings&) = delete;

 private:
  int threads_;
  bool deterministic_;
};

class Training {
 public:
  Training(const std::string& source, const std::string& target, const TuneOptions& options)
      : name_(source), target_(target), options_(options) {}

  Result<TuneReport> run() {
    TESSERA_ASSIGN_OR_RETURN(origin_, find_model(name_));
    TESSERA_RETURN_IF_ERROR(check_target(origin_, target_, options_.existing));
    TESSERA_RETURN_IF_ERROR(hash_inputs());
    home_ = origin_;
    TESSERA_ASSIGN_OR_RETURN(const std::optional<Beginning> beginning,
                             beginning_of(options_, home_));
    if (beginning) TESSERA_RETURN_IF_ERROR(write_anew(*beginning));
    if (const Status status = open(); !status.ok()) {
      // What is there so far is made again by a call that puts right what was wrong.
      if (part_ && !has_state()) (void)part_->output().discard();
      return status;
    }
    if (!part_) TESSERA_RETURN_IF_ERROR(open_part());
    TESSERA_RETURN_IF_ERROR(begin(part_->output()));
    TESSERA_RETURN_IF_ERROR(train(part_->output()));
    TESSERA_RETURN_IF_ERROR(write(*part_));
    return report();
  }

 private:
  Status open_part() {
    TESSERA_ASSIGN_OR_RETURN(
        PartDirectory part,
        PartDirectory::open(target_, run_text(options_, inputs_), options_.existing));
    part_.emplace(std::move(part));
    return {};
  }

  bool has_state() const {
    std::error_code ignored;
    return std::filesystem::exists(state_file(part_->output()), ignored);
  }

  Status hash_inputs() {
    if (!options_.from_scratch) {
      TESSERA_ASSIGN_OR_RETURN(inputs_.source, hash_tensor_files(origin_.transformer));
    }
    for (const char* name : {"config.json", "tokenizer.json", "vocab.txt"}) {
      const std::string file = origin_.transformer + "/" + name;
      std::error_code ignored;
      if (!std::filesystem::exists(file, ignored)) continue;
      TESSERA_ASSIGN_OR_RETURN(inputs_.settings[name], hash_file(file));
    }
    if (!options_.distil.teacher.empty()) {
      TESSERA_ASSIGN_OR_RETURN(const ModelDirectory teacher, find_model(options_.distil.teacher));
      TESSERA_ASSIGN_OR_RETURN(inputs_.teacher, hash_tensor_files(teacher.transformer));
    }
    TESSERA_ASSIGN_OR_RETURN(inputs_.data, hash_data(options_));
    return {};
  }

  // Goes on from a model that is written first, the same each time.
  Status write_anew(const Beginning& beginning) {
    TESSERA_RETURN_IF_ERROR(open_part());
    const std::string directory = part_->output().path() + "/" + kTrainingBeginning;
    std::error_code error;
    std::filesystem::remove_all(directory, error);
    std::filesystem::create_directory(directory, error);
    Result<int64_t> drawn = write_beginning(origin_, beginning, options_.seed, directory);
    if (!drawn.ok() && !has_state()) (void)part_->output().discard();
    if (!drawn.ok()) return drawn.status();
    drawn_ = *drawn;
    home_ = {directory, directory};
    return {};
  }

  Status open() {
    TESSERA_ASSIGN_OR_RETURN(source_, OpenCheckpoint::open(home_.transformer));
    TESSERA_ASSIGN_OR_RETURN(model_, read_model(*source_, fused_qkv(options_)));
    TESSERA_RETURN_IF_ERROR(choose_trained(options_, model_));
    TESSERA_ASSIGN_OR_RETURN(batches_, read_batches(home_, model_.architecture, options_));
    TESSERA_ASSIGN_OR_RETURN(objective_,
                             Objective::open(options_, home_, *source_, model_.architecture));
    TESSERA_ASSIGN_OR_RETURN(restrictions_, make_restrictions(options_, model_));
    if (!options_.validate.empty()) {
      TESSERA_ASSIGN_OR_RETURN(validation_, Validation::open(options_, home_, model_.architecture));
    }
    return check_needed_space();
  }

  // Two checkpoints stand on the disk while one takes the other's place, and then one and the
  // whole.
  Status check_needed_space() {
    int64_t numbers = 0;
    for (const Parameter* parameter : model_.trained()) numbers += parameter->value.numel();
    const int64_t copies = validation_ ? 4 : 3;
    const int64_t state = copies * static_cast<int64_t>(sizeof(float)) * numbers;
    const auto whole =
        writes_adapter(options_) ? 0 : static_cast<int64_t>(source_->checkpoint.size_bytes());
    return check_space(target_, state + std::max(state, 2 * whole));
  }

  static std::string state_file(const OutputDirectory& output) {
    return output.path() + "/" + kTrainingState;
  }

  Status begin(const OutputDirectory& output) {
    optimizer_.emplace(options_.optimizer, model_.trained());
    std::error_code ignored;
    if (std::filesystem::exists(state_file(output), ignored))
      TESSERA_RETURN_IF_ERROR(
          read_state(state_file(output), *optimizer_, restrictions_, validation()));
    for (const auto& restriction : restrictions_)
      TESSERA_RETURN_IF_ERROR(restriction->begin(model_));
    TESSERA_ASSIGN_OR_RETURN(TrainingLog log, TrainingLog::open(output.path() + "/" + kTrainingLog,
                                                                optimizer_->steps()));
    log_.emplace(std::move(log));
    return {};
  }

  Validation* validation() { return validation_ ? &*validation_ : nullptr; }

  bool is_over(int64_t steps) const {
    return steps == options_.steps || (validation_ && validation_->is_over());
  }

  Status train(const OutputDirectory& output) {
    Pace pace{.first = optimizer_->steps()};
    for (int64_t step = pace.first; !is_over(step); ++step) {
      TESSERA_ASSIGN_OR_RETURN(StepRecord record, one_step(step));
      const bool is_milestone =
          step + 1 == options_.steps || (step + 1) % options_.checkpoint_every == 0;
      if (is_milestone && validation_) {
        record.validation = validation_->measure(model_, *objective_);
        TESSERA_RETURN_IF_ERROR(check_finite("loss of other data", *record.validation, record));
      }
      TESSERA_RETURN_IF_ERROR(log_->append(record));
      pace.tokens += record.tokens;
      const bool goes_on = progress(pace);
      if (!goes_on || is_milestone) TESSERA_RETURN_IF_ERROR(write_checkpoint(output));
      if (goes_on || is_over(step + 1)) continue;
      return {StatusCode::kCancelled,
              fmt::format("the training was stopped after step {}; the same call goes on from "
                          "there",
                          step + 1)};
    }
    return {};
  }

  Result<StepRecord> one_step(int64_t step) {
    const Clock::time_point begin = Clock::now();
    // So that a training that is taken up draws what it would have drawn.
    at::manual_seed(Random::word(options_.seed, step));
    StepRecord record{.step = step + 1, .learning_rate = learning_rate(options_, step)};
    for (int32_t i = 0; i < options_.accumulate; ++i) {
      const Batch batch = batches_->batch(step * options_.accumulate + i);
      const at::Tensor loss =
          objective_->loss(model_, batch, Objective::Use::kTraining) / options_.accumulate;
      record.loss += loss.item<double>();
      record.tokens += batch.tokens();
      TESSERA_RETURN_IF_ERROR(check_finite("loss", record.loss, record));
      if (!loss.requires_grad()) {
        return invalid_input(
            "expected a loss that depends on what is trained, found none: weigh another loss, or "
            "train other tensors");
      }
      loss.backward();
    }
    for (const auto& restriction : restrictions_)
      record.penalty = record.penalty.value_or(0) + restriction->add_gradients(model_, step);
    record.gradient_norm = optimizer_->gradient_norm();
    TESSERA_RETURN_IF_ERROR(check_finite("gradient", record.gradient_norm, record));
    const double most = options_.optimizer.clip;
    const bool clips = most > 0 && record.gradient_norm > most;
    optimizer_->step(record.learning_rate, clips ? most / record.gradient_norm : 1);
    for (const auto& restriction : restrictions_)
      TESSERA_RETURN_IF_ERROR(restriction->after_step(model_, step));
    record.seconds = seconds_since(begin);
    return record;
  }

  Status check_finite(const char* what, double value, const StepRecord& record) const {
    if (std::isfinite(value)) return {};
    return invalid_input(
        fmt::format("{}: expected a finite {} at step {}, found {} at a learning rate of {:.3g}: "
                    "begin anew with a lower rate, or with gradients that are clipped shorter, and "
                    "with --force, since what is kept there goes on with the same options alone",
                    target_ + ".part", what, record.step, std::isnan(value) ? "NaN" : "infinity",
                    record.learning_rate));
  }

  // The log first: no checkpoint is behind what it says.
  Status write_checkpoint(const OutputDirectory& output) {
    TESSERA_RETURN_IF_ERROR(log_->sync());
    return write_state(state_file(output), *optimizer_, restrictions_, validation());
  }

  // What this process has done of the training.
  struct Pace {
    int64_t first = 0;  // steps that others had done
    int64_t tokens = 0;
    Clock::time_point begin = Clock::now();
  };

  // Whether the training goes on.
  bool progress(const Pace& pace) const {
    if (!options_.on_progress) return true;
    constexpr size_t kRecent = 20;
    const std::vector<StepRecord>& records = log_->records();
    TuneProgress progress{.step = records.back().step, .steps = options_.steps};
    const size_t recent = std::min(records.size(), kRecent);
    for (size_t i = records.size() - recent; i < records.size(); ++i)
      progress.loss += records[i].loss / static_cast<double>(recent);
    const double seconds = seconds_since(pace.begin);
    progress.tokens_per_second = static_cast<double>(pace.tokens) / seconds;
    progress.seconds_left = seconds / static_cast<double>(progress.step - pace.first) *
                            static_cast<double>(progress.steps - progress.step);
    return options_.on_progress(progress);
  }

  // The section of the new config.json; empty where nothing is compressed.
  std::string section_text() const {
    bool is_compressed = source_->checkpoint.config().has("tessera");
    for (const Parameter& parameter : model_.parameters)
      is_compressed = is_compressed || parameter.mask.has_value();
    if (!is_compressed) return "";
    return section(TrainingPass{.pass = pass_text(options_, inputs_),
                                .source_hashes = &inputs_.source,
                                .seed = options_.seed},
                   source_->checkpoint);
  }

  // A model with all of its files, or an adapter.
  Status write_result(const PartDirectory& part, const std::string& section,
                      const std::string& whole) {
    if (writes_adapter(options_)) {
      const std::string card = home_.path + "/" + kCard;  // of which the new one takes its header
      std::error_code ignored;
      std::filesystem::copy_file(card, whole + "/" + kCard, ignored);
      return write_adapter(*source_, model_, *options_.lora, name_, whole);
    }
    const std::string inner = home_.transformer_in(whole);
    std::filesystem::create_directories(inner);
    TESSERA_RETURN_IF_ERROR(write_model(*source_, model_, section, part, inner));
    return copy_other_files(home_, whole, [] { return Status(); });
  }

  Status write(const PartDirectory& part) {
    TESSERA_ASSIGN_OR_RETURN(const std::string whole, part.output().make_whole());
    const std::string section = writes_adapter(options_) ? "" : section_text();
    if (validation_) validation_->give_best(model_);
    TESSERA_RETURN_IF_ERROR(write_result(part, section, whole));
    TESSERA_RETURN_IF_ERROR(write_log(whole));
    const TuneReport told = report();
    TESSERA_RETURN_IF_ERROR(write_tune_card({.source = origin_.path,
                                             .target = target_,
                                             .options = &options_,
                                             .report = &told,
                                             .head = model_.architecture.head,
                                             .section = section},
                                            whole));
    return part.output().finish();
  }

  Status write_log(const std::string& whole) const {
    std::string lines;
    for (const StepRecord& record : log_->records()) lines += to_line(record) + "\n";
    TESSERA_RETURN_IF_ERROR(write_file_atomically(whole + "/" + kTrainingLog, lines));
    const std::string title = std::filesystem::path(target_).filename();
    return write_file_atomically(whole + "/" + kTrainingCurve, draw_curve(log_->records(), title));
  }

  TuneReport report() {
    const std::vector<StepRecord>& records = log_->records();
    TuneReport report{.steps = static_cast<int64_t>(records.size()),
                      .tokens = tokens_of(records),
                      .cut = batches_->cut(),
                      .parameters = model_.weights(),
                      .drawn_parameters = drawn_,
                      .first_loss = first_loss(records),
                      .last_loss = last_loss(records),
                      .validation_loss = validation_ ? validation_->best_loss() : std::nullopt,
                      .seconds = seconds_of(records),
                      .files = {target_ + "/" + kTrainingLog, target_ + "/" + kTrainingCurve},
                      .next = next_of(options_, model_.architecture.head, name_, target_)};
    for (const Parameter* parameter : model_.trained())
      report.trained_parameters +=
          parameter->mask ? parameter->mask->kept_weights() : parameter->value.numel();
    return report;
  }

  const std::string& name_;
  const std::string& target_;
  const TuneOptions& options_;
  ModelDirectory origin_, home_;  // the source, and what the training begins with
  std::optional<PartDirectory> part_;
  int64_t drawn_ = 0;
  std::unique_ptr<OpenCheckpoint> source_;
  TrainedModel model_;
  std::unique_ptr<Batches> batches_;
  std::optional<Objective> objective_;
  std::optional<Validation> validation_;
  Restrictions restrictions_;
  TuneInputs inputs_;
  std::optional<AdamW> optimizer_;
  std::optional<TrainingLog> log_;
};

Status status_of(const c10::Error& error) {
  const std::string message = error.what_without_backtrace();
  if (message.find("not enough memory") != std::string::npos)
    return out_of_memory("not enough memory for the training");
  return invalid_input(message.substr(0, message.find('\n')));
}

}  // namespace

Result<TuneReport> run_training(const std::string& source, const std::string& target,
                                const TuneOptions& options) {
  return guarded(source, [&]() -> Result<TuneReport> {
    try {
      const std::string plain = plain_path(target);
      const TorchSettings settings(options.threads > 0 ? options.threads : usable_cpus());
      return Training(source, plain, options).run();
    } catch (const c10::Error& error) {
      return status_of(error);
    }
  });
}

}  // namespace tessera::training
