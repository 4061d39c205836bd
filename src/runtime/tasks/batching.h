#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "model/forward.h"
#include "runtime/model_state.h"
#include "tessera/tasks.h"

// What the tasks share: texts become sequences, sequences run in batches of like length, and their
// logits come back one by one.
namespace tessera::tasks {

// Rows of one pass: enough to keep the products bound by arithmetic, few enough that activations
// stay in cache and long texts do not need much memory.
inline constexpr int64_t kBatchTokens = 2048;

// "input 3", as messages call it.
std::string name_of(size_t input);
// The status of one input, named.
Status at_input(size_t input, const Status& status);

// kUnsupported, with the function that fits the model instead, unless it has the head.
Status require_head(const Model& model, Head head, std::string_view function);

// What of an input the model reads.
struct Sequence {
  TokenSequence tokens;
  std::vector<TokenOrigin> origins;  // where asked for; none for ids
  bool truncated = false;
};

// The texts with special tokens, cut as the options say, and the ids as they are; all of them
// checked against the model.
Result<std::vector<Sequence>> to_sequences(ModelState& state, std::span<const TaskInput> inputs,
                                           const TaskOptions& options, Origins origins);

// How texts that are too long are cut, and the error for one that is not.
Truncation text_truncation(const ModelState& state);
Status check_length(const ModelState& state, const TokenSequence& tokens, size_t input);

// The tokenizer, or the error that there is none for the text of this input.
Result<const Tokenizer*> tokenizer_for(const ModelState& state, size_t input);

// The ids that the tokenizer puts around a text; none without a tokenizer.
std::vector<int32_t> special_ids(const ModelState& state);

Status check_progress(const TaskOptions& options, int64_t done);

// One sequence to run. The tokens belong to the caller.
struct Item {
  const TokenSequence* tokens = nullptr;
  size_t input = 0;           // to whom it belongs
  std::vector<int32_t> rows;  // that the head reads, for HeadRows::kGiven
};

struct Work {
  std::span<const Item> items;
  size_t inputs = 0;  // an input is done when all of its items are
  HeadRows head_rows = HeadRows::kNone;
};

// Gets an item's index and its logits, [rows the head read, width], which are finite.
using Take = std::function<Status(size_t item, std::span<const float> logits)>;

// Runs the items longest first. An error names the input; progress is told after each batch.
Status run_items(ModelState& state, const Work& work, const TaskOptions& options, const Take& take);

// scores[i] = exp(logits[i] - max) / sum, summed in f64.
std::vector<float> softmax(std::span<const float> logits);
std::vector<float> to_scores(std::span<const float> logits, LabelScores kind);
int32_t index_of_largest(std::span<const float> values);  // the first of equals

// Bytes [begin, end) of the text without the white space at their ends.
TaskSpan trimmed(const std::string& text, TaskSpan span);
std::string text_of(const std::string& text, const TaskSpan& span);

}  // namespace tessera::tasks
