#include "evaluate/windows.h"

#include <algorithm>

#include "runtime/sequence_pass.h"

namespace tessera::evaluation {
namespace {

Window window_at(std::span<const int32_t> ids, int64_t begin, int64_t end) {
  Window window;
  window.tokens.ids.assign(ids.begin() + begin, ids.begin() + end);
  window.begin = begin;
  return window;
}

// Tokens of a window that a pruned model reads at once.
int32_t prompt_of(const Window& window) {
  return std::max(1, static_cast<int32_t>(window.tokens.ids.size()) / 2);
}

// Rows come one by one, in their order.
Status run_windows_in_steps(ModelState& state, std::span<const Window> windows,
                            const TaskOptions& options, const tasks::Take& take) {
  std::vector<SteppedText> texts;
  for (size_t i = 0; i < windows.size(); ++i) {
    const std::vector<int32_t>& rows = windows[i].rows;
    const auto tokens = static_cast<int32_t>(windows[i].tokens.ids.size());
    if (rows.empty() || rows.front() + 1 < prompt_of(windows[i]) || rows.back() + 1 >= tokens) {
      return unsupported(
          "pruning: expected predictions of the second half of each window, found others");
    }
    TESSERA_RETURN_IF_ERROR(check_sequence(state, windows[i].tokens, tasks::name_of(i)));
    texts.push_back({windows[i].tokens.ids, prompt_of(windows[i])});
  }
  std::vector<std::vector<float>> logits(windows.size());
  std::vector<size_t> read(windows.size());  // rows
  int64_t done = 0;
  TESSERA_RETURN_IF_ERROR(tasks::check_progress(options, done));
  return run_in_steps(state, texts,
                      [&](size_t i, int32_t position, std::span<const float> row) -> Status {
                        const std::vector<int32_t>& rows = windows[i].rows;
                        if (read[i] == rows.size() || rows[read[i]] != position) return {};
                        logits[i].insert(logits[i].end(), row.begin(), row.end());
                        if (++read[i] < rows.size()) return {};
                        TESSERA_RETURN_IF_ERROR(check_finite(logits[i], "logits"));
                        TESSERA_RETURN_IF_ERROR(take(i, logits[i]));
                        logits[i] = {};
                        return tasks::check_progress(options, ++done);
                      });
}

}  // namespace

std::vector<Window> sliding_windows(std::span<const int32_t> ids, int32_t window, int32_t stride) {
  const auto tokens = static_cast<int64_t>(ids.size());
  std::vector<Window> windows;
  for (int64_t begin = 0, seen = 0; seen < tokens; begin += stride) {
    const int64_t end = std::min(begin + window, tokens);
    Window next = window_at(ids, begin, end);
    for (int64_t token = std::max(seen, begin + 1); token < end; ++token) {
      next.rows.push_back(static_cast<int32_t>(token - 1 - begin));
    }
    if (!next.rows.empty()) windows.push_back(std::move(next));
    seen = end;
  }
  return windows;
}

std::vector<Window> disjoint_windows(std::span<const int32_t> ids, int32_t window) {
  const auto tokens = static_cast<int64_t>(ids.size());
  std::vector<Window> windows;
  for (int64_t begin = 0; begin < tokens; begin += window) {
    Window& next = windows.emplace_back(window_at(ids, begin, std::min(begin + window, tokens)));
    for (size_t row = 0; row < next.tokens.ids.size(); ++row) {
      next.rows.push_back(static_cast<int32_t>(row));
    }
  }
  return windows;
}

Result<std::vector<int32_t>> encode_text(const Model& model, const std::string& text) {
  TESSERA_ASSIGN_OR_RETURN(TokenSequence tokens, model.tokenize(text));
  return std::move(tokens.ids);
}

void predict_second_halves(std::span<Window> windows) {
  for (Window& window : windows) {
    const auto tokens = static_cast<int32_t>(window.tokens.ids.size());
    std::erase_if(window.rows,
                  [&](int32_t row) { return row + 1 < prompt_of(window) || row + 1 >= tokens; });
  }
}

bool runs_in_steps(Model& model) {
  const ModelState& state = state_of(model);
  if (!state.pruning) return false;
  return state.prunes() || !state.pruning->keeps_all_values() ||
         state.pruning->planes.lower_bits > 0;
}

Status run_windows(Model& model, std::span<const Window> windows, const TaskOptions& options,
                   const tasks::Take& take) {
  ModelState& state = state_of(model);
  if (runs_in_steps(model)) return run_windows_in_steps(state, windows, options, take);
  std::vector<tasks::Item> items;
  for (const Window& window : windows) {
    items.push_back({&window.tokens, items.size(), window.rows});
  }
  return tasks::run_items(state, {items, items.size(), HeadRows::kGiven}, options, take);
}

}  // namespace tessera::evaluation
