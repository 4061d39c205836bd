#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "evaluate/run.h"
#include "runtime/tasks/batching.h"

namespace tessera::evaluation {

// A stretch of a text's tokens that a model reads at once.
struct Window {
  TokenSequence tokens;
  int64_t begin = 0;          // its first token's place in the text
  std::vector<int32_t> rows;  // whose logits are wanted
};

// Windows of `window` tokens, each `stride` further on; the last one ends with the text. In each
// the rows that predict tokens which no window before it held (transformers' guide to the
// perplexity of fixed-length models), so that every token but the first is predicted once, and with
// stride = window all but the first of each window. 0 < stride <= window.
std::vector<Window> sliding_windows(std::span<const int32_t> ids, int32_t window, int32_t stride);
// Windows side by side, with all rows.
std::vector<Window> disjoint_windows(std::span<const int32_t> ids, int32_t window);

// The tokens of a text with the special tokens that the tokenizer adds.
Result<std::vector<int32_t>> encode_text(const Model& model, const std::string& text);

// Whether the model's pruning makes a generated token another one than the last of a text that is
// read at once: where tokens or heads leave, values are left out or lower bits are read at need.
bool runs_in_steps(Model& model);
// Of each window the rows that predict the second half of its own tokens, which are what such a
// model can be asked for.
void predict_second_halves(std::span<Window> windows);

// Runs the head on the windows' rows. Where runs_in_steps, the first half of a window, at least a
// token, is a prompt, and each token behind it a step of its own, as if it had been generated: rows
// are those of predict_second_halves then. take: index of the window and its logits, [rows,
// vocabulary].
Status run_windows(Model& model, std::span<const Window> windows, const TaskOptions& options,
                   const tasks::Take& take);

}  // namespace tessera::evaluation
