#include <fmt/format.h>

#include <cctype>
#include <filesystem>
#include <map>
#include <set>

#include "evaluate/squad.h"
#include "tessera/records.h"
#include "tune/testing.h"

namespace tessera::training {
namespace {

namespace fs = std::filesystem;
using tessera::testing::expect_message;

Architecture with_labels(std::vector<std::string> names, int32_t labels = 0) {
  Architecture a = encoder_architecture();
  a.labels = labels == 0 ? static_cast<int32_t>(names.size()) : labels;
  a.label_names = std::move(names);
  return a;
}

// A sequence with what is to be predicted of it.
struct Seen {
  Ids ids, types, rows, labels;
  std::vector<float> values;
  auto operator<=>(const Seen&) const = default;
};
void PrintTo(const Seen& seen, std::ostream* stream) {
  *stream << fmt::format("ids {}, types {}, rows {}, labels {}, values {}",
                         fmt::join(seen.ids, " "), fmt::join(seen.types, " "),
                         fmt::join(seen.rows, " "), fmt::join(seen.labels, " "),
                         fmt::join(seen.values, " "));
}

// Every example, by batches of one, in the order of their ids.
std::vector<Seen> all_of(const Result<std::unique_ptr<Batches>>& made) {
  EXPECT_TRUE(made.ok()) << made.status().message();
  std::vector<Seen> all;
  for (int64_t n = 0; made.ok() && n < (*made)->examples(); ++n) {
    const Batch batch = (*made)->batch(n);
    all.push_back({batch.ids, batch.type_ids, batch.rows, batch.labels, batch.values});
  }
  std::sort(all.begin(), all.end());
  return all;
}

class LabelledTest : public BatchesTest {
 protected:
  TuneOptions one(TuneTask task, const std::string& name, const std::string& content) const {
    TuneOptions options = of(task, {folder_.put(name, content)});
    options.batch = 1;
    return options;
  }
  Status refusal(TuneTask task, const std::string& name, const std::string& content,
                 const Architecture& architecture = with_labels({"no", "yes"})) const {
    return encoder(of(task, {folder_.put(name, content)}), architecture).status();
  }
};

TEST_F(LabelledTest, ClassificationReadsNamesAndNumbers) {
  const std::vector<Seen> expected = {{{kCls, 5, 6, kSep}, {}, {}, {1}, {}},
                                      {{kCls, 7, kSep}, {}, {}, {0}, {}}};
  const Architecture named = with_labels({"no", "yes"}), counted = with_labels({}, 2);
  const TuneTask task = TuneTask::kClassification;
  EXPECT_EQ(all_of(encoder(one(task, "a.tsv", "label\tid\ttext\nyes\t1\ta b\nno\t2\tc\n"), named)),
            expected);
  EXPECT_EQ(all_of(encoder(one(task, "a.csv", "text,label\r\n\"a b\",1\r\nc,no\r\n"), named)),
            expected);
  const std::string json =
      "{\"text\": \"a b\", \"label\": 1}\n{\"label\": \"0\", \"text\": \"c\"}\n";
  EXPECT_EQ(all_of(encoder(one(task, "a.jsonl", json), named)), expected);
  EXPECT_EQ(all_of(encoder(one(task, "a.jsonl", json), counted)), expected);
  EXPECT_EQ((*encoder(one(task, "a.jsonl", json), named))->label_names(),
            std::vector<std::string>({"no", "yes"}));
}

TEST_F(LabelledTest, ClassificationOfPairsHasTypes) {
  const std::string json =
      "{\"text\": \"a\", \"text_pair\": \"b c\", \"label\": \"yes\"}\n"
      "{\"text\": \"d\", \"text_pair\": \"e\", \"label\": \"no\"}\n";
  const TuneOptions options = one(TuneTask::kClassification, "a.jsonl", json);
  const std::vector<Seen> expected = {
      {{kCls, 5, kSep, 6, 7, kSep}, {0, 0, 0, 1, 1, 1}, {}, {1}, {}},
      {{kCls, 8, kSep, 9, kSep}, {0, 0, 0, 1, 1}, {}, {0}, {}}};
  EXPECT_EQ(all_of(encoder(options, with_labels({"no", "yes"}))), expected);
  Architecture untyped = with_labels({"no", "yes"});
  untyped.type_vocabulary_size = 1;
  EXPECT_TRUE(all_of(encoder(options, untyped))[0].types.empty());
}

TEST_F(LabelledTest, LabelsOfTheDataWhereTheModelHasNone) {
  const auto made = [&](const std::string& content) {
    return encoder(one(TuneTask::kClassification, "a.tsv", "text\tlabel\n" + content));
  };
  const auto numbers = made("a\t10\nb\t9\nc\t9\n");
  EXPECT_EQ((*numbers)->label_names(), std::vector<std::string>({"9", "10"}));
  EXPECT_EQ(all_of(numbers)[0].labels, Ids({1}));
  const auto words = made("a\tgood\nb\tbad\nc\tbad\n");
  EXPECT_EQ((*words)->label_names(), std::vector<std::string>({"bad", "good"}));
  EXPECT_EQ(all_of(words)[1].labels, Ids({0}));
}

TEST_F(LabelledTest, LabelsThatAreWrong) {
  const TuneTask task = TuneTask::kClassification;
  expect_message(refusal(task, "a.tsv", "text\tlabel\na\tyes\nb\tmaybe\n"),
                 {"a.tsv, line 3", "no, yes, or 0 to 1", "\"maybe\""});
  expect_message(refusal(task, "a.tsv", "text\tlabel\na\tyes\nb\t2\n"), {"line 3", "\"2\""});
  expect_message(refusal(task, "a.tsv", "text\tlabel\na\t-1\n"), {"line 2", "\"-1\""});
  expect_message(refusal(task, "a.tsv", "text\tlabel\na\tyes\n", with_labels({}, 3)),
                 {"line 2", "a label of 0 to 2, found \"yes\""});
  // Names that are numbers mean the names.
  expect_message(refusal(task, "a.tsv", "text\tlabel\na\t5\nb\t0\n", with_labels({"1", "5"})),
                 {"line 3", "a label of 1, 5, found \"0\""});
  expect_message(refusal(task, "a.tsv", "text\tlabel\na\tyes\nb\t1\n"),
                 {"a.tsv, line 2", "a.tsv, line 3", "several labels", "only \"yes\""});
  expect_message(refusal(task, "a.jsonl", "{\"text\": \"a\", \"label\": [1]}\n"),
                 {"line 1", "[1]"});
}

TEST_F(LabelledTest, ColumnsThatAreWrong) {
  const TuneTask task = TuneTask::kClassification;
  expect_message(refusal(task, "a.tsv", "sentence\tlabel\na\tyes\n"),
                 {"a.tsv", "\"text\"", "sentence, label"});
  expect_message(refusal(task, "a.tsv", "text\tlabel\na\n"), {"a.tsv, line 2", "2 columns"});
  expect_message(refusal(task, "a.tsv", "text\tlabel\na\t\n"), {"a.tsv, line 2", "\"label\""});
  expect_message(refusal(task, "a.jsonl", "{\"sentence\": \"a\", \"label\": 1}\n"),
                 {"a.jsonl, line 1", "\"text\"", "found nothing"});
  expect_message(refusal(task, "a.jsonl", "{\"text\": 7, \"label\": 1}\n"),
                 {"a.jsonl, line 1", "a text", "\"7\""});
  expect_message(refusal(task, "a.jsonl", "[]\n"), {"a.jsonl, line 1", "array"});
  expect_message(refusal(task, "a.jsonl", "{\"text\": \"\xFF\", \"label\": 1}\n"),
                 {"a.jsonl, line 1", "UTF-8"});
  expect_message(refusal(task, "a.tsv", "text\tlabel\nb\t1\n\xFF\t1\n"),
                 {"a.tsv, line 3", "UTF-8"});
  for (const char* empty : {"", "text\tlabel\n", "\n"}) {
    expect_message(refusal(task, "a.tsv", empty),
                   {"a.tsv: expected at least one example, found none"});
  }
  expect_message(refusal(task, "a.jsonl",
                         "{\"text\": \"a\", \"label\": 1}\n"
                         "{\"text\": \"a\", \"text_pair\": \"b\", \"label\": 0}\n"),
                 {"a.jsonl, line 2", "no second text", "line 1", "found one"});
}

TEST_F(LabelledTest, LongTextsAreCutAndCounted) {
  TuneOptions options =
      one(TuneTask::kClassification, "a.tsv", "text\tlabel\na b c d\tyes\na\tno\n");
  options.max_tokens = 5;
  const auto made = encoder(options, with_labels({"no", "yes"}));
  EXPECT_EQ(all_of(made)[1].ids, Ids({kCls, 5, 6, 7, kSep}));
  EXPECT_EQ((*made)->cut(), 1);
}

TEST_F(LabelledTest, RegressionReadsNumbers) {
  const std::string tsv = "text\tvalue\ttext_pair\na\t0.25\tb\nc\t-3\td\n";
  const std::vector<Seen> expected = {{{kCls, 5, kSep, 6, kSep}, {0, 0, 0, 1, 1}, {}, {}, {0.25f}},
                                      {{kCls, 7, kSep, 8, kSep}, {0, 0, 0, 1, 1}, {}, {}, {-3}}};
  const Architecture one_output = with_labels({}, 1);
  EXPECT_EQ(all_of(encoder(one(TuneTask::kRegression, "a.tsv", tsv), one_output)), expected);
  const TuneTask task = TuneTask::kRegression;
  for (const char* bad : {"x", "1,5", "nan", "inf", "1 ", "1e40"}) {
    expect_message(refusal(task, "a.tsv", fmt::format("text\tvalue\na\t{}\n", bad), one_output),
                   {"a.tsv, line 2", "a number as value", bad});
  }
  expect_message(refusal(task, "a.jsonl", "{\"text\": \"a\", \"value\": true}\n", one_output),
                 {"a.jsonl, line 1", "a number as value", "true"});
  expect_message(refusal(task, "a.tsv", "text\tvalue\na\t1\nb\t1.0\n", one_output),
                 {"values that differ", "found only 1"});
  expect_message(refusal(task, "a.tsv", tsv), {"regression", "one output", "found 2"});
}

TEST_F(LabelledTest, TokenClassificationLabelsAWordsFirstToken) {
  const TuneTask task = TuneTask::kTokenClassification;
  const Architecture tags = with_labels({"O", "X"});
  // "ab" is two tokens.
  const std::vector<Seen> expected = {{{kCls, 5, 14, 7, kSep}, {}, {1, 3}, {1, 0}, {}}};
  EXPECT_EQ(
      all_of(encoder(
          one(task, "a.jsonl", "{\"tokens\": [\"ab\", \"c\"], \"labels\": [\"X\", 0]}\n"), tags)),
      expected);
  EXPECT_EQ(all_of(encoder(one(task, "a.tsv", "tokens\tlabels\nab c\tX O\n"), tags)), expected);
  // Words behind the cut have no token.
  TuneOptions cut = one(task, "a.tsv", "tokens\tlabels\nab c d\tX O X\n");
  cut.max_tokens = 5;
  EXPECT_EQ(all_of(encoder(cut, tags)), expected);
  EXPECT_EQ((*encoder(cut, tags))->cut(), 1);
  expect_message(
      refusal(task, "a.jsonl", "{\"tokens\": [\"a\", \"b\"], \"labels\": [\"X\"]}\n", tags),
      {"a.jsonl, line 1", "as many labels as tokens, 2, found 1"});
  expect_message(refusal(task, "a.jsonl", "{\"tokens\": [], \"labels\": []}\n", tags),
                 {"a.jsonl, line 1", "at least one token"});
  expect_message(
      refusal(task, "a.jsonl", "{\"tokens\": [\"a\", \" \"], \"labels\": [0, 1]}\n", tags),
      {"a.jsonl, line 1: tokens", "[1]", "a word"});
  expect_message(refusal(task, "a.jsonl", "{\"tokens\": {}, \"labels\": [0, 1]}\n", tags),
                 {"a.jsonl, line 1: tokens"});
  expect_message(refusal(task, "a.jsonl", "{\"tokens\": [\"a\"], \"labels\": [\"Y\"]}\n", tags),
                 {"a.jsonl, line 1", "O, X", "\"Y\""});
  expect_message(
      refusal(task, "a.jsonl", "{\"tokens\": [\"a\", \"b\"], \"labels\": [0, \"O\"]}\n", tags),
      {"several labels", "only \"0\""});
}

TEST_F(LabelledTest, QuestionsHaveTheRowsOfTheirAnswers) {
  const TuneTask task = TuneTask::kQuestionAnswering;
  // [CLS] h [SEP] a b ab c [SEP]: "ab" stands in rows 5 and 6.
  const std::vector<Seen> expected = {
      {{kCls, 12, kSep, 5, 6, 5, 14, 7, kSep}, {0, 0, 0, 1, 1, 1, 1, 1, 1}, {}, {5, 6}, {}}};
  const std::string head = "{\"question\": \"h\", \"context\": \"a b ab c\", \"answers\": ";
  for (const char* answers :
       {"[\"ab\"]", "\"ab\"", "[{\"text\": \"ab\", \"answer_start\": 4}]", "[{\"text\": \" ab \"}]",
        "{\"text\": [\"ab\", \"c\"], \"answer_start\": [4, 7]}", "{\"text\": [\"ab\"]}"}) {
    EXPECT_EQ(all_of(encoder(one(task, "a.jsonl", head + answers + "}\n"))), expected) << answers;
  }
  EXPECT_EQ(all_of(encoder(one(task, "a.tsv", "question\tcontext\tanswers\nh\ta b ab c\tab\n"))),
            expected);
  std::vector<Seen> none = expected;
  none[0].labels = {0, 0};
  for (const char* answers : {"[]", "{\"text\": [], \"answer_start\": []}"})
    EXPECT_EQ(all_of(encoder(one(task, "a.jsonl", head + answers + "}\n"))), none) << answers;
  EXPECT_EQ(all_of(encoder(one(task, "a.tsv", "question\tcontext\tanswers\nh\ta b ab c\t\n"))),
            none);
}

TEST_F(LabelledTest, SquadCountsCharacters) {
  // An accent of two bytes stands before the answer.
  const auto squad = [](const std::string& answers) {
    return "{\"data\": [{\"paragraphs\": [{\"context\": \"\xC3\xA9 a a\", \"qas\": [{\"id\": "
           "\"1\", "
           "\"question\": \"h\", " +
           answers + "}]}]}]}";
  };
  const TuneTask task = TuneTask::kQuestionAnswering;
  const auto rows = [&](const std::string& answers) {
    return all_of(encoder(one(task, "a.json", squad(answers))))[0].labels;
  };
  // [CLS] h [SEP] [UNK] a a [SEP]
  EXPECT_EQ(rows("\"answers\": [{\"text\": \"a\", \"answer_start\": 4}]"), Ids({5, 5}));
  EXPECT_EQ(rows("\"answers\": [{\"text\": \"a\", \"answer_start\": 2}]"), Ids({4, 4}));
  EXPECT_EQ(rows("\"answers\": [{\"text\": \"a\"}]"), Ids({4, 4}));
  EXPECT_EQ(rows("\"answers\": [{\"text\": \"a\"}], \"is_impossible\": true"), Ids({0, 0}));
  const auto wrong = [&](const std::string& answers) {
    return refusal(task, "a.json", squad(answers));
  };
  expect_message(wrong("\"answers\": [{\"text\": \"a\", \"answer_start\": 3}]"),
                 {"a.json: data[0].paragraphs[0].qas[0]", "\"a\" at character 3"});
  expect_message(wrong("\"answers\": [{\"text\": \"a\", \"answer_start\": 9}]"),
                 {"at character 9", "the end of the context"});
  expect_message(wrong("\"answers\": [{\"text\": \"b\"}]"), {"stands in the context", "\"b\""});
  expect_message(wrong("\"answers\": [{\"text\": \" \"}]"), {"some words"});
  expect_message(wrong("\"answers\": []"), {"answers", "at least one answer"});
  expect_message(wrong("\"answer\": []"), {"expected a member \"answers\""});
  expect_message(refusal(task, "a.json", "{\"data\": []}"), {"a.json", "at least one example"});
}

TEST_F(LabelledTest, LongContextsAreReadInWindows) {
  // 12 tokens leave 8 for the context; windows overlap by half of what is behind the question:
  // [CLS] h [SEP] + 8 + [SEP], and (12 - 4) / 2 = 4 again.
  TuneOptions options = one(TuneTask::kQuestionAnswering, "a.jsonl",
                            "{\"question\": \"h\", \"context\": \"a b c d a b c d a b c e\", "
                            "\"answers\": [\"c e\"]}\n");
  options.max_tokens = 12;
  std::vector<Seen> windows = all_of(encoder(options));
  ASSERT_EQ(windows.size(), 2u);
  EXPECT_EQ(windows[0].ids, Ids({kCls, 12, kSep, 5, 6, 7, 8, 5, 6, 7, 8, kSep}));
  EXPECT_EQ(windows[0].labels, Ids({0, 0}));
  EXPECT_EQ(windows[1].ids, Ids({kCls, 12, kSep, 5, 6, 7, 8, 5, 6, 7, 9, kSep}));
  EXPECT_EQ(windows[1].labels, Ids({9, 10}));
  options.data = {folder_.put("b.jsonl",
                              "{\"question\": \"h\", \"context\": \"a b c d a b c d a b c e\", "
                              "\"answers\": [\"a b c d a b c d a b c e\"]}\n")};
  expect_message(encoder(options).status(), {"b.jsonl, line 1", "one window of 12 tokens"});
  options.max_tokens = 4;
  expect_message(encoder(options).status(), {"b.jsonl, line 1", "room for its context"});
}

TEST_F(LabelledTest, EmbeddingsArePairs) {
  const TuneTask task = TuneTask::kEmbeddings;
  TuneOptions options = of(task, {folder_.put("a.tsv", "text\tpositive\na\tb c\nd\te\nf\tg\n")});
  options.batch = 2;
  const Made made = encoder(options);
  ASSERT_TRUE(made.ok()) << made.status().message();
  EXPECT_EQ((*made)->examples(), 3);
  for (int64_t n = 0; n < 6; ++n) {
    const Batch batch = (*made)->batch(n);
    EXPECT_EQ(batch.sequences(), 4);
    EXPECT_TRUE(batch.values.empty() && batch.labels.empty() && batch.type_ids.empty());
    for (size_t s = 0; s < 4; s += 2) {
      const auto first = batch.ids.begin() + batch.offsets[s];
      const auto second = batch.ids.begin() + batch.offsets[s + 1];
      EXPECT_EQ(Ids(second, batch.ids.begin() + batch.offsets[s + 2]),
                first[1] == 5 ? Ids({kCls, 6, 7, kSep}) : Ids({kCls, first[1] + 1, kSep}));
    }
  }
  TuneOptions valued = one(task, "v.jsonl",
                           "{\"text\": \"a\", \"positive\": \"b\", \"value\": 0.5}\n"
                           "{\"text\": \"c\", \"positive\": \"d\", \"value\": -1}\n");
  const std::vector<Seen> expected = {{{kCls, 5, kSep, kCls, 6, kSep}, {}, {}, {}, {0.5f}},
                                      {{kCls, 7, kSep, kCls, 8, kSep}, {}, {}, {}, {-1}}};
  EXPECT_EQ(all_of(encoder(valued)), expected);
}

TEST_F(LabelledTest, EmbeddingsThatCannotBeLearnt) {
  const TuneTask task = TuneTask::kEmbeddings;
  expect_message(refusal(task, "a.tsv", "text\tpositive\na\tb\n"), {"at least 2 pairs of texts"});
  expect_message(encoder(one(task, "a.tsv", "text\tpositive\na\tb\nc\td\n")).status(),
                 {"at least 2 pairs in a batch"});
  expect_message(refusal(task, "a.tsv", "text\tpositive\tvalue\na\tb\t1.5\n"),
                 {"a.tsv, line 2", "-1 to 1", "1.5"});
  expect_message(refusal(task, "a.jsonl",
                         "{\"text\": \"a\", \"positive\": \"b\", \"value\": 1}\n"
                         "{\"text\": \"a\", \"positive\": \"b\"}\n"),
                 {"a.jsonl, line 2", "a value", "found none"});
  TuneOptions options =
      of(task, {folder_.put("a.tsv", "text\tpositive\na a a\tb\nc\td d\ne\tf\n")});
  options.batch_tokens = 14;
  expect_message(encoder(options).status(), {"batch_tokens", "at least 15", "found 14"});
  options.batch_tokens = 15;
  EXPECT_TRUE(encoder(options).ok());
}

TEST_F(LabelledTest, CompletionsAreWhatIsPredicted) {
  const TuneTask task = TuneTask::kDataToText;
  // <s> a b | c d </s>
  const std::vector<Seen> expected = {{{kBegin, 2, 3, 4, 5}, {}, {2, 3, 4}, {4, 5, kEnd}, {}}};
  EXPECT_EQ(all_of(decoder(one(task, "a.jsonl", "{\"prompt\": \"ab\", \"completion\": \"cd\"}\n"))),
            expected);
  EXPECT_EQ(all_of(decoder(one(task, "a.csv", "prompt,completion\nab,cd\n"))), expected);
  TuneOptions tight = one(task, "a.csv", "prompt,completion\nab,cd\nab,cde\n");
  tight.max_tokens = 5;
  expect_message(decoder(tight).status(), {"a.csv, line 3", "at most 5 tokens, found 6"});
  tight.max_tokens = 6;
  EXPECT_TRUE(decoder(tight).ok());
}

TEST_F(LabelledTest, PublishedFilesAreKnownByTheirNames) {
  EXPECT_EQ(
      all_of(encoder(one(TuneTask::kClassification, "SST-2_sentences_train.tsv", "a b\t0\nc\t1\n"),
                     with_labels({"NEGATIVE", "POSITIVE"}))),
      std::vector<Seen>(
          {{{kCls, 5, 6, kSep}, {}, {}, {0}, {}}, {{kCls, 7, kSep}, {}, {}, {1}, {}}}));
  const auto rte = encoder(one(TuneTask::kClassification, "RTE_train.jsonl",
                               "{\"premise\": \"a\", \"hypothesis\": \"b\", \"label\": "
                               "\"not_entailment\"}\n{\"premise\": \"c\", \"hypothesis\": \"d\", "
                               "\"label\": \"entailment\"}\n"));
  EXPECT_EQ(all_of(rte)[0].labels, Ids({1}));
  EXPECT_EQ((*rte)->label_names(), std::vector<std::string>({"entailment", "not_entailment"}));
  // Scores to 5 become cosines; as they are for a regression.
  const std::string stsb = "x\tx\tx\t0\t2.5\ta\tb\nx\tx\tx\t1\t5\tc\td\n";
  EXPECT_EQ(all_of(encoder(one(TuneTask::kEmbeddings, "STS-B_sts-train.csv", stsb)))[0].values,
            std::vector<float>({0.5f}));
  EXPECT_EQ(all_of(encoder(one(TuneTask::kRegression, "STS-B_sts-dev.csv", stsb)))[0].values,
            std::vector<float>({2.5f}));
  EXPECT_EQ(
      all_of(decoder(one(TuneTask::kDataToText, "trainset.csv", "mr,ref\nab,cd\n")))[0].labels,
      Ids({4, 5, kEnd}));
  // Somebody's own data of that name.
  EXPECT_EQ(
      all_of(decoder(one(TuneTask::kDataToText, "trainset.csv", "prompt,completion\nab,cd\n")))[0]
          .labels,
      Ids({4, 5, kEnd}));
  expect_message(encoder(one(TuneTask::kClassification, "SST-2_sentences_dev.tsv", "a\t0\nb\t1\n"),
                         with_labels({"a", "b", "c"}))
                     .status(),
                 {"2 labels", "found one with 3"});
  TuneOptions mixed =
      one(TuneTask::kClassification, "RTE_val.jsonl",
          "{\"premise\": \"a\", \"hypothesis\": \"b\", \"label\": \"entailment\"}\n");
  mixed.data.push_back(folder_.put("SST-2_sentences_test.tsv", "a\t0\n"));
  expect_message(encoder(mixed).status(), {"SST-2_sentences_test.tsv", "RTE_val.jsonl"});
}

// The published data itself, with the tokenizer of a real model.
class PublishedData : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* shared = std::getenv("TESSERA_SHARED");
    if (shared == nullptr || !fs::exists(model_ = std::string(shared) + "/models/all-MiniLM-L6-v2"))
      GTEST_SKIP() << "TESSERA_SHARED names no folder with models/all-MiniLM-L6-v2";
    data_ = std::string(shared) + "/data/";
  }
  Result<std::unique_ptr<Batches>> read(TuneTask task, const std::string& file) const {
    Architecture a;
    a.mask = Mask::kNone;
    a.vocabulary_size = 30522;
    a.type_vocabulary_size = 2;
    a.max_positions = 512;
    TuneOptions options;
    options.task = task;
    options.data = {data_ + file};
    auto made = read_batches({model_, model_}, a, options);
    EXPECT_TRUE(made.ok()) << made.status().message();
    return made;
  }
  int64_t lines_of(const std::string& file) const {
    const std::string content = tessera::testing::content_of(data_ + file);
    return std::count(content.begin(), content.end(), '\n') + (content.ends_with('\n') ? 0 : 1);
  }

  std::string model_, data_;
};

TEST_F(PublishedData, IsReadWhole) {
  const TuneTask task = TuneTask::kClassification;
  for (const auto& [file, header] : {std::pair("glue/SST-2_sentences_train.tsv", 0),
                                     {"glue/CoLA_in_domain_train.tsv", 0},
                                     {"glue/MRPC_msr_paraphrase_train.txt", 1},
                                     {"glue/RTE_train.jsonl", 0}}) {
    SCOPED_TRACE(file);
    const auto made = read(task, file);
    ASSERT_TRUE(made.ok());
    EXPECT_EQ((*made)->examples(), lines_of(file) - header);
    EXPECT_EQ((*made)->label_names().size(), 2u);
  }
  EXPECT_EQ((*read(TuneTask::kEmbeddings, "glue/STS-B_sts-dev.csv"))->examples(),
            lines_of("glue/STS-B_sts-dev.csv"));
  EXPECT_GT((*read(TuneTask::kMaskedLm, "tales/valid.txt"))->examples(), 100);
}

// Letters and digits alone, small; empty where there are others than ASCII's.
std::string plain(const std::string& text) {
  std::string letters;
  for (const char c : text) {
    if (static_cast<unsigned char>(c) >= 0x80) return "";
    if (std::isalnum(static_cast<unsigned char>(c)) != 0)
      letters += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  }
  return letters;
}

TEST_F(PublishedData, AnswersAreTheTokensOfTheirRows) {
  const std::string file = "squad/xquad.en.json";
  const auto made = read(TuneTask::kQuestionAnswering, file);
  const auto tokenizer = Tokenizer::open(model_);
  ASSERT_TRUE(made.ok() && tokenizer.ok());
  std::map<std::string, std::set<std::string>> answers;  // by their questions
  int64_t questions = 0;
  const Status squad =
      evaluation::read_squad(data_ + file, [&](Result<evaluation::SquadQuestion> question) {
        answers[plain(question->question)].insert(plain(question->answers[0].text));
        ++questions;
        return Status();
      });
  ASSERT_TRUE(squad.ok()) << squad.message();
  int64_t answered = 0, sequences = 0, compared = 0, longer = 0;
  for (int64_t n = 0; sequences < (*made)->examples(); ++n) {
    const Batch batch = (*made)->batch(n);
    sequences += batch.sequences();
    for (size_t s = 0; s + 1 < batch.offsets.size(); ++s) {
      const auto begin = batch.ids.begin() + batch.offsets[s];
      const int32_t first = batch.labels[2 * s], last = batch.labels[2 * s + 1];
      ASSERT_LT(batch.offsets[s] + last, batch.offsets[s + 1]);
      EXPECT_EQ(batch.type_ids[static_cast<size_t>(batch.offsets[s] + first)], first > 0 ? 1 : 0);
      if (first == 0) continue;
      ++answered;
      const auto text = [&](auto from, auto to) {
        return plain((*tokenizer)->decode({from, to}, DecodeSpecial::kSkip).value());
      };
      constexpr int32_t kSeparator = 102;
      const auto known =
          answers.find(text(begin + 1, std::find(begin, batch.ids.end(), kSeparator)));
      const bool is_ascii = known != answers.end() && !known->first.empty();
      if (!is_ascii || known->second.contains("")) continue;
      const std::string found = text(begin + first, begin + last + 1);
      longer += known->second.contains(found) ? 0 : 1;
      EXPECT_TRUE(std::any_of(
          known->second.begin(), known->second.end(),
          [&](const std::string& answer) { return found.find(answer) != std::string::npos; }))
          << found << " for " << *known->second.begin();
      ++compared;
    }
  }
  EXPECT_GE(answered, questions);
  EXPECT_GE(compared, questions * 8 / 10) << "most are of ASCII";
  // Answers that begin or end within a word.
  EXPECT_LE(longer, questions / 50);
}

}  // namespace
}  // namespace tessera::training
