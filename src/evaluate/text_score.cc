#include "evaluate/text_score.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "tokenizer/unicode.h"

namespace tessera {
namespace {

namespace character = tokenizer::character;

using Ngram = std::vector<int32_t>;
using Counts = std::map<Ngram, int64_t>;

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_stop(char c) { return c == '.' || c == ','; }

void replace_all(std::string* text, std::string_view from, std::string_view to) {
  for (size_t at = text->find(from); at != std::string::npos; at = text->find(from, at)) {
    text->replace(at, from.size(), to);
    at += to.size();
  }
}

// ASCII punctuation but apostrophe, comma, hyphen and full stop.
bool stands_alone(char c) {
  return (c >= '{' && c <= '~') || (c >= '[' && c <= '`') || (c >= ' ' && c <= '&') ||
         (c >= '(' && c <= '+') || (c >= ':' && c <= '@') || c == '/';
}

// Pairs of neighbours that match become what `write` makes of them; a character is in one pair.
template <typename Match, typename Write>
std::string rewrite_pairs(const std::string& text, Match match, Write write) {
  std::string result;
  for (size_t i = 0; i < text.size();) {
    if (i + 1 < text.size() && match(text[i], text[i + 1])) {
      write(text[i], text[i + 1], &result);
      i += 2;
    } else {
      result += text[i++];
    }
  }
  return result;
}

// Words between white space of any kind.
std::vector<std::string> split_words(std::string_view text) {
  std::vector<std::string> words;
  bool inside = false;
  for (size_t pos = 0; pos < text.size();) {
    const size_t begin = pos;
    const char32_t c = tokenizer::next_character(text, pos);
    const bool space = (tokenizer::groups_of(c) & character::kSpace) != 0;
    if (!space && !inside) words.emplace_back();
    if (!space) words.back() += text.substr(begin, pos - begin);
    inside = !space;
  }
  return words;
}

// Numbers for words, so that n-grams compare fast.
class Words {
 public:
  std::vector<int32_t> numbers(std::string_view text) {
    std::vector<int32_t> numbers;
    for (std::string& word : tokenize_for_scores(text)) {
      const auto next = static_cast<int32_t>(known_.size());
      numbers.push_back(known_.try_emplace(std::move(word), next).first->second);
    }
    return numbers;
  }

 private:
  std::map<std::string, int32_t> known_;
};

Counts count_ngrams(const std::vector<int32_t>& words, size_t n) {
  Counts counts;
  for (size_t i = 0; i + n <= words.size(); ++i) {
    const auto begin = words.begin() + static_cast<int64_t>(i);
    ++counts[Ngram(begin, begin + static_cast<int64_t>(n))];
  }
  return counts;
}

struct Numbered {
  std::vector<int32_t> text;
  std::vector<std::vector<int32_t>> references;
};

// How often each n-gram occurs in all references; the empty one: how many words there are.
Counts count_references(std::span<const Numbered> texts) {
  Counts all;
  for (const Numbered& text : texts) {
    for (const std::vector<int32_t>& reference : text.references) {
      all[{}] += static_cast<int64_t>(reference.size());
      for (size_t n = 1; n <= TextScore::kNistOrder; ++n) {
        for (const auto& [ngram, count] : count_ngrams(reference, n)) all[ngram] += count;
      }
    }
  }
  return all;
}

double information(const Counts& all, const Ngram& ngram) {
  const Ngram shorter(ngram.begin(), ngram.end() - 1);
  return std::log2(static_cast<double>(all.at(shorter)) / static_cast<double>(all.at(ngram)));
}

void add_hits(const Counts& all, const Numbered& text, size_t n, std::vector<double>* values) {
  Counts most;
  for (const std::vector<int32_t>& reference : text.references) {
    for (const auto& [ngram, count] : count_ngrams(reference, n)) {
      int64_t& largest = most[ngram];
      largest = std::max(largest, count);
    }
  }
  for (const auto& [ngram, count] : count_ngrams(text.text, n)) {
    const auto found = most.find(ngram);
    if (found == most.end()) continue;
    const auto hits = static_cast<double>(std::min(count, found->second));
    if (n <= TextScore::kBleuOrder) (*values)[n - 1] += hits;
    (*values)[TextScore::kBleuOrder + n - 1] += hits * information(all, ngram);
  }
}

std::vector<double> values_of(const Counts& all, const Numbered& text) {
  std::vector<double> values(TextScore::kValues);
  for (size_t n = 1; n <= TextScore::kNistOrder; ++n) add_hits(all, text, n, &values);
  const auto length = static_cast<double>(text.text.size());
  double nearest = static_cast<double>(text.references.front().size()), sum = 0;
  for (const std::vector<int32_t>& reference : text.references) {
    const auto other = static_cast<double>(reference.size());
    const double nearer = std::abs(nearest - length) - std::abs(other - length);
    if (nearer > 0 || (nearer == 0 && other < nearest)) nearest = other;
    sum += other;
  }
  for (size_t n = 1; n <= TextScore::kNistOrder && n <= text.text.size(); ++n) {
    values[TextScore::kBleuOrder + TextScore::kNistOrder + n - 1] =
        length + 1 - static_cast<double>(n);
  }
  values[TextScore::kValues - 2] = nearest;
  values[TextScore::kValues - 1] = sum / static_cast<double>(text.references.size());
  return values;
}

bool is_article(std::string_view word) { return word == "a" || word == "an" || word == "the"; }

// Without the articles, which end where letters, digits and their like do.
std::string without_articles(std::string_view text) {
  std::string result, word;
  const auto flush = [&] {
    result += is_article(word) ? " " : word;
    word.clear();
  };
  for (size_t pos = 0; pos < text.size();) {
    const size_t begin = pos;
    const char32_t c = tokenizer::next_character(text, pos);
    if ((tokenizer::groups_of(c) & (character::kLetter | character::kNumber)) != 0) {
      word += text.substr(begin, pos - begin);
    } else {
      flush();
      result += text.substr(begin, pos - begin);
    }
  }
  flush();
  return result;
}

bool is_ascii_punctuation(char c) {
  return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') ||
         (c >= '{' && c <= '~');
}

AnswerScore score_one(std::string_view found, std::string_view expected) {
  const std::string a = normalize_answer(found), b = normalize_answer(expected);
  AnswerScore score{.exact = a == b ? 1.0 : 0.0};
  const std::vector<std::string> words = split_words(a);
  std::vector<std::string> rest = split_words(b);
  if (words.empty() || rest.empty())
    return {words.empty() == rest.empty() ? 1.0 : 0.0, score.exact};
  const auto all = static_cast<double>(words.size() + rest.size());
  double common = 0;
  for (const std::string& word : words) {
    const auto at = std::find(rest.begin(), rest.end(), word);
    if (at == rest.end()) continue;
    rest.erase(at);
    ++common;
  }
  score.f1 = 2 * common / all;
  return score;
}

}  // namespace

std::string lower_case(std::string_view text) {
  std::string lower;
  for (size_t pos = 0; pos < text.size();) {
    tokenizer::append_lowercase(tokenizer::next_character(text, pos), lower);
  }
  return lower;
}

std::vector<std::string> tokenize_for_scores(std::string_view given) {
  std::string text(given);
  replace_all(&text, "<skipped>", "");
  replace_all(&text, "-\n", "");
  replace_all(&text, "\n", " ");
  replace_all(&text, "&quot;", "\"");
  replace_all(&text, "&amp;", "&");
  replace_all(&text, "&lt;", "<");
  replace_all(&text, "&gt;", ">");
  std::string spaced = " ";
  for (const char c : text) {
    if (stands_alone(c)) {
      spaced += {' ', c, ' '};
    } else {
      spaced += c;
    }
  }
  spaced += ' ';
  spaced = rewrite_pairs(
      spaced, [](char a, char b) { return !is_digit(a) && is_stop(b); },
      [](char a, char b, std::string* to) {
        *to += {a, ' ', b, ' '};
      });
  spaced = rewrite_pairs(
      spaced, [](char a, char b) { return is_stop(a) && !is_digit(b); },
      [](char a, char b, std::string* to) {
        *to += {' ', a, ' ', b};
      });
  spaced = rewrite_pairs(
      spaced, [](char a, char b) { return is_digit(a) && b == '-'; },
      [](char a, char b, std::string* to) {
        *to += {a, ' ', b, ' '};
      });
  std::vector<std::string> words = split_words(lower_case(spaced));
  if (words.empty()) words.emplace_back();  // there a text without words is one empty word
  return words;
}

double TextScore::ngrams(size_t n) const { return sums_[kBleuOrder + kNistOrder + n - 1]; }

double TextScore::bleu() const {
  constexpr double kFewestHits = 1e-15, kFewestNgrams = 1e-9, kShortest = 1e-5;
  double logs = 0;
  for (size_t n = 1; n <= kBleuOrder; ++n) {
    logs += std::log(std::max(sums_[n - 1], kFewestHits) / std::max(ngrams(n), kFewestNgrams));
  }
  const double length = ngrams(1), reference = sums_[kValues - 2];
  const double brevity =
      length <= reference ? std::exp(1 - reference / (length > 0 ? length : kShortest)) : 1;
  return brevity * std::exp(logs / kBleuOrder);
}

double TextScore::nist() const {
  const double beta = std::log(2.0) / std::pow(std::log(1.5), 2);
  double sum = 0;
  for (size_t n = 1; n <= kNistOrder; ++n) {
    // Texts of fewer than n words have nothing that could hit.
    const double information = sums_[kBleuOrder + n - 1];
    if (information > 0) sum += information / ngrams(n);
  }
  const double ratio = ngrams(1) / sums_[kValues - 1];
  if (!(ratio > 0)) return 0;
  return ratio >= 1 ? sum : sum * std::exp(-beta * std::pow(std::log(ratio), 2));
}

std::vector<std::vector<double>> score_texts(std::span<const ScoredText> texts) {
  Words words;
  std::vector<Numbered> numbered;
  for (const ScoredText& text : texts) {
    Numbered& each = numbered.emplace_back(Numbered{words.numbers(text.text), {}});
    for (const std::string& reference : text.references) {
      each.references.push_back(words.numbers(reference));
    }
  }
  const Counts all = count_references(numbered);
  std::vector<std::vector<double>> values;
  for (const Numbered& text : numbered) values.push_back(values_of(all, text));
  return values;
}

std::string normalize_answer(std::string_view text) {
  std::string lower = lower_case(text);
  std::erase_if(lower, is_ascii_punctuation);
  std::string result;
  for (const std::string& word : split_words(without_articles(lower))) {
    if (!result.empty()) result += ' ';
    result += word;
  }
  return result;
}

AnswerScore score_answer(std::string_view found, std::span<const std::string> expected) {
  if (expected.empty()) return score_one(found, "");
  AnswerScore best;
  for (const std::string& answer : expected) {
    const AnswerScore score = score_one(found, answer);
    best.f1 = std::max(best.f1, score.f1);
    best.exact = std::max(best.exact, score.exact);
  }
  return best;
}

}  // namespace tessera
