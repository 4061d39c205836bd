#include "evaluate/windows.h"

#include <algorithm>

namespace tessera::evaluation {
namespace {

Window window_at(std::span<const int32_t> ids, int64_t begin, int64_t end) {
  Window window;
  window.tokens.ids.assign(ids.begin() + begin, ids.begin() + end);
  window.begin = begin;
  return window;
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

Status run_windows(Model& model, std::span<const Window> windows, const TaskOptions& options,
                   const tasks::Take& take) {
  std::vector<tasks::Item> items;
  for (const Window& window : windows) {
    items.push_back({&window.tokens, items.size(), window.rows});
  }
  return tasks::run_items(state_of(model), {items, items.size(), HeadRows::kGiven}, options, take);
}

}  // namespace tessera::evaluation
