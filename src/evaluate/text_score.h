#pragma once

#include <array>
#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tessera {

// BLEU and NIST of whole corpora with any number of references, as the Python scorer of the E2E
// challenge defines them (github.com/tuetschek/e2e-metrics, pymteval), without regard to case; but
// a text of fewer than n words has no n-grams, where that scorer takes the missing ones away from
// the others'.
//   BLEU (Papineni et al. 2002): exp(mean of log(hits_n / ngrams_n), n = 1 to 4) times exp(1 -
//   r / c) where c <= r; hits clipped by the largest count in one reference; r: the length of the
//   reference that is nearest, the shorter of two. Hits count at least 1e-15, n-grams at least
//   1e-9.
//   NIST (Doddington 2002): sum over n = 1 to 5 of info(hits_n) / ngrams_n times exp(-beta
//   log^2(min(1, c / r))) with beta = log 2 / log^2 1.5; r: the mean length of the references;
//   info(w1 ... wn) = log2(count(w1 ... wn-1) / count(w1 ... wn)) over all references.
class TextScore {
 public:
  static constexpr size_t kBleuOrder = 4, kNistOrder = 5;
  // An example has hits of n = 1 to 4, information of n = 1 to 5, n-grams of n = 1 to 5, the length
  // of its nearest reference and the mean length of its references.
  static constexpr size_t kValues = kBleuOrder + 2 * kNistOrder + 2;

  // The sums of the values of examples.
  explicit TextScore(std::vector<double> sums) : sums_(std::move(sums)) {}
  double bleu() const;
  double nist() const;

 private:
  double ngrams(size_t n) const;  // of all texts together
  std::vector<double> sums_;
};

// Words and punctuation in lower case, as mteval-v13a separates them.
std::vector<std::string> tokenize_for_scores(std::string_view text);

struct ScoredText {
  std::string text;
  std::vector<std::string> references;  // at least one
};
// The values of each, [texts][kValues]. The information of n-grams is that of all references here.
std::vector<std::vector<double>> score_texts(std::span<const ScoredText> texts);

// As SQuAD's script normalises answers: lower case, no punctuation, no articles, single spaces.
std::string normalize_answer(std::string_view text);
struct AnswerScore {
  double f1 = 0, exact = 0;  // 0 to 1
};
// The best over the answers; none expected is the empty answer.
AnswerScore score_answer(std::string_view found, std::span<const std::string> expected);

std::string lower_case(std::string_view text);  // UTF-8

}  // namespace tessera
