#include "pruning/presets.h"

#include <fmt/format.h>

#include "io/json.h"
#include "tessera/pruning.h"

namespace tessera {
namespace {

struct Preset {
  const char* name;
  const char* description;
  const char* schedule;
};

// The counts of the published runs: shares of 1024 positions, whatever the length, and prompts that
// are read whole. A threshold above 1 reads both planes of every key.
constexpr Preset kPresets[] = {
    {"spatten-gpt2-small",
     "GPT-2 small (12 layers) on WikiText-2, as the authors of SpAtten ran it.",
     R"({"tokens": [0.9, 0.7, 0.2, 0.2, 0.2, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1], "values": 0.2, )"
     R"("key_bits": "6+4", "value_bits": 6, "refetch": {"below": 0.05}, )"
     R"("prefill": "skip", "base": "positions"})"},
    {"spatten-gpt2-medium",
     "GPT-2 medium (24 layers) on WikiText-2, as the authors of SpAtten ran it.",
     R"({"tokens": [1, 1, 0.9, 0.8, 0.8, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.3, 0.3, 0.3, 0.3, 0.3, )"
     R"(0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3], )"
     R"("heads": [16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, )"
     R"(13, 13, 13, 13, 13, 13, 10, 10], "values": 0.3, )"
     R"("key_bits": "8+4", "value_bits": 8, "refetch": {"below": 2}, )"
     R"("prefill": "skip", "base": "positions"})"},
};

}  // namespace

std::vector<PruningPreset> pruning_presets() {
  std::vector<PruningPreset> presets;
  for (const Preset& each : kPresets)
    presets.push_back({each.name, each.description, each.schedule});
  return presets;
}

Result<NamedSchedule> find_schedule(std::string_view text) {
  if (text.find('{') != std::string_view::npos) return NamedSchedule{std::string(text), "pruning"};
  std::string names;
  for (const Preset& each : kPresets) {
    if (text == each.name) return NamedSchedule{each.schedule, each.name};
    names += fmt::format("{}, ", each.name);
  }
  return invalid_input(fmt::format("pruning: expected a JSON object, {}or {}, found {}", names,
                                   kNoPruning, quote(text)));
}

}  // namespace tessera
