#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/team.h"
#include "base/trace.h"
#include "model/architecture.h"
#include "model/forward.h"
#include "model/sentence_encoder.h"
#include "model/weights.h"
#include "plan/plan.h"
#include "pruning/observer.h"
#include "pruning/presets.h"
#include "pruning/schedule.h"
#include "tessera/model.h"
#include "tokenizer/tokenizer.h"

namespace tessera {

// What a loaded model is made of. The executor refers to its neighbours, so a state stays where it
// is.
struct ModelState {
  Architecture architecture;
  Plan plan;
  std::unique_ptr<Team> team;
  Weights weights;
  std::unique_ptr<Executor> executor;
  std::shared_ptr<const Tokenizer> tokenizer;  // null when the directory has none
  SentenceEncoder sentence_encoder;
  std::optional<PruningSchedule> pruning;     // nothing: every token enters every layer
  std::unique_ptr<PruningObserver> observer;  // null: nobody wants to know what was pruned
  bool prunes() const { return drops_tokens() || drops_heads(); }
  bool drops_heads() const { return pruning.has_value() && !pruning->keeps_all_heads(); }
  bool drops_tokens() const { return pruning.has_value() && !pruning->keeps_all_tokens(); }
  ModelInfo info;
  std::unique_ptr<Trace> trace;  // while a profile is taken
  ReadLog reads;                 // of the profile that is taken, or was last
  // Held for a pass and until its results have been read: callers on several threads take turns.
  std::mutex in_use;
};

struct ModelAccess {
  static ModelState& state(const Model& model) { return *model.state_; }
};
// Lives as long as the model and stays where it is.
inline ModelState& state_of(Model& model) { return ModelAccess::state(model); }
inline const ModelState& state_of(const Model& model) { return ModelAccess::state(model); }

// What so many generated tokens read, as the library's users have it.
CacheReadProfile profile_of(const CacheReads& reads, int64_t tokens);

// The longest sequence, in tokens, that embed() does not cut, and tasks do not cut of texts.
size_t text_limit(const ModelState& state);

// What a pruning schedule has to fit.
ScheduledModel scheduled_model(const Architecture& architecture);
// The special tokens that a schedule may call by their roles.
std::vector<NamedId> named_ids(const Tokenizer& tokenizer);

// The schedule that its text gives.
Result<PruningSchedule> read_schedule(const NamedSchedule& text, const ModelState& state);

// The rows that the model's head reads.
HeadRows head_rows(const Architecture& architecture);

// Checks a sequence against vocabulary, type vocabulary and context; `name` stands for it in the
// message.
Status check_sequence(const ModelState& state, const TokenSequence& sequence,
                      const std::string& name);

}  // namespace tessera
