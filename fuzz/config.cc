// Any text is refused with a sentence, or gives an object every accessor of which answers, and
// whose dump parses to the same dump.

#include "io/config.h"

#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

using tessera::Config;

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

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

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto config = Config::parse({reinterpret_cast<const char*>(data), size}, "fuzz");
  if (!config.ok()) {
    require(!config.status().message().empty());
    return 0;
  }
  ask_everything(*config);
  const std::string dump = config->dump();
  const auto again = Config::parse(dump, "dump");
  require(again.ok() && again->dump() == dump);
  return 0;
}
