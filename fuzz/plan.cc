// Any text is refused with a sentence, or is a plan or a machine table that is read again from what
// is written of it.

#include "plan/plan.h"

#include "plan/machine.h"
#include "support/target.h"

namespace tessera::fuzz {
namespace {

constexpr int32_t kLayers = 3;

void check_plan(const std::string& text) {
  const auto plan = plan_from_json(text, "fuzz", kLayers);
  if (!plan.ok()) return require(!plan.status().message().empty());
  require(plan->layers.size() == kLayers);
  const std::string written = plan_to_json(*plan);
  const auto again = plan_from_json(written, "written", kLayers);
  require(again.ok() && plan_to_json(*again) == written);
}

void check_table(const std::string& text) {
  const auto table = machine_table_from_json(text, "fuzz");
  if (!table.ok()) return require(!table.status().message().empty());
  const std::string written = machine_table_json(*table);
  const auto again = machine_table_from_json(written, "written");
  require(again.ok() && machine_table_json(*again) == written);
}

}  // namespace

void check(std::string_view input) {
  check_plan(std::string(input));
  check_table(std::string(input));
}

}  // namespace tessera::fuzz
