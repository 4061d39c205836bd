#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <optional>
#include <utility>

#include "base/guarded.h"
#include "runtime/tasks/batching.h"
#include "runtime/tasks/spans.h"
#include "runtime/tasks/words.h"

namespace tessera::tasks {
namespace {

Status check_options(const AnswerOptions& options) {
  struct Bound {
    const char* name;
    int32_t value, least;
  };
  for (const Bound& bound : {Bound{"answers", options.answers, 1},
                             Bound{"max_answer_tokens", options.max_answer_tokens, 1},
                             Bound{"window_tokens", options.window_tokens, 1},
                             Bound{"overlap_tokens", options.overlap_tokens.value_or(0), 0}}) {
    if (bound.value < bound.least) {
      return invalid_input(
          fmt::format("{}: expected at least {}, found {}", bound.name, bound.least, bound.value));
    }
  }
  return {};
}

// A part of an input that the model reads at once.
struct Window {
  size_t input = 0;
  Sequence sequence;
  SpanScores scores;
  std::optional<ScoredSpan> best;  // among what is still open
};

// Cuts inputs into windows.
class Windows {
 public:
  Windows(const ModelState& state, const AnswerOptions& options)
      : state_(state),
        options_(options),
        max_tokens_(std::min(options.window_tokens, state.info.max_positions)) {}

  Result<std::vector<Window>> of_all(std::span<const TaskInput> inputs) const {
    std::vector<Window> windows;
    for (size_t i = 0; i < inputs.size(); ++i) {
      // Long contexts take a while to encode.
      TESSERA_RETURN_IF_ERROR(check_progress(options_, 0));
      auto parts = inputs[i].tokens ? of_ids(*inputs[i].tokens) : of_text(inputs[i], i);
      if (!parts.ok()) return at_input(i, parts.status());
      for (Sequence& part : *parts) {
        TESSERA_RETURN_IF_ERROR(check_sequence(state_, part.tokens, name_of(i)));
        windows.push_back({i, std::move(part), {}, {}});
      }
    }
    return windows;
  }

 private:
  Result<std::vector<Sequence>> of_ids(const TokenSequence& tokens) const {
    return std::vector<Sequence>{{tokens, {}, false}};
  }

  Result<std::vector<Sequence>> of_text(const TaskInput& input, size_t index) const {
    if (!input.pair) return invalid_input("expected a question and a context, found one text");
    TESSERA_ASSIGN_OR_RETURN(const Tokenizer* tokenizer, tokenizer_for(state_, index));
    TESSERA_ASSIGN_OR_RETURN(const Encoding question, tokenizer->encode({input.text, ""}));
    const size_t most = static_cast<size_t>(max_tokens_);
    if (question.ids.size() >= most) {
      return invalid_input(
          fmt::format("expected a question that leaves room for its context in a window of {} "
                      "tokens, found one that takes {}",
                      most, question.ids.size()));
    }
    TESSERA_ASSIGN_OR_RETURN(std::vector<Encoding> encodings,
                             windows(*tokenizer, {input.text, *input.pair}, question.ids.size()));
    std::vector<Sequence> sequences;
    for (Encoding& encoding : encodings) {
      if (state_.architecture.type_vocabulary_size <= 1) encoding.type_ids.clear();
      sequences.push_back({{std::move(encoding.ids), std::move(encoding.type_ids)},
                           std::move(encoding.origins),
                           false});
    }
    return sequences;
  }

  // question_tokens: with its special tokens, of which the context needs one more.
  Result<std::vector<Encoding>> windows(const Tokenizer& tokenizer, const TextPair& pair,
                                        size_t question_tokens) const {
    const size_t most = static_cast<size_t>(max_tokens_);
    const size_t usual = std::min<size_t>(kUsualOverlapTokens, (most - question_tokens) / 2);
    const size_t overlap =
        options_.overlap_tokens ? static_cast<size_t>(*options_.overlap_tokens) : usual;
    auto made = tokenizer.encode_windows(pair, most, overlap);
    if (made.ok() || overlap == usual) return made;
    TESSERA_ASSIGN_OR_RETURN(const std::vector<Encoding> least,
                             tokenizer.encode_windows(pair, most, 0));
    const auto context = std::count_if(least[0].origins.begin(), least[0].origins.end(),
                                       [](const TokenOrigin& origin) { return origin.text == 1; });
    if (context < 1 || overlap < static_cast<size_t>(context)) return made;
    return invalid_input(
        fmt::format("overlap_tokens: expected at most {} beside this question in a window of {} "
                    "tokens, found {}",
                    context - 1, most, overlap));
  }

  const ModelState& state_;
  const AnswerOptions& options_;
  int32_t max_tokens_;
};

// Which tokens are of the context.
std::vector<char> context_of(const Sequence& sequence, const std::vector<int32_t>& special) {
  const TokenSequence& tokens = sequence.tokens;
  std::vector<char> context(tokens.ids.size());
  if (!sequence.origins.empty()) {
    for (size_t t = 0; t < context.size(); ++t) context[t] = sequence.origins[t].text == 1;
    return context;
  }
  const bool typed =
      std::find(tokens.type_ids.begin(), tokens.type_ids.end(), 1) != tokens.type_ids.end();
  for (size_t t = 0; t < context.size(); ++t) {
    context[t] = (typed ? tokens.type_ids[t] == 1 : t > 0) &&
                 std::find(special.begin(), special.end(), tokens.ids[t]) == special.end();
  }
  return context;
}

// Finds the answers of one input among its windows.
class Chooser {
 public:
  Chooser(const TaskInput& input, std::span<Window> windows, const WordRule& words,
          const AnswerOptions& options)
      : input_(input), windows_(windows), words_(words), options_(options) {}

  std::vector<Answer> choose() {
    std::vector<Answer> answers;
    for (Window& window : windows_) search(window);
    while (answers.size() < static_cast<size_t>(options_.answers)) {
      const auto found = std::max_element(
          windows_.begin(), windows_.end(),
          [](const Window& a, const Window& b) { return score_of(a) < score_of(b); });
      if (found == windows_.end() || !found->best) break;
      const Answer answer = answer_at(*found);
      close(*found, answer.span);
      // A token of nothing but space has no text.
      if (has_text() && answer.text.empty()) continue;
      answers.push_back(answer);
    }
    return answers;
  }

 private:
  static float score_of(const Window& window) { return window.best ? window.best->score : -1; }
  bool has_text() const { return !input_.tokens; }
  void search(Window& window) const {
    window.best = best_span(window.scores, options_.max_answer_tokens);
  }

  Answer answer_at(const Window& window) const {
    Answer answer;
    answer.score = window.best->score;
    int32_t begin = window.best->begin, end = window.best->last + 1;
    if (has_text()) {
      const std::vector<TokenOrigin>& origins = window.sequence.origins;
      const auto joined = [&](int32_t t) {
        const size_t i = static_cast<size_t>(t);
        return i < origins.size() && origins[i].text == 1 && origins[i - 1].text == 1 &&
               words_.continues(*input_.pair, window.sequence.tokens.ids[i], origins[i].begin);
      };
      while (begin > 0 && joined(begin)) --begin;
      while (joined(end)) ++end;
      answer.span.begin_byte = origins[static_cast<size_t>(begin)].begin;
      answer.span.end_byte = origins[static_cast<size_t>(end) - 1].end;
    }
    answer.span.begin_token = begin;
    answer.span.end_token = end;
    if (has_text()) {
      answer.span = trimmed(*input_.pair, answer.span);
      answer.text = text_of(*input_.pair, answer.span);
    }
    return answer;
  }

  // Takes what an answer covers away from all windows.
  void close(Window& from, const TaskSpan& span) const {
    const auto closes = [&](const Window& window, size_t t) {
      const int32_t token = static_cast<int32_t>(t);
      if (&window == &from && token >= span.begin_token && token < span.end_token) return true;
      if (!has_text()) return false;
      const TokenOrigin& origin = window.sequence.origins[t];
      return origin.begin < span.end_byte && origin.end > span.begin_byte;
    };
    for (Window& window : windows_) {
      bool lost = false;
      for (size_t t = 0; t < window.scores.open.size(); ++t) {
        if (window.scores.open[t] == 0 || !closes(window, t)) continue;
        window.scores.open[t] = 0;
        lost = lost || (window.best && window.best->begin <= static_cast<int32_t>(t) &&
                        static_cast<int32_t>(t) <= window.best->last);
      }
      if (lost) search(window);
    }
  }

  const TaskInput& input_;
  std::span<Window> windows_;
  const WordRule& words_;
  const AnswerOptions& options_;
};

// Logits of a window: start and end of each token in turn.
void read_logits(const TaskInput& input, std::span<const float> logits,
                 const std::vector<int32_t>& special, Window& window, Answers& answers) {
  std::vector<float> start, end;
  for (size_t i = 0; i + 1 < logits.size(); i += 2) {
    start.push_back(logits[i]);
    end.push_back(logits[i + 1]);
  }
  window.scores = SpanScores::from_logits(start, end, context_of(window.sequence, special));
  answers.no_answer_score = answers.windows == 0
                                ? window.scores.no_answer
                                : std::min(answers.no_answer_score, window.scores.no_answer);
  ++answers.windows;
  if (!input.tokens) return;
  answers.start_logits = std::move(start);
  answers.end_logits = std::move(end);
}

Result<std::vector<Answers>> run(ModelState& state, std::span<const TaskInput> inputs,
                                 const AnswerOptions& options) {
  TESSERA_RETURN_IF_ERROR(check_options(options));
  TESSERA_ASSIGN_OR_RETURN(std::vector<Window> windows, Windows(state, options).of_all(inputs));
  std::vector<Item> items;
  for (const Window& window : windows) items.push_back({&window.sequence.tokens, window.input, {}});
  std::vector<Answers> results(inputs.size());
  const std::vector<int32_t> special = special_ids(state);
  TESSERA_RETURN_IF_ERROR(
      run_items(state, {items, inputs.size(), head_rows(state.architecture)}, options,
                [&](size_t w, std::span<const float> logits) -> Status {
                  const size_t input = windows[w].input;
                  read_logits(inputs[input], logits, special, windows[w], results[input]);
                  return {};
                }));
  const WordRule words(state.tokenizer.get());
  // The windows of an input stand together.
  for (auto begin = windows.begin(); begin != windows.end();) {
    const size_t input = begin->input;
    const auto end = std::find_if(begin, windows.end(),
                                  [&](const Window& window) { return window.input != input; });
    results[input].best = Chooser(inputs[input], {begin, end}, words, options).choose();
    begin = end;
  }
  return results;
}

}  // namespace
}  // namespace tessera::tasks

namespace tessera {

Result<std::vector<Answers>> answer(Model& model, std::span<const TaskInput> inputs,
                                    const AnswerOptions& options) {
  return guarded("answer", [&]() -> Result<std::vector<Answers>> {
    TESSERA_RETURN_IF_ERROR(tasks::require_head(model, Head::kQuestionAnswering, "answer"));
    return tasks::run(state_of(model), inputs, options);
  });
}

}  // namespace tessera
