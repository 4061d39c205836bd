#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tessera/tokenizer.h"

namespace tessera::cli {

// A token as its text has it. Special tokens have their names.
struct ExplainedToken {
  std::string text;          // on one line
  bool begins_word = false;  // something stands between it and the token before
  std::optional<int> left;  // the first layer that it was not in, in the last step; none: it stayed
};

// What a layer had of a text.
struct ExplainedLayer {
  int32_t step = 0;
  int32_t layer = 0;
  std::vector<int32_t> tokens = {};  // ascending
  std::vector<float> importance = {};
  std::vector<int32_t> heads = {};  // empty: all of them
  std::vector<float> head_importance = {};
};

struct Explanation {
  std::string text;
  std::vector<int32_t> ids;
  std::vector<ExplainedToken> tokens;
  std::vector<ExplainedLayer> layers;
  int32_t heads = 0;                     // of the model
  std::optional<std::string> next = {};  // what was generated last, which no layer has seen

  bool has_steps() const { return next.has_value(); }
};

// A token behind others that was generated.
ExplainedToken generated_token(const Tokenizer* tokenizer, int32_t id);
// The tokens of what was encoded, in the order of the ids. tokenizer: null for ids alone.
std::vector<ExplainedToken> explained_tokens(const Tokenizer* tokenizer, const TextPair& text,
                                             const Encoding& encoding);
// Fills ExplainedToken::left.
void find_leavers(Explanation* explanation);

// A row for layers that had the same tokens, and a line for those that left in front of one.
struct PaperSize {
  bool is_terminal = false;  // words that left are dimmed, else absent
  int width = 0;             // 0: lines are as long as they get
};
std::string explain_as_text(const Explanation& explanation, const PaperSize& paper);
std::string explain_as_json(const Explanation& explanation);

// A page that needs nothing else: head, a section for each text, tail.
std::string explain_html_head(std::string_view title);
std::string explain_as_html(const Explanation& explanation);
std::string explain_html_tail();

}  // namespace tessera::cli
