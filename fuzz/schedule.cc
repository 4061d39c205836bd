// Any text is refused with a sentence, or is a schedule of cascade pruning that reads as it was
// written and whose counts fit any text: between one and all of its tokens and of the heads, and
// never more than in the layer before.

#include "pruning/schedule.h"

#include "support/target.h"

namespace tessera::fuzz {
namespace {

const ScheduledModel& model() {
  static const ScheduledModel kModel{.layers = 4,
                                     .query_heads = 8,
                                     .positions = 512,
                                     .vocabulary = 1000,
                                     .named_ids = {{"cls", 101}, {"sep", 102}}};
  return kModel;
}

void check_counts(const std::vector<int32_t>& kept, int32_t least, int32_t all) {
  int32_t before = all;
  require(kept.size() == static_cast<size_t>(model().layers));
  for (const int32_t count : kept) {
    require(count >= 1 && count >= least && count <= before);
    before = count;
  }
}

}  // namespace

void check(std::string_view input) {
  const auto schedule = parse_schedule(input, model(), "fuzz");
  if (!schedule.ok()) {
    require(!schedule.status().message().empty());
    return;
  }
  const std::string text = to_json(*schedule);
  const auto again = parse_schedule(text, model(), "fuzz");
  require(again.ok() && to_json(*again) == text);
  check_counts(heads_kept(*schedule, model()), 1, model().query_heads);
  for (const int32_t tokens : {1, 2, 37, 512}) {
    for (const int32_t kept : {0, tokens / 2})
      check_counts(tokens_kept(*schedule, model(), tokens, kept, tokens / 3), kept, tokens);
    for (int32_t layer = 0; layer < model().layers; ++layer)
      require(values_kept(*schedule, model(), layer, tokens, tokens / 3) >= 1);
  }
}

}  // namespace tessera::fuzz
