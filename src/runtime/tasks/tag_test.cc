#include "runtime/tasks/entities.h"
#include "runtime/tasks/testing.h"
#include "runtime/tasks/words.h"
#include "tessera/tokenizer.h"

namespace tessera::tasks {
namespace {

using namespace tessera::testing;  // NOLINT: what tests are made with

// "PER 0-2 0.5; LOC 3-4 1": entities with their tokens and scores.
std::string joined(const std::vector<std::pair<std::string, float>>& labels) {
  std::vector<Unit> units;
  for (size_t i = 0; i < labels.size(); ++i) {
    const int32_t token = static_cast<int32_t>(i);
    units.push_back(
        {{token * 10, token * 10 + 9, token, token + 1}, labels[i].first, labels[i].second});
  }
  std::ostringstream text;
  for (const Entity& entity : join_entities(units)) {
    text << (text.tellp() > 0 ? "; " : "") << entity.label << ' ' << entity.span.begin_token << '-'
         << entity.span.end_token << ' ' << entity.score;
    EXPECT_EQ(entity.span.begin_byte, entity.span.begin_token * 10);
    EXPECT_EQ(entity.span.end_byte, entity.span.end_token * 10 - 1);
  }
  return text.str();
}

TEST(Entities, JoinByPrefixes) {
  EXPECT_EQ(joined({}), "");
  EXPECT_EQ(joined({{"O", 1}, {"O", 1}}), "");
  EXPECT_EQ(joined({{"B-PER", 0.5}, {"I-PER", 1}, {"O", 1}, {"B-LOC", 1}}),
            "PER 0-2 0.75; LOC 3-4 1");
  EXPECT_EQ(joined({{"B-PER", 1}, {"B-PER", 1}}), "PER 0-1 1; PER 1-2 1");
  EXPECT_EQ(joined({{"I-PER", 1}, {"I-PER", 1}, {"I-LOC", 1}}), "PER 0-2 1; LOC 2-3 1");
  EXPECT_EQ(joined({{"I-PER", 1}, {"O", 1}, {"I-PER", 1}}), "PER 0-1 1; PER 2-3 1");
  EXPECT_EQ(joined({{"B-O", 1}, {"I-O", 1}, {"B-PER", 1}, {"I-O", 1}, {"E-O", 1}}), "PER 2-3 1");
  // BIOES and BILOU.
  EXPECT_EQ(joined({{"B-A", 1}, {"I-A", 1}, {"E-A", 1}, {"I-A", 1}}), "A 0-3 1; A 3-4 1");
  EXPECT_EQ(joined({{"B-A", 1}, {"L-A", 1}, {"U-A", 1}, {"U-A", 1}}), "A 0-2 1; A 2-3 1; A 3-4 1");
  EXPECT_EQ(joined({{"S-A", 1}, {"I-A", 1}}), "A 0-1 1; A 1-2 1");
}

TEST(Entities, JoinEqualLabelsWithoutPrefixes) {
  EXPECT_EQ(joined({{"NOUN", 1}, {"NOUN", 0}, {"VERB", 1}}), "NOUN 0-2 0.5; VERB 2-3 1");
  EXPECT_EQ(joined({{"-", 1}, {"B-", 1}}), "- 0-1 1;  1-2 1");
}

// A model that labels the letters a to e as the five labels say, whatever stands beside them.
std::shared_ptr<Model> letter_tagger(const std::vector<std::string>& labels,
                                     const std::string& name) {
  TinyCheckpoint tiny = tiny_bert_with("TokenClassification", 16);
  nlohmann::json config = nlohmann::json::parse(tiny.config);
  for (size_t i = 0; i < 16; ++i) {
    config["id2label"][std::to_string(i)] = i < labels.size() ? labels[i] : "O";
  }
  tiny.config = config.dump();
  const std::string folder = tiny.write(name);
  write_tiny_tokenizer(folder);
  make_blind_to_context(folder);
  for (const char* norm :
       {"bert.embeddings.LayerNorm", "bert.encoder.layer.0.attention.output.LayerNorm",
        "bert.encoder.layer.0.output.LayerNorm", "bert.encoder.layer.1.attention.output.LayerNorm",
        "bert.encoder.layer.1.output.LayerNorm"}) {
    fill_tensor(folder, std::string(norm) + ".weight", 1);
    fill_tensor(folder, std::string(norm) + ".bias", 0);
  }
  // The embedding of a token that is to have label i points along axis i, and so does its state.
  const std::vector<std::string> words = tiny_words();
  edit_tensor(folder, "bert.embeddings.word_embeddings.weight", [&](std::span<float> values) {
    std::fill(values.begin(), values.end(), 0.0f);
    for (size_t id = 0; id < words.size(); ++id) {
      const char letter = words[id].back();
      const bool labelled = letter >= 'a' && letter < static_cast<char>('a' + labels.size());
      values[id * 16 + (labelled ? static_cast<size_t>(letter - 'a') : 15)] = 1;
    }
  });
  edit_tensor(folder, "classifier.weight", [](std::span<float> values) {
    for (size_t i = 0; i < values.size(); ++i) values[i] = i / 16 == i % 16 ? 1.0f : 0.0f;
  });
  fill_tensor(folder, "classifier.bias", 0);
  return load_tiny(folder);
}

std::string entities_of(Model& model, const TaskInput& input, Aggregation aggregation) {
  TagOptions options;
  options.aggregation = aggregation;
  const auto results = tag(model, std::vector{input}, options);
  EXPECT_TRUE(results.ok()) << results.status().message();
  std::ostringstream text;
  for (const Entity& entity : results->front().entities) {
    text << (text.tellp() > 0 ? "; " : "") << entity.label << ' ' << entity.text << ' '
         << entity.span.begin_byte << '-' << entity.span.end_byte;
  }
  return text.str();
}

TEST(Tag, GivesEntitiesOfTexts) {
  const auto model = letter_tagger({"B-X", "I-X", "B-Y", "I-Y"}, "letters");
  EXPECT_EQ(entities_of(*model, text_input("q  a b . c d f"), Aggregation::kTokens),
            "X a b 3-6; Y c d 9-12");
  // Bytes, of which the letter with two dots takes two.
  EXPECT_EQ(entities_of(*model, text_input("\xC3\xA4 a"), Aggregation::kTokens), "X a 3-4");
  EXPECT_EQ(entities_of(*model, text_input(""), Aggregation::kTokens), "");
  EXPECT_EQ(entities_of(*model, text_input("q q"), Aggregation::kTokens), "");
}

TEST(Tag, KeepsWordsTogetherWhereAskedTo) {
  const auto model = letter_tagger({"B-X", "I-X", "B-Y", "I-Y"}, "words");
  const TaskInput input = text_input("ac db qa");  // a ##c, d ##b, q ##a
  EXPECT_EQ(entities_of(*model, input, Aggregation::kTokens),
            "X a 0-1; Y c d 1-4; X b 4-5; X a 7-8");
  EXPECT_EQ(entities_of(*model, input, Aggregation::kFirst), "X ac 0-2; Y db 3-5");
  // All tokens are as sure of theirs: the first of equals.
  EXPECT_EQ(entities_of(*model, input, Aggregation::kMax), "X ac 0-2; Y db 3-5");
  EXPECT_EQ(entities_of(*model, input, Aggregation::kMean), "X ac db 0-5; X qa 6-8");
}

TEST(Tag, GivesTokensWithTheirLabels) {
  const auto model = letter_tagger({"B-X"}, "tokens");
  const auto results =
      tag(*model, std::vector{text_input("q a"), ids_input({kCls, 21, kLetterA, kSep})});
  ASSERT_TRUE(results.ok()) << results.status().message();
  for (const Tagging& result : *results) {
    ASSERT_EQ(result.tokens.size(), 4u);
    EXPECT_EQ(result.logits.size(), 4u * 16);
    EXPECT_TRUE(result.tokens[0].special);
    EXPECT_FALSE(result.tokens[1].special);
    EXPECT_TRUE(result.tokens[3].special);
    EXPECT_EQ(result.tokens[2].id, kLetterA);
    EXPECT_EQ(result.tokens[2].label, 0);
    EXPECT_GT(result.tokens[2].score, 0.3);
    ASSERT_EQ(result.entities.size(), 1u);
    EXPECT_EQ(result.entities[0].span.begin_token, 2);
    EXPECT_EQ(result.entities[0].span.end_token, 3);
  }
  EXPECT_EQ((*results)[0].tokens[2].span.begin_byte, 2);
  EXPECT_EQ((*results)[0].entities[0].text, "a");
  EXPECT_EQ((*results)[1].entities[0].text, "");
}

TEST(Tag, TakesOneText) {
  const auto model = load_tiny(tiny_bert_with("TokenClassification"), "one_text");
  const auto results = tag(*model, std::vector{text_input("a"), pair_input("a", "b")});
  EXPECT_EQ(results.status().message(), "input 1: expected one text to tag, found two");
  const auto cut = tag(*model, std::vector{text_input(letters(50))});
  ASSERT_TRUE(cut.ok()) << cut.status().message();
  EXPECT_TRUE(cut->front().truncated);
  EXPECT_EQ(cut->front().tokens.size(), 40u);
}

TEST(Words, AreJoinedBetweenLettersOfSpacedScripts) {
  // No "##a" in it: words are told by the letters.
  const auto tokenizer = Tokenizer::from_json(
      R"({"model": {"type": "BPE", "merges": [], "vocab": {"a": 0}}})", "tokenizer.json");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  const WordRule words(tokenizer->get());
  EXPECT_FALSE(words.continues("ab", 0, 0));
  EXPECT_TRUE(words.continues("ab", 0, 1));
  EXPECT_TRUE(words.continues("a1", 0, 1));
  EXPECT_FALSE(words.continues("a b", 0, 1));
  EXPECT_FALSE(words.continues("a b", 0, 2));
  EXPECT_FALSE(words.continues("a.", 0, 1));
  EXPECT_TRUE(
      words.continues("\xC3\xA4"
                      "b",
                      0, 2));                                       // a umlaut, b
  EXPECT_TRUE(words.continues("\xD0\xB0\xD0\xB1", 0, 2));           // Cyrillic
  EXPECT_TRUE(words.continues("\xED\x95\x9C\xEA\xB5\xAD", 0, 3));   // Hangul
  EXPECT_FALSE(words.continues("\xE4\xB8\xAD\xE6\x96\x87", 0, 3));  // Han
  EXPECT_FALSE(words.continues("a\xF0\x9F\x98\x80", 0, 1));         // an emoji
  EXPECT_FALSE(words.continues("ab", 0, 2));
  EXPECT_FALSE(WordRule(nullptr).continues("ab", 0, 1));
}

}  // namespace
}  // namespace tessera::tasks
