#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "tessera/names.h"

namespace tessera {

// How much of something a layer keeps: a share of a base, or a count.
struct Keep {
  double share = 1;   // in (0, 1]
  int32_t count = 0;  // above 0: this many, whatever the share

  bool keeps_all() const { return count == 0 && share == 1; }
};

// What a share is of: the tokens of the sequence, or the most positions that the model has, as in
// the published runs of SpAtten.
enum class CountBase { kTokens, kPositions };
constexpr auto names_of(CountBase) { return enum_names("tokens", "positions"); }

// Whether a token's importance is divided by the number of queries that could see it, which with a
// causal mask no longer favours early tokens.
enum class ImportanceScale { kNone, kQueries };
constexpr auto names_of(ImportanceScale) { return enum_names("none", "queries"); }

// What an embedding is pooled from: every token, those that left with the state that they left
// with, or those that the last layer has.
enum class PoolRows { kAll, kSurvivors };
constexpr auto names_of(PoolRows) { return enum_names("all", "survivors"); }

// Cascade token pruning (SpAtten, https://arxiv.org/abs/2012.09852, section III.A): in front of
// each layer only the tokens stay that the layers before attended to most. A token that left takes
// part in no later layer.
struct PruningSchedule {
  std::vector<Keep> tokens = {};  // of each layer, none more than the one before
  CountBase base = CountBase::kTokens;
  int32_t minimum = 1;  // tokens that stay at least, where there are as many
  // What is left of the importance found so far when that of a layer is added, in (0, 1].
  double decay = 1;
  ImportanceScale scale = ImportanceScale::kNone;
  PoolRows pooling = PoolRows::kAll;
  // Tokens that never leave: so many first and last ones of a sequence, and those with these ids.
  int32_t protect_first = 0;
  int32_t protect_last = 0;
  std::vector<int32_t> protect_ids = {};

  bool keeps_all() const;
};

// What a schedule has to fit.
struct ScheduledModel {
  int32_t layers = 0;
  int32_t positions = 0;   // the longest sequence
  int32_t vocabulary = 0;  // token ids are below it
};

// Reads the JSON of a schedule, as docs/cascade.md describes it; source opens the message. The
// average of a schedule that gives only that becomes a share for each layer (average_keep).
Result<PruningSchedule> parse_schedule(std::string_view text, const ScheduledModel& model,
                                       const std::string& source);
// Reads to the same schedule.
std::string to_json(const PruningSchedule& schedule);

// A share for each layer with this average: the first 15% of the layers, rounded, keep all, the
// others fall in equal steps around what is left. kInvalidInput where the average leaves a layer
// fewer than 5%.
Result<std::vector<Keep>> average_keep(double average, int32_t layers);

// How many tokens of a sequence of `tokens` enter each layer, `protected_tokens` of which stay:
//   n_l = min(n_(l-1), max(floor(share_l * base), minimum, protected))
std::vector<int32_t> tokens_kept(const PruningSchedule& schedule, const ScheduledModel& model,
                                 int32_t tokens, int32_t protected_tokens);

}  // namespace tessera
