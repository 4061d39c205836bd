#include <utility>

#include "base/guarded.h"
#include "runtime/tasks/batching.h"

namespace tessera::tasks {
namespace {

Result<std::vector<Classification>> run(ModelState& state, std::span<const TaskInput> inputs,
                                        const TaskOptions& options) {
  TESSERA_ASSIGN_OR_RETURN(const std::vector<Sequence> sequences,
                           to_sequences(state, inputs, options, Origins::kOmit));
  std::vector<Item> items;
  for (size_t i = 0; i < sequences.size(); ++i) items.push_back({&sequences[i].tokens, i, {}});
  std::vector<Classification> results(inputs.size());
  TESSERA_RETURN_IF_ERROR(
      run_items(state, {items, inputs.size(), head_rows(state.architecture)}, options,
                [&](size_t i, std::span<const float> logits) -> Status {
                  Classification& result = results[i];
                  result.logits.assign(logits.begin(), logits.end());
                  result.scores = to_scores(logits, state.architecture.label_scores);
                  result.best = index_of_largest(logits);
                  result.tokens = static_cast<int64_t>(sequences[i].tokens.ids.size());
                  result.truncated = sequences[i].truncated;
                  return {};
                }));
  return results;
}

}  // namespace
}  // namespace tessera::tasks

namespace tessera {

Result<std::vector<Classification>> classify(Model& model, std::span<const TaskInput> inputs,
                                             const TaskOptions& options) {
  return guarded("classify", [&]() -> Result<std::vector<Classification>> {
    TESSERA_RETURN_IF_ERROR(tasks::require_head(model, Head::kSequenceClassification, "classify"));
    return tasks::run(state_of(model), inputs, options);
  });
}

}  // namespace tessera
