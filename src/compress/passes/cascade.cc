#include <nlohmann/json.hpp>

#include "compress/pass.h"
#include "pruning/presets.h"
#include "pruning/schedule.h"
#include "runtime/model_state.h"
#include "tokenizer/tokenizer.h"

namespace tessera {
namespace {

// Says in config.json what leaves while the model runs; its weights stay as they are.
class CascadePass final : public Pass {
 public:
  explicit CascadePass(NamedSchedule schedule) : schedule_(std::move(schedule)) {}

  PassInfo info() const override {
    return {.name = "cascade",
            .summary = "Lets tokens and heads leave while the model runs, by a schedule.",
            .citation = "Wang et al. 2021, SpAtten: cascade token and head pruning",
            .reads = "all",
            .writes = "none",
            .doing = "saving the schedule"};
  }

  std::string options() const override {
    nlohmann::ordered_json json = {{"pass", "cascade"}};
    json["schedule"] = nlohmann::ordered_json::parse(*schedule(), nullptr, false);
    return json.dump();
  }

  Status check(const SourceModel& model) const override {
    if (schedule_.json.empty()) return {};
    ScheduledModel fits = scheduled_model(model.architecture);
    const auto tokenizer = Tokenizer::open(model.source.checkpoint->directory());
    if (tokenizer.ok()) fits.named_ids = named_ids(**tokenizer);
    return parse_schedule(schedule_.json, fits, schedule_.source).status();
  }

  bool takes(const Item&) const override { return false; }
  Status apply(const MapWork&) override { return {}; }
  std::optional<std::string> schedule() const override {
    return schedule_.json.empty() ? "null" : schedule_.json;
  }

 private:
  NamedSchedule schedule_;  // empty: none
};

}  // namespace

MadePass make_cascade_pass(const CompressOptions& options) {
  if (options.pruning.empty()) return std::unique_ptr<Pass>();
  NamedSchedule schedule;
  if (options.pruning != kNoPruning) {
    TESSERA_ASSIGN_OR_RETURN(schedule, find_schedule(options.pruning));
  }
  return std::unique_ptr<Pass>(std::make_unique<CascadePass>(std::move(schedule)));
}

}  // namespace tessera
