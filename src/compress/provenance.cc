#include "compress/provenance.h"

#include <nlohmann/json.hpp>

#include "io/compressed.h"
#include "tessera/version.h"

namespace tessera {
namespace {

using OrderedJson = nlohmann::ordered_json;

std::vector<OrderedJson> passes_of(const Run& run) {
  std::vector<OrderedJson> passes;
  for (const auto& pass : *run.passes) passes.push_back(OrderedJson::parse(pass->options()));
  return passes;
}

// What the source's section says, where it was compressed before; else null.
OrderedJson earlier(const Checkpoint& source, const char* pointer) {
  const OrderedJson config = OrderedJson::parse(source.config().dump(), nullptr, false);
  const OrderedJson::json_pointer place(pointer);
  return config.contains(place) ? config[place] : OrderedJson();
}

// The passes that made the source.
OrderedJson earlier_passes(const Checkpoint& source) {
  OrderedJson passes = earlier(source, "/tessera/provenance/passes");
  return passes.is_array() ? passes : OrderedJson::array();
}

// That of this run, or else the source's, which goes on to be used; null: none.
OrderedJson schedule_of(const Run& run, const Checkpoint& source) {
  for (const auto& pass : *run.passes) {
    if (const auto schedule = pass->schedule())
      return OrderedJson::parse(*schedule, nullptr, false);
  }
  return earlier(source, "/tessera/pruning");
}

OrderedJson section_of(const OrderedJson& passes, const std::map<std::string, std::string>& hashes,
                       OrderedJson seeds) {
  return {
      {"format", kFormatVersion},
      {"version", version()},
      {"options", passes.back()},
      {"provenance", {{"source_sha256", hashes}, {"passes", passes}, {"seeds", std::move(seeds)}}}};
}

}  // namespace

std::string run_text(const Run& run) {
  OrderedJson json = {{"version", version()},
                      {"options", passes_of(run)},
                      {"source", *run.source_hashes},
                      {"tokens", OrderedJson::array()},
                      {"types", OrderedJson::array()}};
  for (const TokenSequence& sequence : *run.sequences) {
    json["tokens"].push_back(sequence.ids);
    json["types"].push_back(sequence.type_ids);
  }
  return json.dump() + "\n";
}

std::string section(const Run& run, const Checkpoint& source) {
  const bool is_plain = !source.config().has("tessera");
  if (is_plain && run.passes->front()->leaves() == Pass::Leaves::kPlain) return "";
  int64_t tokens = 0;
  for (const TokenSequence& sequence : *run.sequences)
    tokens += static_cast<int64_t>(sequence.ids.size());
  OrderedJson list = earlier_passes(source);
  for (OrderedJson& pass : passes_of(run)) {
    if (tokens > 0) pass["calibration_tokens"] = tokens;
    list.push_back(std::move(pass));
  }
  OrderedJson json = section_of(list, *run.source_hashes, OrderedJson::array());
  if (OrderedJson schedule = schedule_of(run, source); !schedule.is_null())
    json["pruning"] = std::move(schedule);
  return json.dump();
}

std::string section(const TrainingPass& training, const Checkpoint& source) {
  OrderedJson list = earlier_passes(source);
  list.push_back(OrderedJson::parse(training.pass));
  OrderedJson json = section_of(list, *training.source_hashes, OrderedJson::array({training.seed}));
  if (OrderedJson schedule = earlier(source, "/tessera/pruning"); !schedule.is_null())
    json["pruning"] = std::move(schedule);
  return json.dump();
}

}  // namespace tessera
