#include "evaluate/metrics.h"

#include <gtest/gtest.h>

#include <cmath>

#include "evaluate/text_score.h"

namespace tessera {
namespace {

Evaluation evaluation_of(EvaluationKind kind, std::vector<double> settings,
                         const std::vector<std::vector<double>>& values) {
  Evaluation evaluation;
  evaluation.kind = kind;
  evaluation.settings = std::move(settings);
  for (const std::vector<double>& each : values) {
    EvaluatedExample& example = evaluation.examples.emplace_back();
    example.id = std::to_string(evaluation.examples.size());
    example.values = each;
  }
  const Result<MetricSet> metrics = MetricSet::of(evaluation);
  EXPECT_TRUE(metrics.ok()) << metrics.status().message();
  if (metrics.ok()) evaluation.metrics = metrics->metrics();
  return evaluation;
}

double metric(const Evaluation& evaluation, const std::string& name) {
  for (const Metric& each : evaluation.metrics) {
    if (each.name == name) return each.value;
  }
  ADD_FAILURE() << "expected the metric " << name;
  return NAN;
}

// All comparisons below are of sums of a few numbers.
constexpr double kRounding = 1e-12;

TEST(Metrics, ClassificationOfTwoLabels) {
  // Counted by hand: tp 3, fn 1, fp 2, tn 4. accuracy 7/10, f1 6/9, matthews (12 - 2) / sqrt(4 * 6
  // * 5 * 5).
  std::vector<std::vector<double>> values;
  for (const auto& [truth, found, times] : {std::tuple{1, 1, 3}, {1, 0, 1}, {0, 1, 2}, {0, 0, 4}}) {
    for (int i = 0; i < times; ++i) values.push_back({double(truth), double(found)});
  }
  const Evaluation positive = evaluation_of(EvaluationKind::kClassification, {2, 1}, values);
  EXPECT_NEAR(metric(positive, "accuracy"), 0.7, kRounding);
  EXPECT_NEAR(metric(positive, "f1"), 6.0 / 9, kRounding);
  EXPECT_NEAR(metric(positive, "matthews"), 10 / std::sqrt(600.0), kRounding);
  const Evaluation negative = evaluation_of(EvaluationKind::kClassification, {2, 0}, values);
  EXPECT_NEAR(metric(negative, "f1"), 8.0 / 11, kRounding);
}

TEST(Metrics, ClassificationOfThreeLabels) {
  // Truth 0 0 1 1 2 2, found 0 1 1 1 2 0: f1 1/2, 4/5, 2/3; matthews (4 * 6 - (2 * 2 + 2 * 3 + 2 *
  // 1)) / sqrt((36 - 12) (36 - 14)).
  const Evaluation evaluation = evaluation_of(EvaluationKind::kClassification, {3, 2},
                                              {{0, 0}, {0, 1}, {1, 1}, {1, 1}, {2, 2}, {2, 0}});
  EXPECT_NEAR(metric(evaluation, "f1"), (0.5 + 0.8 + 2.0 / 3) / 3, kRounding);
  EXPECT_NEAR(metric(evaluation, "matthews"), 12 / std::sqrt(24.0 * 22), kRounding);
}

TEST(Metrics, OnlyOneLabelHasNoCorrelation) {
  const Evaluation evaluation =
      evaluation_of(EvaluationKind::kClassification, {2, 1}, {{1, 1}, {1, 1}});
  EXPECT_EQ(metric(evaluation, "accuracy"), 1);
  EXPECT_EQ(metric(evaluation, "matthews"), 0);
}

TEST(Metrics, CorrelationsWithTies) {
  // Ranks 1 2.5 2.5 4 5 and 1 3.5 2 3.5 5: squares of both about their mean 9.5, products 8.5, by
  // hand: (-2)(-2) + (-.5)(.5) + (-.5)(-1) + (1)(.5) + (2)(2) = 8.75.
  const Evaluation evaluation =
      evaluation_of(EvaluationKind::kSimilarity, {}, {{1, 10}, {2, 40}, {2, 30}, {3, 40}, {4, 50}});
  EXPECT_NEAR(metric(evaluation, "spearman"), 8.75 / 9.5, kRounding);
  // Deviations -1.4 -.4 -.4 .6 1.6 and -24 6 -4 6 16.
  EXPECT_NEAR(metric(evaluation, "pearson"), (33.6 - 2.4 + 1.6 + 3.6 + 25.6) / std::sqrt(5.2 * 920),
              kRounding);
}

TEST(Metrics, RepeatedExamplesCountAsOftenAsTheyAreDrawn) {
  const std::vector<std::vector<double>> rows = {{1, 10}, {2, 40}, {2, 30}, {3, 40}, {4, 50}};
  const std::vector<int32_t> counts = {2, 0, 1, 1, 3};
  std::vector<std::vector<double>> drawn;
  for (size_t i = 0; i < rows.size(); ++i) {
    for (int32_t k = 0; k < counts[i]; ++k) drawn.push_back(rows[i]);
  }
  const Evaluation once = evaluation_of(EvaluationKind::kSimilarity, {}, rows);
  const Evaluation often = evaluation_of(EvaluationKind::kSimilarity, {}, drawn);
  const std::vector<double> found = MetricSet::of(once)->compute(counts);
  EXPECT_NEAR(found[0], metric(often, "spearman"), kRounding);
  EXPECT_NEAR(found[1], metric(often, "pearson"), kRounding);
}

TEST(Metrics, SumsOfPerplexityAndAgreement) {
  const Evaluation text =
      evaluation_of(EvaluationKind::kPerplexity, {}, {{6, 4, 2, 10}, {3, 2, 1, 5}});
  EXPECT_NEAR(metric(text, "perplexity"), std::exp(1.5), kRounding);
  EXPECT_NEAR(metric(text, "word_perplexity"), std::exp(3.0), kRounding);
  EXPECT_NEAR(metric(text, "bits_per_byte"), 9 / std::log(2.0) / 15, kRounding);
  const Evaluation close =
      evaluation_of(EvaluationKind::kAgreement, {1}, {{0.5, 9, 10}, {1.5, 3, 10}});
  EXPECT_NEAR(metric(close, "kl"), 0.1, kRounding);
  EXPECT_NEAR(metric(close, "top1_agreement"), 0.6, kRounding);
}

TEST(Metrics, RefusesValuesThatDoNotFit) {
  Evaluation evaluation;
  evaluation.kind = EvaluationKind::kSimilarity;
  EXPECT_FALSE(MetricSet::of(evaluation).ok());  // no examples
  evaluation.examples.push_back({.id = "1", .values = {1}});
  EXPECT_FALSE(MetricSet::of(evaluation).ok());
  evaluation.examples[0].values = {1, NAN};
  EXPECT_FALSE(MetricSet::of(evaluation).ok());
  evaluation.kind = EvaluationKind::kClassification;
  evaluation.settings = {2, 1};
  evaluation.examples[0].values = {0, 2};
  EXPECT_FALSE(MetricSet::of(evaluation).ok());
}

TEST(Bootstrap, IntervalOfAMean) {
  // Accuracy of 400 examples, 300 right: the standard error is sqrt(.75 * .25 / 400) = 0.02165, the
  // percentiles 1.96 of it away. A percentile of 2000 resamples is known to about 3% of that.
  std::vector<std::vector<double>> values;
  for (int i = 0; i < 400; ++i)
    values.push_back({double(i % 2), double(i % 4 == 0 ? 1 - i % 2 : i % 2)});
  const Evaluation evaluation = evaluation_of(EvaluationKind::kClassification, {2, 1}, values);
  const auto metrics =
      with_intervals(*MetricSet::of(evaluation), {.resamples = 2000, .seed = 7}, {});
  ASSERT_TRUE(metrics.ok());
  EXPECT_NEAR((*metrics)[0].low, 0.75 - 1.96 * 0.02165, 0.005);
  EXPECT_NEAR((*metrics)[0].high, 0.75 + 1.96 * 0.02165, 0.005);
  const auto again = with_intervals(*MetricSet::of(evaluation), {.resamples = 2000, .seed = 7}, {});
  EXPECT_EQ((*again)[0].low, (*metrics)[0].low);
  const auto none = with_intervals(*MetricSet::of(evaluation), {.resamples = 0}, {});
  EXPECT_TRUE(std::isnan((*none)[0].low));
}

TEST(Bootstrap, PairsExamples) {
  // Better in every tenth of 200: certain. Unpaired the intervals would overlap by far.
  std::vector<std::vector<double>> better, worse;
  for (int i = 0; i < 200; ++i) {
    const double truth = i % 2;
    worse.push_back({truth, i % 10 < 3 ? 1 - truth : truth});
    better.push_back({truth, i % 10 < 2 ? 1 - truth : truth});
  }
  const Evaluation a = evaluation_of(EvaluationKind::kClassification, {2, 1}, better);
  const Evaluation b = evaluation_of(EvaluationKind::kClassification, {2, 1}, worse);
  const auto found = compare(a, b);
  ASSERT_TRUE(found.ok()) << found.status().message();
  ASSERT_EQ(found->size(), 3U);
  EXPECT_NEAR((*found)[0].difference, 0.1, kRounding);
  EXPECT_GT((*found)[0].low, 0.05);
  EXPECT_LT((*found)[0].high, 0.15);
  EXPECT_LE((*found)[0].p_value, 0.002);
  const auto same = compare(a, a);
  EXPECT_EQ((*same)[0].difference, 0);
  EXPECT_EQ((*same)[0].p_value, 1);
  const auto undrawn = compare(a, b, {.resamples = 0});
  EXPECT_NEAR((*undrawn)[0].difference, 0.1, kRounding);
  EXPECT_TRUE(std::isnan((*undrawn)[0].low) && std::isnan((*undrawn)[0].p_value));
}

TEST(Bootstrap, RefusesOtherExamples) {
  const Evaluation a = evaluation_of(EvaluationKind::kSimilarity, {}, {{1, 1}, {2, 3}});
  const Evaluation b = evaluation_of(EvaluationKind::kSimilarity, {}, {{1, 1}, {2, 3}, {3, 4}});
  EXPECT_FALSE(compare(a, b).ok());
  EXPECT_FALSE(compare(a, evaluation_of(EvaluationKind::kPerplexity, {}, {{1, 1, 1, 1}})).ok());
}

TEST(EvaluationJson, ComesBackTheSame) {
  Evaluation evaluation = evaluation_of(EvaluationKind::kSimilarity, {}, {{0.1, 1}, {0.7, 3}});
  evaluation.task = "a \"task\"";
  evaluation.notes = {"line 3: cut"};
  evaluation.metrics[0].low = NAN;
  evaluation.counts.tokens = 12;
  const std::string json = evaluation_json(evaluation, {}, WithExamples::kYes);
  const Result<Evaluation> back = evaluation_from_json(json, "test");
  ASSERT_TRUE(back.ok()) << back.status().message();
  EXPECT_EQ(evaluation_json(*back, {}, WithExamples::kYes), json);
  EXPECT_FALSE(evaluation_from_json(evaluation_json(evaluation), "test").ok());  // no examples
  EXPECT_FALSE(evaluation_from_json("[]", "test").ok());
}

using Words = std::vector<std::string>;

TEST(TextScore, SeparatesWordsAsTheReference) {
  // Pairs of rules that do not overlap: the second of two full stops stays.
  EXPECT_EQ(tokenize_for_scores("It's 1,000.50 (or so), e.g. 5-6."),
            (Words{"it's", "1,000.50", "(", "or", "so", ")", ",", "e", ".", "g", ".", "5", "-", "6",
                   "."}));
  EXPECT_EQ(tokenize_for_scores("a&amp;b &quot;C&quot; \xC3\x89t\xC3\xA9"),
            (Words{"a", "&", "b", "\"", "c", "\"", "\xC3\xA9t\xC3\xA9"}));
  EXPECT_EQ(tokenize_for_scores(""), (Words{""}));
}

TEST(TextScore, BleuByHand) {
  // "the cat sat on the mat" against "the cat is on the mat": hits 5/6 3/5 1/4 0 of 3, so that the
  // last one counts 1e-15; the lengths are equal, c <= r: exp(0).
  const std::vector<ScoredText> texts = {{"the cat sat on the mat", {"the cat is on the mat"}}};
  const TextScore score(score_texts(texts)[0]);
  EXPECT_NEAR(score.bleu(), std::pow(5.0 / 6 * 3 / 5 * 1 / 4 * (1e-15 / 3), 0.25), 1e-9);
}

TEST(TextScore, ShorterThanItsReferencesIsPenalised) {
  // "a b c d" against "a b c d e f": all hit, brevity exp(1 - 6/4). The second reference is nearer:
  // exp(1 - 5/4).
  const std::vector<ScoredText> one = {{"a b c d", {"a b c d e f"}}};
  EXPECT_NEAR(TextScore(score_texts(one)[0]).bleu(), std::exp(-0.5), kRounding);
  const std::vector<ScoredText> two = {{"a b c d", {"a b c d e f", "x b c d e"}}};
  EXPECT_NEAR(TextScore(score_texts(two)[0]).bleu(), std::exp(-0.25), kRounding);
}

TEST(TextScore, ShortTextsHaveNoLongNgrams) {
  // 4 and 2 words: 6, 4, 2 and 1 n-grams, and all hit.
  const std::vector<ScoredText> texts = {{"a b c d", {"a b c d"}}, {"e f", {"e f"}}};
  std::vector<double> sums(TextScore::kValues);
  for (const std::vector<double>& values : score_texts(texts)) {
    for (size_t i = 0; i < sums.size(); ++i) sums[i] += values[i];
  }
  EXPECT_NEAR(TextScore(sums).bleu(), 1, kRounding);
}

TEST(TextScore, NistByHand) {
  // References "a b" and "a c": 4 words, a 2, b 1, c 1; info(a) = 1, info(b) = 2, info(a b) = 1.
  // "a b" hits a, b and a b: (1 + 2) / 2 + 1 / 1.
  const std::vector<ScoredText> texts = {{"a b", {"a b", "a c"}}};
  EXPECT_NEAR(TextScore(score_texts(texts)[0]).nist(), 2.5, kRounding);
}

TEST(Answers, AreNormalised) {
  EXPECT_EQ(normalize_answer(" The  Cat, an \xC3\x89lan! "), "cat \xC3\xA9lan");
  EXPECT_EQ(normalize_answer("theatre a-b"), "theatre ab");
  const std::vector<std::string> expected = {"the red cat", "a dog"};
  EXPECT_NEAR(score_answer("red cats cat", expected).f1, 2.0 * 2 / 5, kRounding);
  EXPECT_EQ(score_answer("Dog!", expected).exact, 1);
  EXPECT_EQ(score_answer("", {}).exact, 1);
  EXPECT_EQ(score_answer("cat", {}).f1, 0);
}

}  // namespace
}  // namespace tessera
