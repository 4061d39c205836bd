// Any text is refused with a sentence, or gives an object every accessor of which answers, and
// whose dump parses to the same dump; as that of an adapter it is refused or taken.

#include "io/config.h"

#include "io/adapter.h"
#include "support/target.h"

namespace tessera::fuzz {
namespace {

void ask_everything(const Config& config) {
  for (const std::string& key : config.keys()) {
    (void)config.has(key);
    (void)config.integer(key, -10, 10).ok();
    (void)config.number_or(key, 1.0).ok();
    (void)config.string(key).ok();
    (void)config.truth_or(key, Config::Truth::kNo).ok();
    (void)config.strings(key).ok();
    (void)config.integers(key).ok();
    (void)config.strings_by_index(key).ok();
    const auto child = config.child(key);
    if (child.ok()) ask_everything(*child);
  }
}

}  // namespace

void check(std::string_view input) {
  const auto config = Config::parse(input, "fuzz");
  if (!config.ok()) {
    require(!config.status().message().empty());
    return;
  }
  ask_everything(*config);
  const auto adapter = read_adapter_config(*config);
  require(adapter.ok() || !adapter.status().message().empty());
  const std::string dump = config->dump();
  const auto again = Config::parse(dump, "dump");
  require(again.ok() && again->dump() == dump);
}

}  // namespace tessera::fuzz
