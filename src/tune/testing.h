#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "io/testing.h"
#include "tokenizer/testing.h"
#include "tune/batches.h"

// Small models without weights, whose tokens can be counted by hand.
namespace tessera::training {

constexpr int32_t kUnk = 1, kCls = 2, kSep = 3, kMask = 4;

// WordPiece: [CLS] text [SEP], or [CLS] text [SEP] text [SEP] with types 0 and 1. The words a to h
// are 5 to 12, the pieces ##a to ##h 13 to 20.
inline std::shared_ptr<const Tokenizer> word_tokenizer() {
  tokenizer::Parts parts;
  std::string vocabulary = R"("[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4)";
  for (const char* mark : {"", "##"}) {
    for (char c = 'a'; c <= 'h'; ++c) {
      const int id = (mark[0] == '\0' ? 5 : 13) + (c - 'a');
      vocabulary += std::string(", \"") + mark + c + "\": " + std::to_string(id);
    }
  }
  parts.model =
      R"({"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "vocab": {)" +
      vocabulary + "}}";
  parts.pre_tokenizer = R"({"type": "BertPreTokenizer"})";
  parts.post_processor = R"({"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]})";
  for (const char* name : {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}) {
    static const std::vector<std::string> kOrder = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
    const auto id = std::find(kOrder.begin(), kOrder.end(), name) - kOrder.begin();
    parts.added_tokens.insert(parts.added_tokens.size() - 1,
                              (id == 0 ? "" : ", ") + std::string(R"({"id": )") +
                                  std::to_string(id) + R"(, "content": ")" + name +
                                  R"(", "special": true})");
  }
  auto made = tokenizer::load(parts);
  EXPECT_TRUE(made.ok()) << made.status().message();
  return *made;
}

// A character is a token: a to h are 2 to 9, a space 10, a line feed 11. 0 begins a text, 1 is the
// end.
constexpr int32_t kBegin = 0, kEnd = 1, kSpace = 10, kLine = 11;
inline std::shared_ptr<const Tokenizer> character_tokenizer() {
  tokenizer::Parts parts;
  std::string vocabulary = R"("<s>": 0, "</s>": 1)";
  for (char c = 'a'; c <= 'h'; ++c)
    vocabulary += std::string(", \"") + c + "\": " + std::to_string(2 + c - 'a');
  parts.model =
      R"({"type": "BPE", "merges": [], "vocab": {)" + vocabulary + R"(, " ": 10, "\n": 11}})";
  parts.post_processor =
      R"({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}}], "pair": [{"Sequence": {"id": "A", "type_id": 0}},
        {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}})";
  parts.added_tokens =
      R"([{"id": 0, "content": "<s>", "special": true}, {"id": 1, "content": "</s>", "special": true}])";
  auto made = tokenizer::load(parts);
  EXPECT_TRUE(made.ok()) << made.status().message();
  return *made;
}

inline Architecture encoder_architecture() {
  Architecture a;
  a.mask = Mask::kNone;
  a.vocabulary_size = 21;
  a.type_vocabulary_size = 2;
  a.max_positions = 32;
  return a;
}
inline Architecture decoder_architecture() {
  Architecture a;
  a.vocabulary_size = 12;
  a.max_positions = 32;
  return a;
}

// Batches of files that the test writes.
class BatchesTest : public ::testing::Test {
 protected:
  using Made = Result<std::unique_ptr<Batches>>;

  TuneOptions of(TuneTask task, const std::vector<std::string>& files) const {
    TuneOptions options;
    options.task = task;
    options.data = files;
    options.threads = 1;
    return options;
  }
  Made encoder(const TuneOptions& options,
               const Architecture& architecture = encoder_architecture()) const {
    return make_batches(word_tokenizer(), architecture, options, 256);
  }
  Made decoder(const TuneOptions& options,
               const Architecture& architecture = decoder_architecture()) const {
    return make_batches(character_tokenizer(), architecture, options, 256);
  }
  // The only batch, of all examples, in the order of their tokens.
  static std::vector<std::vector<int32_t>> sorted_sequences(const Batch& batch) {
    std::vector<std::vector<int32_t>> sequences;
    for (size_t s = 0; s + 1 < batch.offsets.size(); ++s)
      sequences.emplace_back(batch.ids.begin() + batch.offsets[s],
                             batch.ids.begin() + batch.offsets[s + 1]);
    std::sort(sequences.begin(), sequences.end());
    return sequences;
  }

  tessera::testing::TempDir folder_;
};

using Ids = std::vector<int32_t>;

}  // namespace tessera::training
