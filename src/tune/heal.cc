#include <fmt/format.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/guarded.h"
#include "compress/directory.h"
#include "compress/model_card.h"
#include "compress/output.h"
#include "compress/paths.h"
#include "compress/pipeline.h"
#include "io/mapped_file.h"
#include "model/architecture.h"
#include "tessera/tune.h"
#include "tune/backend.h"
#include "tune/batch.h"
#include "tune/options.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;
using OrderedJson = nlohmann::ordered_json;

constexpr double kRateOfIntegers = 1e-4;

OrderedJson to_json(const std::optional<ModelSpeed>& speed) {
  if (!speed) return {};
  return {{"tokens", speed->tokens},
          {"pass_seconds", speed->pass_seconds},
          {"tokens_per_second", speed->tokens_per_second}};
}
std::optional<ModelSpeed> speed_of(const OrderedJson& json) {
  if (!json.is_object()) return std::nullopt;
  return ModelSpeed{.tokens = json.value("tokens", 0),
                    .pass_seconds = json.value("pass_seconds", 0.0),
                    .tokens_per_second = json.value("tokens_per_second", 0.0)};
}

OrderedJson to_json(const CompressReport& report) {
  OrderedJson passes = OrderedJson::array();
  for (const PassReport& pass : report.passes)
    passes.push_back({{"name", pass.name}, {"seconds", pass.seconds}});
  return {{"passes", passes},
          {"matrices", OrderedJson::parse(reports_text(report.matrices))},
          {"bytes_before", report.bytes_before},
          {"bytes_after", report.bytes_after},
          {"share", report.share},
          {"speed_before", to_json(report.speed_before)},
          {"speed_after", to_json(report.speed_after)},
          {"head", static_cast<int>(report.head)}};
}
CompressReport report_of(const OrderedJson& json) {
  CompressReport report{.matrices = parse_reports(json.at("matrices").dump()),
                        .bytes_before = json.at("bytes_before"),
                        .bytes_after = json.at("bytes_after"),
                        .share = json.at("share"),
                        .speed_before = speed_of(json.at("speed_before")),
                        .speed_after = speed_of(json.at("speed_after")),
                        .head = static_cast<Head>(json.at("head").get<int>())};
  for (const OrderedJson& pass : json.at("passes"))
    report.passes.push_back({.name = pass.at("name"), .seconds = pass.at("seconds")});
  return report;
}

// What was compressed, beside the target until that is there, and a file that says of which run it
// is, before it is begun, and what was reported of it, once it is whole.
class Stage {
 public:
  explicit Stage(const std::string& target)
      : directory_(target + ".compressed"), record_(directory_ + ".json") {}

  const std::string& directory() const { return directory_; }

  // Does what is not done yet.
  Result<CompressReport> compress(const std::string& source, const CompressOptions& options) const {
    CompressOptions own = options;
    own.existing = Existing::kReplace;  // what is not ours is refused here
    TESSERA_ASSIGN_OR_RETURN(const std::string run, compress_run_text(source, directory_, own));
    const OrderedJson record = read();
    const bool is_equal = record.is_object() && record.value("run", "") == run;
    if (!is_equal && options.existing == Existing::kRefuse) TESSERA_RETURN_IF_ERROR(check_free());
    std::error_code ignored;
    if (is_equal && record.contains("report") && fs::exists(directory_, ignored))
      return report_of(record.at("report"));
    TESSERA_RETURN_IF_ERROR(write({{"run", run}}));
    TESSERA_ASSIGN_OR_RETURN(CompressReport report, tessera::compress(source, directory_, own));
    TESSERA_RETURN_IF_ERROR(write({{"run", run}, {"report", to_json(report)}}));
    return report;
  }

  // At whatever moment this is killed, a later run finds a stage that is whole, or none.
  void remove() const {
    std::error_code ignored;
    const std::string leaving = directory_ + ".tmp";
    fs::remove_all(leaving, ignored);
    fs::rename(directory_, leaving, ignored);
    fs::remove(record_, ignored);
    fs::remove_all(leaving, ignored);
  }

 private:
  // Neither what another run left nor a model that somebody called so.
  Status check_free() const {
    std::error_code ignored;
    for (const std::string& path : {directory_, record_, directory_ + ".part"}) {
      if (!fs::exists(path, ignored)) continue;
      return invalid_input(
          fmt::format("{}: expected what an interrupted run of the same options left, or nothing, "
                      "found something else: --force begins anew, or remove it",
                      path));
    }
    return {};
  }

  OrderedJson read() const {
    constexpr size_t kLimitBytes = size_t{1} << 30;
    const Result<std::string> text = read_text_file(record_, kLimitBytes);
    return text.ok() ? OrderedJson::parse(*text, nullptr, false) : OrderedJson();
  }
  Status write(const OrderedJson& record) const {
    return write_file_atomically(
        record_, record.dump(-1, ' ', false, OrderedJson::error_handler_t::replace) + "\n");
  }

  std::string directory_, record_;
};

// Whether a training can make up for what the options change.
Status check_healable(const CompressOptions& options) {
  const bool prunes = options.prune && options.prune->share > 0;
  const bool has_schedule = !options.pruning.empty() && options.pruning != "none";
  if (prunes || has_schedule || options.kv_heads || options.quantize) return {};
  return invalid_input(
      "expected a compression that removes or rounds something to heal, found one that does not");
}

// So that nobody waits hours to hear of a file that is not there.
Status check_texts(const std::string& source, const TuneOptions& options) {
  TESSERA_ASSIGN_OR_RETURN(const ModelDirectory home, find_model(source));
  TESSERA_ASSIGN_OR_RETURN(const auto opened, OpenCheckpoint::open(home.transformer));
  TESSERA_ASSIGN_OR_RETURN(const Architecture architecture, read_architecture(opened->checkpoint));
  return read_batches(home, architecture, options).status();
}

Result<HealReport> heal_in_stages(const std::string& source, const std::string& target,
                                  const CompressOptions& compression, const TuneOptions& training) {
  TESSERA_RETURN_IF_ERROR(check_healable(compression));
  TESSERA_RETURN_IF_ERROR(check(training));
  TESSERA_RETURN_IF_ERROR(check_backend());
  TESSERA_ASSIGN_OR_RETURN(const ModelDirectory home, find_model(source));
  TESSERA_RETURN_IF_ERROR(check_target(home, target, compression.existing));
  TESSERA_RETURN_IF_ERROR(check_texts(source, training));
  const Stage stage(target);
  HealReport report;
  TESSERA_ASSIGN_OR_RETURN(report.compressed, stage.compress(source, compression));
  TESSERA_ASSIGN_OR_RETURN(report.trained, tune(stage.directory(), target, training));
  stage.remove();
  report.compressed.next = next_commands(report.compressed.head, source, target);
  report.trained.next = report.compressed.next;
  return report;
}

}  // namespace

Result<HealReport> heal(const std::string& source, const std::string& target,
                        const CompressOptions& compression, const TuneOptions& training) {
  TuneOptions own = training;
  own.task = TuneTask::kDistil;
  own.distil.teacher = source;
  own.command = compression.command;
  // Small steps, of which each moves few integers.
  if (compression.quantize && own.optimizer.learning_rate == 0)
    own.optimizer.learning_rate = kRateOfIntegers;
  own.existing = compression.existing;
  return guarded(source,
                 [&] { return heal_in_stages(source, plain_path(target), compression, own); });
}

}  // namespace tessera
