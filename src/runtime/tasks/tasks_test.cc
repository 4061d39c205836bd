#include <cmath>
#include <limits>
#include <numeric>

#include "runtime/model_state.h"
#include "runtime/tasks/testing.h"
#include "tessera/tokenizer.h"

namespace tessera {
namespace {

using namespace testing;  // NOLINT: what tests are made with

#define EXPECT_CONTAINS(text, part)               \
  EXPECT_NE((text).find(part), std::string::npos) \
      << "\"" << (text) << "\" lacks \"" << (part) << '"'

// Logits of the tiny models are of the order of 1; a batch groups rows of products differently than
// a single sequence does: 16 + 24 + 16 terms a layer, two layers.
constexpr float kTolerance = 5e-5f;

void expect_near(std::span<const float> a, std::span<const float> b, const std::string& what) {
  ASSERT_EQ(a.size(), b.size()) << what;
  for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], kTolerance) << what << ", " << i;
}

// Inputs of all lengths that together have more tokens than one batch takes.
std::vector<TaskInput> many_inputs(size_t count) {
  std::vector<TaskInput> inputs;
  for (size_t i = 0; i < count; ++i) {
    std::vector<int32_t> ids;
    for (size_t j = 0; j < 1 + (i * 17) % 40; ++j) {
      ids.push_back(static_cast<int32_t>((7 * i + 3 * j) % 50));
    }
    inputs.push_back(ids_input(ids));
  }
  return inputs;
}

TEST(Classify, AnswersInTheOrderOfTheInputs) {
  const auto model = load_tiny(tiny_bert_with("SequenceClassification", 3).write("order"));
  const std::vector<TaskInput> inputs = many_inputs(300);
  std::vector<int64_t> progress;
  TaskOptions options;
  options.on_progress = [&](int64_t done) {
    progress.push_back(done);
    return true;
  };
  const auto results = classify(*model, inputs, options);
  ASSERT_TRUE(results.ok()) << results.status().message();
  ASSERT_EQ(results->size(), inputs.size());
  for (size_t i = 0; i < inputs.size(); ++i) {
    const Classification& result = (*results)[i];
    expect_near(result.logits, model->forward({*inputs[i].tokens})->logits, std::to_string(i));
    EXPECT_EQ(result.tokens, static_cast<int64_t>(inputs[i].tokens->ids.size()));
    EXPECT_NEAR(std::accumulate(result.scores.begin(), result.scores.end(), 0.0), 1, 1e-6);
    EXPECT_FALSE(result.truncated);
  }
  EXPECT_TRUE(std::is_sorted(progress.begin(), progress.end()));
  EXPECT_GT(progress.size(), 3u);
  EXPECT_EQ(progress.back(), 300);
}

TEST(Classify, StopsWhenToldTo) {
  const auto model = load_tiny(tiny_bert_with("SequenceClassification").write("stop"));
  TaskOptions options;
  int64_t seen = 0;
  options.on_progress = [&](int64_t done) {
    seen = done;
    return done == 0;
  };
  const auto results = classify(*model, many_inputs(300), options);
  EXPECT_EQ(results.status().code(), StatusCode::kCancelled);
  EXPECT_GT(seen, 0);
  EXPECT_LT(seen, 300);
}

TEST(Classify, NothingGivesNothing) {
  const auto model = load_tiny(tiny_bert_with("SequenceClassification").write("nothing"));
  const auto results = classify(*model, {});
  ASSERT_TRUE(results.ok()) << results.status().message();
  EXPECT_TRUE(results->empty());
}

TEST(Classify, TextIsItsIds) {
  const auto model = load_tiny(tiny_bert_with("SequenceClassification"), "text");
  const auto results =
      classify(*model, std::vector{text_input("a bc"), ids_input({kCls, 5, 6, 29, kSep}),
                                   pair_input("a", "b"),
                                   ids_input({kCls, 5, kSep, 6, kSep}, {0, 0, 0, 1, 1})});
  ASSERT_TRUE(results.ok()) << results.status().message();
  expect_near((*results)[0].logits, (*results)[1].logits, "one text");
  expect_near((*results)[2].logits, (*results)[3].logits, "two texts");
}

TEST(Classify, CutsOrRefusesLongTexts) {
  const auto model = load_tiny(tiny_bert_with("SequenceClassification"), "long");
  const std::vector<TaskInput> inputs = {text_input("a"), text_input(letters(100)),
                                         pair_input(letters(3), letters(100, 'b'))};
  const auto cut = classify(*model, inputs);
  ASSERT_TRUE(cut.ok()) << cut.status().message();
  EXPECT_FALSE((*cut)[0].truncated);
  for (size_t i : {1, 2}) {
    EXPECT_TRUE((*cut)[i].truncated);
    EXPECT_EQ((*cut)[i].tokens, 40);
  }
  const auto same = classify(*model, std::vector{text_input(letters(38))});
  expect_near((*cut)[1].logits, (*same)[0].logits, "cut");
  EXPECT_FALSE((*same)[0].truncated);
  TaskOptions refuse;
  refuse.too_long = TooLong::kRefuse;
  const auto refused = classify(*model, inputs, refuse);
  EXPECT_CONTAINS(refused.status().message(), "input 1: ");
  EXPECT_CONTAINS(refused.status().message(), "at most 40 tokens");
  const auto ids = classify(*model, std::vector{ids_input(std::vector<int32_t>(41, 5))});
  EXPECT_CONTAINS(ids.status().message(), "input 0: expected at most 40 tokens");
}

TEST(Classify, NamesBadInputs) {
  const auto model = load_tiny(tiny_bert_with("SequenceClassification"), "bad");
  const auto error = [&](const TaskInput& bad) {
    std::vector<TaskInput> inputs = many_inputs(2);
    inputs.push_back(text_input("a"));
    inputs.push_back(bad);
    const auto results = classify(*model, inputs);
    EXPECT_EQ(results.status().code(), StatusCode::kInvalidInput);
    EXPECT_TRUE(results.status().message().starts_with("input 3: ")) << results.status().message();
    return results.status().message();
  };
  EXPECT_CONTAINS(error(ids_input({5, 50})), "found 50 at token 1");
  EXPECT_CONTAINS(error(ids_input({})), "found none");
  EXPECT_CONTAINS(error(text_input("a\xFF")), "UTF-8");
  EXPECT_CONTAINS(error(pair_input("a", "b\xFF")), "UTF-8");
  const auto silent = load_tiny(tiny_bert_with("SequenceClassification").write("silent"));
  const auto results = classify(*silent, std::vector{ids_input({5}), text_input("a")});
  EXPECT_EQ(results.status().code(), StatusCode::kNotFound);
  EXPECT_CONTAINS(results.status().message(), "input 1: ");
  EXPECT_CONTAINS(results.status().message(), "no tokenizer");
}

TEST(Classify, ScoresAsTheProblemTypeSays) {
  const auto scores = [](int64_t labels, const std::string& type) {
    TinyCheckpoint tiny = tiny_bert_with("SequenceClassification", labels);
    if (!type.empty()) tiny.with("{", "{\"problem_type\": \"" + type + "\", ");
    const auto model = load_tiny(tiny.write("problem" + type + std::to_string(labels)));
    return classify(*model, std::vector{ids_input({1, 2, 3})})->front();
  };
  for (const char* type : {"", "single_label_classification"}) {
    const Classification softmax = scores(2, type);
    EXPECT_NEAR(softmax.scores[0], 1 / (1 + std::exp(softmax.logits[1] - softmax.logits[0])), 1e-6);
  }
  for (const Classification& sigmoid : {scores(2, "multi_label_classification"), scores(1, "")}) {
    for (size_t i = 0; i < sigmoid.scores.size(); ++i) {
      EXPECT_NEAR(sigmoid.scores[i], 1 / (1 + std::exp(-sigmoid.logits[i])), 1e-6);
    }
  }
  const Classification regression = scores(1, "regression");
  EXPECT_EQ(regression.scores, regression.logits);
  TinyCheckpoint odd = tiny_bert_with("SequenceClassification");
  odd.with("{", "{\"problem_type\": \"class\", ");
  const auto refused = Model::load(odd.write("odd_problem"), {.threads = 1});
  EXPECT_CONTAINS(refused.status().message(), "problem_type: expected one of");
  EXPECT_CONTAINS(refused.status().message(), "found \"class\"");
}

TEST(Classify, NamesLabelsThatTheFileDoesNot) {
  TinyCheckpoint tiny = tiny_bert_with("SequenceClassification");
  nlohmann::json config = nlohmann::json::parse(tiny.config);
  config.erase("id2label");
  tiny.config = config.dump();
  EXPECT_EQ(load_tiny(tiny.write("unnamed"))->info().labels,
            (std::vector<std::string>{"LABEL_0", "LABEL_1"}));
}

TEST(Tasks, SayWhichFitsTheHead) {
  const std::vector<TaskInput> inputs = {ids_input({1})};
  const auto tokens = load_tiny(tiny_bert_with("TokenClassification").write("tokens_head"));
  const auto masked = load_tiny(tiny_bert().write("masked_head"));
  const auto expect = [](const Status& status, const std::string& function) {
    EXPECT_EQ(status.code(), StatusCode::kUnsupported);
    EXPECT_TRUE(status.message().ends_with(": use " + function)) << status.message();
  };
  expect(classify(*tokens, inputs).status(), "tag");
  expect(answer(*tokens, inputs).status(), "tag");
  expect(fill_mask(*tokens, inputs).status(), "tag");
  expect(rerank(*tokens, "a", {}).status(), "tag");
  expect(tag(*masked, inputs).status(), "fill_mask");
  expect(classify(*load_tiny(tiny_llama().write("decoder_head")), inputs).status(), "generate");
}

TEST(Tasks, ReportNaNWithTheInput) {
  // A checkpoint with such a weight does not load, so it is put in behind.
  const auto poisoned = [](const TinyCheckpoint& tiny, const std::string& name) {
    auto model = load_tiny(tiny, name);
    state_of(*model).weights.tokens.data.as<float>()[7 * 16 + 3] =
        std::numeric_limits<float>::quiet_NaN();
    return model;
  };
  const std::vector<TaskInput> fine = {ids_input({5, 4, 6}), ids_input({8, 4})};
  std::vector<TaskInput> with_bad = fine;
  with_bad.push_back(ids_input({5, 7, 4}));
  const auto expect = [&](auto run) {
    EXPECT_TRUE(run(fine).ok()) << run(fine).status().message();
    const Status status = run(with_bad).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidInput);
    EXPECT_TRUE(status.message().starts_with("input 2: expected finite logits, found"))
        << status.message();
  };
  const auto classifier = poisoned(tiny_bert_with("SequenceClassification"), "nan_classify");
  expect([&](const auto& inputs) { return classify(*classifier, inputs); });
  const auto tagger = poisoned(tiny_bert_with("TokenClassification"), "nan_tag");
  expect([&](const auto& inputs) { return tag(*tagger, inputs); });
  const auto answerer = poisoned(tiny_bert_with("QuestionAnswering"), "nan_answer");
  expect([&](const auto& inputs) { return answer(*answerer, inputs); });
  const auto masked = poisoned(tiny_bert(), "nan_fill");
  EXPECT_CONTAINS(fill_mask(*masked, with_bad).status().message(), "expected finite logits");
  const std::vector<std::string> documents = {"a", "b c"};
  EXPECT_CONTAINS(rerank(*masked, "a", documents).status().message(), "input 1: expected finite");
  EXPECT_CONTAINS(rerank(*masked, "c", documents).status().message(), "the query: expected finite");
}

TEST(FillMask, GivesTheBestCandidatesOfEachMask) {
  const auto model = load_tiny(tiny_bert(), "fill");
  FillMaskOptions options;
  options.candidates = 7;
  options.logits = Logits::kGive;
  std::vector<TaskInput> inputs = {text_input("a [MASK] c"), text_input("[MASK][MASK]"),
                                   ids_input({5, kMaskId, 6})};
  const auto results = fill_mask(*model, inputs, options);
  ASSERT_TRUE(results.ok()) << results.status().message();
  EXPECT_EQ((*results)[0].positions, (std::vector<int32_t>{2}));
  EXPECT_EQ((*results)[1].positions, (std::vector<int32_t>{1, 2}));
  const auto alone = model->forward({{{kCls, 5, kMaskId, 7, kSep}, {}}});
  const auto row = std::span(alone->logits).subspan(2 * 50, 50);
  const FilledMasks& filled = (*results)[0];
  expect_near(filled.logits, row, "logits");
  ASSERT_EQ(filled.candidates[0].size(), 7u);
  double sum = 0;
  for (const float x : row) sum += std::exp(x);
  for (size_t i = 0; i < 7; ++i) {
    const MaskCandidate& candidate = filled.candidates[0][i];
    const float logit = row[static_cast<size_t>(candidate.id)];
    const auto larger = std::count_if(row.begin(), row.end(), [&](float x) { return x > logit; });
    EXPECT_EQ(larger, static_cast<int64_t>(i));
    EXPECT_NEAR(candidate.score, std::exp(logit) / sum, 1e-5);
    EXPECT_EQ(candidate.token, tiny_words()[static_cast<size_t>(candidate.id)]);
  }
  const std::string best = filled.candidates[0][0].token;
  EXPECT_EQ(filled.text, best.starts_with("##") ? "a" + best.substr(2) + " c" : "a " + best + " c");
  EXPECT_EQ((*results)[1].logits.size(), 100u);
}

TEST(FillMask, NeedsAMask) {
  const auto model = load_tiny(tiny_bert(), "no_mask");
  const auto results = fill_mask(*model, std::vector{text_input("[MASK]"), text_input("a b")});
  EXPECT_CONTAINS(results.status().message(), "input 1: expected a mask ([MASK]), found none");
  const auto cut = fill_mask(*model, std::vector{text_input(letters(60) + " [MASK]")});
  EXPECT_CONTAINS(cut.status().message(), "before the text was cut");
  const auto silent = load_tiny(tiny_bert().write("silent_mask"));
  EXPECT_CONTAINS(fill_mask(*silent, std::vector{ids_input({1})}).status().message(), "mask");
  FillMaskOptions options;
  options.mask_id = 9;
  const auto given = fill_mask(*silent, std::vector{ids_input({9, 1, 9})}, options);
  ASSERT_TRUE(given.ok()) << given.status().message();
  EXPECT_EQ(given->front().positions, (std::vector<int32_t>{0, 2}));
  EXPECT_EQ(given->front().candidates[1].size(), 5u);
  options.mask_id = 50;
  EXPECT_CONTAINS(fill_mask(*silent, std::vector{ids_input({9})}, options).status().message(),
                  "from 0 to 49, found 50");
  options.mask_id = 9;
  options.candidates = 0;
  EXPECT_CONTAINS(fill_mask(*silent, std::vector{ids_input({9})}, options).status().message(),
                  "at least 1 candidate");
  options.candidates = 1000;
  EXPECT_EQ(fill_mask(*silent, std::vector{ids_input({9})}, options)->front().candidates[0].size(),
            50u);
}

TEST(Rerank, ComparesEmbeddings) {
  const auto model = load_tiny(tiny_bert(), "embeddings");
  const std::vector<std::string> documents = {"c d e", "a b", "v v v v", "a b", letters(90)};
  std::vector<int64_t> progress;
  TaskOptions options;
  options.on_progress = [&](int64_t done) {
    progress.push_back(done);
    return true;
  };
  const auto ranking = rerank(*model, "a b", documents, options);
  ASSERT_TRUE(ranking.ok()) << ranking.status().message();
  ASSERT_EQ(ranking->size(), 5u);
  EXPECT_EQ(progress.back(), 5);
  // The query itself, twice: equals stay in their order.
  EXPECT_EQ((*ranking)[0].document, 1);
  EXPECT_EQ((*ranking)[1].document, 3);
  EXPECT_NEAR((*ranking)[0].score, 1, 1e-6);
  for (size_t i = 1; i < 5; ++i) EXPECT_GE((*ranking)[i - 1].score, (*ranking)[i].score);
  options.too_long = TooLong::kRefuse;
  EXPECT_CONTAINS(rerank(*model, "a b", documents, options).status().message(), "input 4: ");
  options.on_progress = [](int64_t) { return false; };
  EXPECT_EQ(rerank(*model, "a b", documents, options).status().code(), StatusCode::kCancelled);
}

TEST(Rerank, AsksACrossEncoder) {
  const std::vector<std::string> documents = {"a", "b c", "d"};
  const auto scores = [&](const TinyCheckpoint& tiny, const std::string& name) {
    const auto model = load_tiny(tiny, name);
    std::vector<TaskInput> pairs;
    for (const std::string& document : documents) pairs.push_back(pair_input("q", document));
    const auto ranking = rerank(*model, "q", documents);
    EXPECT_TRUE(ranking.ok()) << ranking.status().message();
    std::vector<std::pair<Ranked, Classification>> found;
    const auto classes = classify(*model, pairs);
    for (const Ranked& ranked : *ranking) {
      found.emplace_back(ranked, (*classes)[static_cast<size_t>(ranked.document)]);
    }
    return found;
  };
  const auto sigmoid = [](float x) { return 1 / (1 + std::exp(-x)); };
  for (const auto& [ranked, pair] : scores(tiny_bert_with("SequenceClassification", 1), "cross1")) {
    EXPECT_NEAR(ranked.score, sigmoid(pair.logits[0]), 1e-6);
  }
  for (const auto& [ranked, pair] : scores(tiny_bert_with("SequenceClassification", 2), "cross2")) {
    EXPECT_NEAR(ranked.score, sigmoid(pair.logits[1] - pair.logits[0]), 1e-6);
  }
  TinyCheckpoint identity = tiny_bert_with("SequenceClassification", 1);
  identity.with(
      "{", R"({"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}, )");
  for (const auto& [ranked, pair] : scores(identity, "identity")) {
    EXPECT_EQ(ranked.score, pair.logits[0]);
  }
  const auto three = load_tiny(tiny_bert_with("SequenceClassification", 3), "cross3");
  EXPECT_CONTAINS(rerank(*three, "q", documents).status().message(), "found 3 labels");
}

}  // namespace
}  // namespace tessera
