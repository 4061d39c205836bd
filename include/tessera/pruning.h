#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "tessera/export.h"

namespace tessera {

struct CacheReadProfile;  // tessera/model.h

// A schedule of cascade pruning that somebody published (docs/cascade.md). Its name in place of a
// schedule's JSON asks for it, as in LoadOptions::pruning.
struct PruningPreset {
  std::string name = {};
  std::string description = {};  // one sentence: of which model, and where it is from
  std::string schedule = {};     // JSON
};

TESSERA_API std::vector<PruningPreset> pruning_presets();

// What cascade pruning does to a sequence while it runs (docs/trace.md): one layer of it in one
// pass. LoadOptions::on_pruning gets one behind each layer's attention. What does not apply is
// empty or 0; spans live for the call.
struct PruningRecord {
  int64_t sequence = 0;  // counted from 0 in the order in which a model begins with them
  int32_t step = 0;      // 0: a whole text or a prompt; from 1 on, a generated token each
  int32_t layer = 0;
  int32_t length = 0;                    // tokens of the sequence so far, pruned ones too
  int32_t queries = 0;                   // rows that ran through the layer
  std::span<const int32_t> ids = {};     // of the rows of a pass, with its first layer alone
  std::span<const int32_t> tokens = {};  // positions in the sequence that are alive, ascending
  // Of those: what they were attended to so far, this layer included, as the schedule sums it.
  std::span<const float> importance = {};
  // Where heads leave: query heads that are alive, ascending, and the sum of their outputs'
  // magnitudes so far, this layer included, as the schedule sums it.
  std::span<const int32_t> heads = {};
  std::span<const float> head_importance = {};
  // What the only query read of keys and values, over its query heads; null where several ran.
  const CacheReadProfile* reads = nullptr;
};

// A line of JSON without its end, as docs/trace.md describes it.
TESSERA_API std::string to_json(const PruningRecord& record);

}  // namespace tessera
