// Any text is refused with a sentence, or is a schedule of cascade pruning that reads as it was
// written and whose counts fit any text: between one and all of its tokens, and never more than in
// the layer before.

#include "pruning/schedule.h"

#include "support/target.h"

namespace tessera::fuzz {
namespace {

constexpr ScheduledModel kModel{.layers = 4, .positions = 512, .vocabulary = 1000};

void check_counts(const PruningSchedule& schedule, int32_t tokens, int32_t protected_tokens) {
  int32_t before = tokens;
  const std::vector<int32_t> kept = tokens_kept(schedule, kModel, tokens, protected_tokens);
  require(kept.size() == static_cast<size_t>(kModel.layers));
  for (const int32_t count : kept) {
    require(count >= 1 && count >= protected_tokens && count <= before);
    before = count;
  }
}

}  // namespace

void check(std::string_view input) {
  const auto schedule = parse_schedule(input, kModel, "fuzz");
  if (!schedule.ok()) {
    require(!schedule.status().message().empty());
    return;
  }
  const std::string text = to_json(*schedule);
  const auto again = parse_schedule(text, kModel, "fuzz");
  require(again.ok() && to_json(*again) == text);
  for (const int32_t tokens : {1, 2, 37, 512}) {
    check_counts(*schedule, tokens, 0);
    check_counts(*schedule, tokens, tokens / 2);
  }
}

}  // namespace tessera::fuzz
