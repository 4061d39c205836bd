#include <fmt/format.h>

#include <algorithm>

#include "evaluate/windows.h"
#include "runtime/sampling.h"

namespace tessera::evaluation {
namespace {

// Beyond it perplexity changes little, and logits of a whole window are held at a time.
constexpr int32_t kLongestUsual = 2048;

struct Sizes {
  int32_t window = 0, stride = 0;
};

Result<Sizes> sizes_of(const PerplexityOptions& options, int32_t context) {
  constexpr int32_t kLeastWindow = 2;  // one token to be predicted
  const int32_t window =
      options.window_tokens == 0 ? std::min(context, kLongestUsual) : options.window_tokens;
  if (window < kLeastWindow || window > context) {
    return invalid_input(
        fmt::format("window: expected {} to {} tokens, the model's context, found {}", kLeastWindow,
                    context, window));
  }
  const int32_t stride =
      options.stride_tokens == 0 ? std::max(1, window / 2) : options.stride_tokens;
  if (stride >= 1 && stride <= window) return Sizes{window, stride};
  return invalid_input(
      fmt::format("stride: expected 1 to {} tokens, the window, found {}", window, stride));
}

// Nats of the tokens that the rows predict.
double nats_of(ModelState& state, const Window& window, std::span<const float> logits) {
  const size_t width = logits.size() / window.rows.size();
  std::vector<double> nats(window.rows.size());
  state.team->parallel_for(static_cast<int64_t>(nats.size()), 1, [&](Range range) {
    for (auto i = static_cast<size_t>(range.begin); i < static_cast<size_t>(range.end); ++i) {
      const std::span<const float> row = logits.subspan(i * width, width);
      const auto next = static_cast<size_t>(window.rows[i]) + 1;
      nats[i] = log_sum_exp(row) - row[static_cast<size_t>(window.tokens.ids[next])];
    }
  });
  double sum = 0;
  for (const double each : nats) sum += each;
  return sum;
}

}  // namespace

Status run_perplexity(Run& run, Model& model) {
  TESSERA_RETURN_IF_ERROR(tasks::require_head(model, Head::kCausalLm, "perplexity"));
  TESSERA_ASSIGN_OR_RETURN(const Sizes sizes,
                           sizes_of(run.task.perplexity, model.info().max_positions));
  TESSERA_ASSIGN_OR_RETURN(const std::string text, read_text(run, run.task.data));
  TESSERA_RETURN_IF_ERROR(run.progress("tokenizing", 0, 0));
  TESSERA_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, encode_text(model, text));
  std::vector<Window> windows = sliding_windows(ids, sizes.window, sizes.stride);
  if (run.task.max_examples > 0 && static_cast<size_t>(run.task.max_examples) < windows.size()) {
    windows.resize(static_cast<size_t>(run.task.max_examples));
  }
  if (windows.empty()) return invalid_input("expected at least two tokens of text, found fewer");
  const bool is_stepped = runs_in_steps(model);
  if (is_stepped) predict_second_halves(windows);
  std::vector<double> nats(windows.size());
  TESSERA_RETURN_IF_ERROR(run_windows(
      model, windows, run.task_options("running windows", static_cast<int64_t>(windows.size())),
      [&](size_t window, std::span<const float> logits) -> Status {
        nats[window] = nats_of(state_of(model), windows[window], logits);
        return {};
      }));
  // A window's words and bytes are its tokens' share of those of the text.
  const double all = static_cast<double>(ids.size() - 1);
  const auto words = static_cast<double>(count_words(text));
  const auto bytes = static_cast<double>(text.size());
  EvaluationCounts& counts = run.result.counts;
  for (size_t i = 0; i < windows.size(); ++i) {
    const auto tokens = static_cast<double>(windows[i].rows.size());
    const int64_t begin = windows[i].begin + windows[i].rows.front() + 1;
    run.result.examples.push_back(
        {.id = fmt::format("tokens {} to {}", begin, begin + static_cast<int64_t>(tokens) - 1),
         .score = nats[i] / tokens,
         .output = {},
         .expected = {},
         .values = {nats[i], tokens, words * tokens / all, bytes * tokens / all}});
    counts.tokens += static_cast<int64_t>(windows[i].tokens.ids.size());
    counts.scored_tokens += static_cast<int64_t>(tokens);
  }
  counts.words = static_cast<int64_t>(words);
  counts.bytes = static_cast<int64_t>(bytes);
  run.result.method = fmt::format("window {}, stride {}{}", sizes.window, sizes.stride,
                                  is_stepped ? ", second halves token by token" : "");
  return {};
}

}  // namespace tessera::evaluation
