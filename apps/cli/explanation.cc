#include "cli/explanation.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "cli/help.h"
#include "cli/table.h"
#include "cli/task_verb.h"

namespace tessera::cli {
namespace {

constexpr std::string_view kDim = "\x1b[2m", kPlain = "\x1b[0m";

// Words between spaces, in lines of `width` characters but for a longer word; 0: one line.
class Lines {
 public:
  explicit Lines(size_t width) : width_(width) {}

  // `marked` is how the word is written, and takes as many columns as `word`.
  void add(std::string_view word, std::string_view marked, bool begins_word) {
    const auto count = static_cast<size_t>(columns_of(word));
    const size_t gap = used_ > 0 && begins_word ? 1 : 0;
    if (width_ > 0 && used_ > 0 && used_ + gap + count > width_) {
      lines_.emplace_back();
      used_ = 0;
    } else if (gap > 0) {
      lines_.back() += ' ';
      ++used_;
    }
    lines_.back() += marked;
    used_ += count;
  }
  const std::vector<std::string>& lines() const { return lines_; }

 private:
  size_t width_, used_ = 0;
  std::vector<std::string> lines_ = std::vector<std::string>(1);
};

std::vector<std::string> lines_of(const Explanation& explanation, const ExplainedLayer& layer,
                                  size_t width, bool shows_all) {
  Lines lines(width);
  auto next = layer.tokens.begin();
  bool gap = false;
  for (size_t i = 0; i < explanation.tokens.size(); ++i) {
    const ExplainedToken& token = explanation.tokens[i];
    gap = gap || token.begins_word;
    const bool is_alive = next != layer.tokens.end() && *next == static_cast<int32_t>(i);
    if (is_alive) ++next;
    if (!is_alive && !shows_all) {
      gap = true;
      continue;
    }
    const std::string marked =
        is_alive ? token.text : fmt::format("{}{}{}", kDim, token.text, kPlain);
    lines.add(token.text, marked, gap);
    gap = false;
  }
  return lines.lines();
}

struct Row {
  std::string step, layers, tokens, heads;
  std::vector<std::string> lines;
};

// Layers that had the same tokens and heads stand in one row.
std::vector<Row> rows_of(const Explanation& explanation, size_t width, bool shows_all) {
  std::vector<Row> rows;
  for (size_t first = 0; first < explanation.layers.size();) {
    const ExplainedLayer& layer = explanation.layers[first];
    size_t last = first;
    while (last + 1 < explanation.layers.size() &&
           explanation.layers[last + 1].step == layer.step &&
           explanation.layers[last + 1].tokens == layer.tokens &&
           explanation.layers[last + 1].heads == layer.heads)
      ++last;
    Row row{.step = fmt::format("{}", layer.step),
            .tokens = fmt::format("{}", layer.tokens.size()),
            .heads = fmt::format("{}", layer.heads.empty() ? static_cast<size_t>(explanation.heads)
                                                           : layer.heads.size()),
            .lines = lines_of(explanation, layer, width, shows_all)};
    row.layers = fmt::format("{}", layer.layer);
    if (last > first) row.layers += fmt::format("-{}", explanation.layers[last].layer);
    rows.push_back(std::move(row));
    first = last + 1;
  }
  return rows;
}

void add_leavers(const Explanation& explanation, std::string* text) {
  for (const ExplainedLayer& layer : explanation.layers) {
    if (layer.step != explanation.layers.back().step) continue;
    std::vector<std::string_view> left;
    for (const ExplainedToken& token : explanation.tokens) {
      if (token.left == layer.layer) left.push_back(token.text);
    }
    if (left.empty()) continue;
    *text += fmt::format("left in front of layer {}: {}\n", layer.layer, fmt::join(left, " "));
  }
}

}  // namespace

ExplainedToken generated_token(const Tokenizer* tokenizer, int32_t id) {
  const Result<std::string> text = tokenizer != nullptr
                                       ? tokenizer->decode({id}, DecodeSpecial::kKeep)
                                       : Result<std::string>(fmt::format(" {}", id));
  const std::string word = on_one_line(text.ok() ? *text : tokenizer->token_of(id));
  // A token by itself loses the space that SentencePiece has in front of words.
  const bool begins_word = word.starts_with(' ') ||
                           (tokenizer != nullptr && tokenizer->token_of(id).starts_with("\u2581"));
  const size_t first = word.find_first_not_of(' ');
  return {.text = first == std::string::npos ? "" : word.substr(first), .begins_word = begins_word};
}

std::vector<ExplainedToken> explained_tokens(const Tokenizer* tokenizer, const TextPair& text,
                                             const Encoding& encoding) {
  std::vector<ExplainedToken> tokens;
  int32_t before_text = -1;
  uint32_t before_end = 0;
  for (size_t i = 0; i < encoding.ids.size(); ++i) {
    const TokenOrigin origin = i < encoding.origins.size() ? encoding.origins[i] : TokenOrigin{};
    ExplainedToken token{.begins_word = true};
    if (origin.text < 0) {
      token.text = tokenizer != nullptr ? tokenizer->token_of(encoding.ids[i])
                                        : fmt::format("{}", encoding.ids[i]);
    } else {
      const std::string_view whole = origin.text == 0 ? text.first : *text.second;
      uint32_t begin = origin.begin;
      // Tokens of one character share its bytes, and some begin with the space before a word.
      if (origin.text == before_text) begin = std::max(begin, std::min(before_end, origin.end));
      const uint32_t word = static_cast<uint32_t>(
          std::find_if(whole.begin() + begin, whole.begin() + origin.end,
                       [](char c) { return c != ' ' && c != '\n' && c != '\t' && c != '\r'; }) -
          whole.begin());
      token.begins_word = origin.text != before_text || word > before_end;
      token.text = std::string(whole.substr(word, origin.end - word));
      before_end = std::max(before_end, origin.end);
    }
    before_text = origin.text;
    if (origin.text < 0) before_end = 0;
    token.text = on_one_line(token.text);
    tokens.push_back(std::move(token));
  }
  return tokens;
}

void find_leavers(Explanation* explanation) {
  std::vector<int> last(explanation->tokens.size(), -1);
  int deepest = -1;
  for (const ExplainedLayer& layer : explanation->layers) {
    if (layer.step != explanation->layers.back().step) continue;
    for (const int32_t token : layer.tokens) last[static_cast<size_t>(token)] = layer.layer;
    deepest = std::max(deepest, layer.layer);
  }
  for (size_t i = 0; i < last.size(); ++i) {
    if (last[i] < deepest) explanation->tokens[i].left = last[i] + 1;
  }
}

std::string explain_as_text(const Explanation& explanation, const PaperSize& paper) {
  std::vector<Row> rows = rows_of(explanation, 0, paper.is_terminal);
  // The numbers' columns are as wide as their titles or wider.
  const std::string_view step = explanation.has_steps() ? "step  " : "";
  size_t layers = std::string_view("layers").size();
  for (const Row& row : rows) layers = std::max(layers, row.layers.size());
  const size_t before = step.size() + layers + std::string_view("  tokens  heads  ").size();
  const auto width = static_cast<size_t>(std::max(paper.width, 0));
  if (width > before + 20) rows = rows_of(explanation, width - before, paper.is_terminal);
  std::string text = fmt::format("{}{:<{}}  tokens  heads  text\n", step, "layers", layers);
  for (const Row& row : rows) {
    if (!step.empty()) text += fmt::format("{:<4}  ", row.step);
    text += fmt::format("{:<{}}  {:>6}  {:>5}  ", row.layers, layers, row.tokens, row.heads);
    text += fmt::format("{}\n", fmt::join(row.lines, "\n" + std::string(before, ' ')));
  }
  add_leavers(explanation, &text);
  if (explanation.has_steps()) text += fmt::format("then: {}\n", *explanation.next);
  return text;
}

std::string explain_as_json(const Explanation& explanation) {
  std::vector<std::string> words, left, layers;
  for (const ExplainedToken& token : explanation.tokens) {
    words.push_back(json_text(token.text));
    left.push_back(token.left ? fmt::format("{}", *token.left) : "null");
  }
  for (const ExplainedLayer& layer : explanation.layers) {
    JsonLine line;
    if (explanation.has_steps()) line.integer("step", layer.step);
    line.integer("layer", layer.layer).raw("tokens", json_array(layer.tokens));
    line.raw("importance", json_array(layer.importance));
    if (!layer.heads.empty()) line.raw("heads", json_array(layer.heads));
    if (!layer.head_importance.empty())
      line.raw("head_importance", json_array(layer.head_importance));
    layers.push_back(line.object());
  }
  JsonLine line;
  line.text("text", explanation.text).raw("ids", json_array(explanation.ids));
  line.raw("words", json_array(words)).raw("left", json_array(left));
  line.raw("layers", json_array(layers));
  if (explanation.has_steps()) line.text("next", *explanation.next);
  return line.line();
}

}  // namespace tessera::cli
