#include <cmath>
#include <random>

#include "runtime/tasks/spans.h"
#include "runtime/tasks/testing.h"

namespace tessera::tasks {
namespace {

using namespace tessera::testing;  // NOLINT: what tests are made with

#define EXPECT_CONTAINS(text, part)               \
  EXPECT_NE((text).find(part), std::string::npos) \
      << "\"" << (text) << "\" lacks \"" << (part) << '"'

SpanScores random_scores(std::mt19937& generator, size_t tokens) {
  std::normal_distribution<float> normal(0, 2);
  std::vector<float> start, end;
  std::vector<char> context;
  for (size_t t = 0; t < tokens; ++t) {
    start.push_back(normal(generator));
    end.push_back(normal(generator));
    context.push_back(generator() % 4 != 0);
  }
  return SpanScores::from_logits(start, end, context);
}

TEST(Spans, TheBestIsTheBestOfAll) {
  std::mt19937 generator(11);
  SCOPED_TRACE("seed 11");
  for (int round = 0; round < 200; ++round) {
    const size_t tokens = 1 + generator() % 20;
    const int32_t most = 1 + static_cast<int32_t>(generator() % 6);
    const SpanScores scores = random_scores(generator, tokens);
    const auto best = best_span(scores, most);
    float expected = -1;
    for (size_t begin = 0; begin < tokens; ++begin) {
      bool open = true;
      for (size_t last = begin; last < tokens && last < begin + static_cast<size_t>(most); ++last) {
        open = open && scores.open[last] != 0;
        if (open) expected = std::max(expected, scores.start[begin] * scores.end[last]);
      }
    }
    ASSERT_EQ(best.has_value(), expected >= 0);
    if (!best) continue;
    EXPECT_EQ(best->score, expected);
    EXPECT_LE(best->begin, best->last);
    EXPECT_LT(best->last - best->begin, most);
  }
}

TEST(Spans, SharesAreOfTheFirstTokenAndTheContext) {
  const std::vector<float> logits = {std::log(1.0f), std::log(100.0f), std::log(2.0f),
                                     std::log(5.0f)};
  const SpanScores scores = SpanScores::from_logits(logits, logits, {0, 0, 1, 1});
  EXPECT_EQ(scores.start[0], 0);
  EXPECT_EQ(scores.start[1], 0);
  EXPECT_NEAR(scores.start[2], 2.0 / 8, 1e-6);
  EXPECT_NEAR(scores.end[3], 5.0 / 8, 1e-6);
  EXPECT_NEAR(scores.no_answer, 1.0 / 64, 1e-6);
}

TEST(Answer, ByIdsGivesLogitsAndTheBestSpans) {
  const auto model = load_tiny(tiny_bert_with("QuestionAnswering").write("qa_ids"));
  const TaskInput input =
      ids_input({2, 5, 6, 3, 10, 11, 12, 13, 14, 15, 16, 17}, {0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1});
  AnswerOptions options;
  options.answers = 3;
  options.max_answer_tokens = 2;
  const auto results = answer(*model, std::vector{ids_input({2, 9}), input}, options);
  ASSERT_TRUE(results.ok()) << results.status().message();
  const Answers& found = (*results)[1];
  const auto alone = model->forward({*input.tokens});
  ASSERT_EQ(found.start_logits.size(), 12u);
  for (size_t t = 0; t < 12; ++t) {
    EXPECT_NEAR(found.start_logits[t], alone->start_logits[t], 5e-5);
    EXPECT_NEAR(found.end_logits[t], alone->end_logits[t], 5e-5);
  }
  EXPECT_EQ(found.windows, 1);
  ASSERT_EQ(found.best.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    const TaskSpan& span = found.best[i].span;
    EXPECT_GE(span.begin_token, 4);
    EXPECT_LE(span.end_token, 12);
    EXPECT_LE(span.end_token - span.begin_token, 2);
    EXPECT_EQ(found.best[i].text, "");
    if (i == 0) continue;
    EXPECT_GE(found.best[i - 1].score, found.best[i].score);
    for (size_t j = 0; j < i; ++j) {
      const TaskSpan& other = found.best[j].span;
      EXPECT_TRUE(span.begin_token >= other.end_token || span.end_token <= other.begin_token);
    }
  }
  // No token has type 1: the context is everything behind the first one.
  EXPECT_EQ((*results)[0].best.size(), 1u);
  EXPECT_EQ((*results)[0].best[0].span.begin_token, 1);
}

// Token id that most looks like an answer, and the one that looks least like one, to a model that
// is blind to context. The first may stand beside the second in any window.
struct Letters {
  char answer = 'a', filler = 'a';
};
Letters find_letters(Model& model) {
  std::vector<TokenSequence> batch;
  for (int32_t id = kLetterA; id < kLetterA + 22; ++id) batch.push_back({{id}, {}});
  const auto logits = model.forward(batch);
  const auto sum = [&](char c) {
    const size_t i = static_cast<size_t>(c - 'a');
    return logits->start_logits[i] + logits->end_logits[i];
  };
  Letters letters;
  for (char c = 'b'; c <= 'v'; ++c) {
    if (sum(c) > sum(letters.answer)) letters.answer = c;
    if (sum(c) < sum(letters.filler)) letters.filler = c;
  }
  return letters;
}

std::shared_ptr<Model> blind_answerer(const std::string& name, int64_t context) {
  TinyCheckpoint tiny = tiny_bert_with("QuestionAnswering");
  nlohmann::json config = nlohmann::json::parse(tiny.config);
  config["max_position_embeddings"] = context;
  tiny.config = config.dump();
  tiny.shapes["bert.embeddings.position_embeddings.weight"] = {context, 16};
  const std::string folder = tiny.write(name);
  write_tiny_tokenizer(folder);
  make_blind_to_context(folder);
  // As many positions as there are: the other tensors must not depend on their number.
  std::mt19937 generator(3);
  std::normal_distribution<float> normal(0, 1);
  for (const char* tensor :
       {"bert.embeddings.word_embeddings.weight", "qa_outputs.weight", "qa_outputs.bias"}) {
    edit_tensor(folder, tensor, [&](std::span<float> values) {
      for (float& x : values) x = normal(generator);
    });
  }
  for (const char* norm :
       {"bert.embeddings.LayerNorm", "bert.encoder.layer.0.attention.output.LayerNorm",
        "bert.encoder.layer.0.output.LayerNorm", "bert.encoder.layer.1.attention.output.LayerNorm",
        "bert.encoder.layer.1.output.LayerNorm"}) {
    fill_tensor(folder, std::string(norm) + ".weight", 1);
    fill_tensor(folder, std::string(norm) + ".bias", 0);
  }
  return load_tiny(folder);
}

TEST(Answer, ReadsLongContextsInWindows) {
  const auto narrow = blind_answerer("narrow", 40), wide = blind_answerer("wide", 400);
  const Letters letter = find_letters(*narrow);
  AnswerOptions options;
  options.max_answer_tokens = 1;
  for (const size_t place : {0, 20, 33, 34, 35, 36, 55, 70, 119}) {
    SCOPED_TRACE(place);
    std::string context = letters(120, letter.filler);
    context[place * 2] = letter.answer;
    const std::vector<TaskInput> inputs = {pair_input("q", context)};
    const auto in_windows = answer(*narrow, inputs, options),
               at_once = answer(*wide, inputs, options);
    ASSERT_TRUE(in_windows.ok()) << in_windows.status().message();
    ASSERT_TRUE(at_once.ok()) << at_once.status().message();
    EXPECT_GT(in_windows->front().windows, 3);
    EXPECT_EQ(at_once->front().windows, 1);
    for (const Answers& found : {in_windows->front(), at_once->front()}) {
      ASSERT_EQ(found.best.size(), 1u);
      EXPECT_EQ(found.best[0].text, std::string(1, letter.answer));
      EXPECT_EQ(found.best[0].span.begin_byte, static_cast<int64_t>(place * 2));
      EXPECT_EQ(found.best[0].span.end_byte, static_cast<int64_t>(place * 2 + 1));
    }
  }
}

TEST(Answer, CountsEachPlaceOnce) {
  const auto model = blind_answerer("places", 40);
  const Letters letter = find_letters(*model);
  std::string context = letters(60, letter.filler);
  for (const size_t place : {16, 50}) context[place * 2] = letter.answer;  // 16 is in two windows
  AnswerOptions options;
  options.answers = 4;
  options.max_answer_tokens = 1;
  const auto results = answer(*model, std::vector{pair_input("q", context)}, options);
  ASSERT_TRUE(results.ok()) << results.status().message();
  const std::vector<Answer>& best = results->front().best;
  ASSERT_EQ(best.size(), 4u);
  std::vector<int64_t> places = {best[0].span.begin_byte, best[1].span.begin_byte};
  std::sort(places.begin(), places.end());
  EXPECT_EQ(places, (std::vector<int64_t>{32, 100}));
  for (size_t i = 0; i < 4; ++i) {
    for (size_t j = 0; j < i; ++j) EXPECT_NE(best[i].span.begin_byte, best[j].span.begin_byte);
  }
}

TEST(Answer, EndsWhereWordsDo) {
  const auto model = blind_answerer("whole_words", 40);
  AnswerOptions options;
  options.max_answer_tokens = 1;
  const std::string context = "abc\xC3\xA4 bca cab";
  const auto results = answer(*model, std::vector{pair_input("q", context)}, options);
  ASSERT_TRUE(results.ok()) << results.status().message();
  const Answer& best = results->front().best.front();
  EXPECT_EQ(best.text, context.substr(static_cast<size_t>(best.span.begin_byte), best.text.size()));
  EXPECT_TRUE(best.text == "bca" || best.text == "cab") << best.text;
}

TEST(Answer, KnowsThatThereMayBeNone) {
  const auto model = load_tiny(tiny_bert_with("QuestionAnswering"), "none");
  const auto results =
      answer(*model, std::vector{pair_input("a", ""), pair_input("a", "b"), pair_input("a", "  ")});
  ASSERT_TRUE(results.ok()) << results.status().message();
  EXPECT_TRUE((*results)[0].best.empty());
  EXPECT_EQ((*results)[0].no_answer_score, 1);
  EXPECT_TRUE((*results)[2].best.empty());
  EXPECT_EQ((*results)[1].best.size(), 1u);
  // Two tokens share both softmaxes: [CLS] and b.
  const float none = (*results)[1].no_answer_score, one = (*results)[1].best[0].score;
  EXPECT_GT(none, 0);
  EXPECT_LT(none + one, 1);
}

TEST(Answer, RefusesWhatItCannotRead) {
  const auto model = load_tiny(tiny_bert_with("QuestionAnswering"), "qa_bad");
  const auto error = [&](const TaskInput& input, const AnswerOptions& options) {
    const Status status =
        answer(*model, std::vector{pair_input("a", "b"), input}, options).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidInput);
    return status.message();
  };
  EXPECT_EQ(error(text_input("a"), {}),
            "input 1: expected a question and a context, found one text");
  EXPECT_CONTAINS(error(pair_input(letters(37), "b"), {}),
                  "input 1: expected a question that leaves");
  EXPECT_CONTAINS(error(pair_input("a", "\xFF"), {}), "input 1: ");
  EXPECT_CONTAINS(error(ids_input({50}), {}), "input 1: ");
  AnswerOptions options;
  options.answers = 0;
  EXPECT_CONTAINS(error(pair_input("a", "b"), options), "answers: expected at least 1, found 0");
  options = {};
  options.overlap_tokens = -1;
  EXPECT_CONTAINS(error(pair_input("a", "b"), options), "overlap_tokens: expected at least 0");
  // 36 tokens of question leave one for the context.
  const auto tight = answer(*model, std::vector{pair_input(letters(36), letters(5))});
  ASSERT_TRUE(tight.ok()) << tight.status().message();
  EXPECT_EQ(tight->front().windows, 5);
}

TEST(Answer, TakesTheOverlapThatIsAskedFor) {
  const auto model = load_tiny(tiny_bert_with("QuestionAnswering"), "overlap");
  AnswerOptions options;
  options.window_tokens = 16;
  const auto windows = [&](int32_t overlap) {
    options.overlap_tokens = overlap;
    return answer(*model, std::vector{pair_input("a", letters(40))}, options);
  };
  // [CLS] a [SEP] ... [SEP] leave 12: windows begin at 0, 12, 24 and 36, or at 0, 1, 2, ... 28.
  EXPECT_EQ(windows(0)->front().windows, 4);
  EXPECT_EQ(windows(11)->front().windows, 29);
  EXPECT_CONTAINS(windows(12).status().message(), "overlap_tokens: expected at most 11 beside");
}

}  // namespace
}  // namespace tessera::tasks
