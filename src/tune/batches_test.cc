#include <fmt/format.h>

#include <cmath>
#include <set>

#include "tune/testing.h"

namespace tessera::training {
namespace {

using tessera::testing::expect_message;

// Lines that differ: two words that spell their number, and up to four more.
std::string numbered_lines(int count) {
  std::string text;
  for (int i = 0; i < count; ++i) {
    text += fmt::format("{} {}", static_cast<char>('a' + i / 8), static_cast<char>('a' + i % 8));
    for (int more = 0; more < i % 5; ++more) text += " h";
    text += '\n';
  }
  return text;
}

std::vector<Ids> sequences_of(const Batch& batch) {
  std::vector<Ids> sequences;
  for (size_t s = 0; s + 1 < batch.offsets.size(); ++s)
    sequences.emplace_back(batch.ids.begin() + batch.offsets[s],
                           batch.ids.begin() + batch.offsets[s + 1]);
  return sequences;
}

class Epochs : public BatchesTest {
 protected:
  static constexpr int kLines = 53;
  TuneOptions options(int32_t batch, int32_t batch_tokens, uint64_t seed = 3) const {
    TuneOptions options = of(TuneTask::kDistil, {folder_.put("text.txt", numbered_lines(kLines))});
    options.batch = batch;
    options.batch_tokens = batch_tokens;
    options.seed = seed;
    return options;
  }
};

TEST_F(Epochs, HaveEachSequenceOnce) {
  for (const auto& [batch, tokens] : {std::pair(1, 100), {8, 100}, {53, 100}, {0, 32}, {0, 90}}) {
    SCOPED_TRACE(fmt::format("batch {}, {} tokens", batch, tokens));
    const Made made = encoder(options(batch, tokens));
    ASSERT_TRUE(made.ok()) << made.status().message();
    EXPECT_EQ((*made)->examples(), kLines);
    std::vector<Ids> seen;
    for (int64_t n = 0; seen.size() < 4 * kLines; ++n) {
      for (Ids& sequence : sequences_of((*made)->batch(n))) seen.push_back(std::move(sequence));
    }
    const auto epoch = [&](int number) {
      return std::vector<Ids>(seen.begin() + number * kLines, seen.begin() + (number + 1) * kLines);
    };
    for (int e = 0; e < 4; ++e) {
      const std::vector<Ids> sequences = epoch(e);
      EXPECT_EQ(std::set<Ids>(sequences.begin(), sequences.end()).size(), size_t{kLines});
    }
    EXPECT_NE(epoch(0), epoch(1)) << "each epoch has an order of its own";
  }
}

TEST_F(Epochs, FillBatchesExactly) {
  const Made tokens = encoder(options(0, 50));
  const Made counted = encoder(options(7, 50));
  ASSERT_TRUE(tokens.ok() && counted.ok());
  for (int64_t n = 0; n < 60; ++n) {
    const Batch batch = (*tokens)->batch(n);
    const Ids next = sequences_of((*tokens)->batch(n + 1)).front();
    EXPECT_LE(batch.tokens(), 50);
    EXPECT_GT(batch.tokens() + static_cast<int64_t>(next.size()), 50);
    EXPECT_EQ((*counted)->batch(n).sequences(), 7);
  }
  // More room than there are examples: all of them, once.
  const Made roomy = encoder(options(0, 100000));
  ASSERT_TRUE(roomy.ok());
  for (int64_t n = 0; n < 3; ++n) {
    const std::vector<Ids> all = sequences_of((*roomy)->batch(n));
    EXPECT_EQ(all.size(), size_t{kLines});
    EXPECT_EQ(std::set<Ids>(all.begin(), all.end()).size(), size_t{kLines});
  }
}

void expect_equal(const Batch& a, const Batch& b) {
  EXPECT_EQ(a.ids, b.ids);
  EXPECT_EQ(a.offsets, b.offsets);
  EXPECT_EQ(a.rows, b.rows);
  EXPECT_EQ(a.labels, b.labels);
}

TEST_F(Epochs, AreAFunctionOfTheSeed) {
  TuneOptions chosen = options(0, 60);
  for (const TuneTask task : {TuneTask::kDistil, TuneTask::kMaskedLm, TuneTask::kCausalLm}) {
    SCOPED_TRACE(name(task));
    chosen.task = task;
    chosen.seed = 3;
    const auto make = [&] {
      return task == TuneTask::kCausalLm ? decoder(chosen) : encoder(chosen);
    };
    const Made first = make(), resumed = make();
    chosen.threads = 2;
    chosen.seed = 4;
    const Made other = make();
    ASSERT_TRUE(first.ok() && resumed.ok() && other.ok()) << first.status().message();
    std::vector<Batch> batches;
    for (int64_t n = 0; n < 40; ++n) batches.push_back((*first)->batch(n));
    // A training that goes on begins anywhere, and looks back.
    for (const int64_t n : {33, 12, 34, 0, 39})
      expect_equal((*resumed)->batch(n), batches[static_cast<size_t>(n)]);
    EXPECT_NE((*other)->batch(0).ids, batches[0].ids);
  }
}

TEST_F(BatchesTest, DistilReadsALineASequenceOfEncoders) {
  const std::string text = folder_.put("text.txt", "a b\r\n\n  \nc\nab x d\n");
  const std::string json = folder_.put("more.jsonl", "{\"text\": \"d\\nd\", \"id\": 1}\n\n");
  const Made made = encoder(of(TuneTask::kDistil, {text, json}));
  ASSERT_TRUE(made.ok()) << made.status().message();
  EXPECT_EQ((*made)->examples(), 4);
  EXPECT_EQ((*made)->cut(), 0);
  const Batch batch = (*made)->batch(0);
  EXPECT_EQ(
      sorted_sequences(batch),
      std::vector<Ids>(
          {{kCls, 5, 6, kSep}, {kCls, 5, 14, kUnk, 8, kSep}, {kCls, 7, kSep}, {kCls, 8, 8, kSep}}));
  EXPECT_TRUE(batch.type_ids.empty() && batch.rows.empty() && batch.labels.empty());
}

TEST_F(BatchesTest, CutsLongLinesAndCountsThem) {
  TuneOptions options = of(TuneTask::kDistil, {folder_.put("text.txt", "a b c d\na b\n")});
  options.max_tokens = 4;
  const Made made = encoder(options);
  ASSERT_TRUE(made.ok()) << made.status().message();
  EXPECT_EQ((*made)->cut(), 1);
  EXPECT_EQ(sorted_sequences((*made)->batch(0)),
            std::vector<Ids>({{kCls, 5, 6, kSep}, {kCls, 5, 6, kSep}}));
}

TEST_F(BatchesTest, DecodersReadOneStream) {
  const std::string text = folder_.put("text.txt", "ab\n\nc");
  const std::string json = folder_.put("more.jsonl", "{\"text\": \"d\"}\n{\"text\": \"e</s>\"}\n");
  const Ids stream = {kBegin, 2,      3, kLine, kBegin, kLine, kBegin, 4,
                      kLine,  kBegin, 5, kEnd,  kBegin, 6,     kEnd};
  TuneOptions options = of(TuneTask::kCausalLm, {text, json});
  options.max_tokens = 4;
  options.batch_tokens = 1000;
  for (const TuneTask task : {TuneTask::kCausalLm, TuneTask::kDistil}) {
    SCOPED_TRACE(name(task));
    options.task = task;
    const Made made = decoder(options);
    ASSERT_TRUE(made.ok()) << made.status().message();
    const bool predicts = task == TuneTask::kCausalLm;
    const auto read = static_cast<int64_t>(stream.size()) - (predicts ? 1 : 0);
    EXPECT_EQ((*made)->examples(), read);
    for (int64_t n = 0; n < 10; ++n) {
      const Batch batch = (*made)->batch(n);
      EXPECT_EQ(batch.tokens(), read);
      EXPECT_EQ(batch.labels.size(), predicts ? batch.ids.size() : 0u);
      EXPECT_EQ(batch.rows.size(), batch.labels.size());
      // Where each block lies in the stream, by looking for it with what it predicts.
      std::multiset<int32_t> tokens(batch.ids.begin(), batch.ids.end());
      EXPECT_EQ(tokens, std::multiset<int32_t>(stream.begin(), stream.begin() + read));
      for (size_t s = 0; s + 1 < batch.offsets.size(); ++s) {
        Ids block(batch.ids.begin() + batch.offsets[s], batch.ids.begin() + batch.offsets[s + 1]);
        if (predicts) block.push_back(batch.labels[static_cast<size_t>(batch.offsets[s + 1] - 1)]);
        EXPECT_NE(std::search(stream.begin(), stream.end(), block.begin(), block.end()),
                  stream.end());
        for (int32_t row = batch.offsets[s]; predicts && row + 1 < batch.offsets[s + 1]; ++row) {
          EXPECT_EQ(batch.labels[static_cast<size_t>(row)],
                    batch.ids[static_cast<size_t>(row) + 1]);
        }
      }
    }
  }
}

TEST_F(BatchesTest, OneTokenOrOneLineIsEnough) {
  const std::string text = folder_.put("text.txt", "a");
  const Made line = encoder(of(TuneTask::kDistil, {text}));
  ASSERT_TRUE(line.ok());
  EXPECT_EQ((*line)->batch(5).ids, Ids({kCls, 5, kSep}));
  const Made stream = decoder(of(TuneTask::kCausalLm, {text}));
  ASSERT_TRUE(stream.ok());
  for (int64_t n = 0; n < 4; ++n) EXPECT_FALSE((*stream)->batch(n).rows.empty());
  // As transformers' run_clm.py: "<s>a\n".
  EXPECT_EQ((*stream)->examples(), 2);
}

TEST_F(BatchesTest, MasksSharesOfTheTokens) {
  constexpr uint64_t kSeed = 20;
  SCOPED_TRACE(fmt::format("seed {}", kSeed));
  std::string text;
  for (int i = 0; i < 64; ++i) {
    for (int word = 0; word < 20; ++word)
      text += fmt::format("{} ", static_cast<char>('a' + (i * 7 + word * i) % 8));
    text += "x\n";  // unknown, which is special
  }
  TuneOptions options = of(TuneTask::kMaskedLm, {folder_.put("text.txt", text)});
  options.seed = kSeed;
  const Made made = encoder(options);
  options.task = TuneTask::kDistil;
  const Made plain = encoder(options);
  ASSERT_TRUE(made.ok() && plain.ok()) << made.status().message();
  double open = 0, chosen = 0, masked = 0, kept = 0;
  for (int64_t n = 0; n < 60; ++n) {
    const Batch batch = (*made)->batch(n), before = (*plain)->batch(n);
    ASSERT_EQ(batch.offsets, before.offsets);
    ASSERT_EQ(batch.rows.size(), batch.labels.size());
    Ids restored = batch.ids;
    for (size_t i = 0; i < batch.rows.size(); ++i) {
      int32_t& id = restored[static_cast<size_t>(batch.rows[i])];
      masked += id == kMask ? 1 : 0;
      kept += id == batch.labels[i] ? 1 : 0;
      id = batch.labels[i];
      EXPECT_GT(id, kMask) << "a special token was chosen";
    }
    EXPECT_EQ(restored, before.ids);
    EXPECT_TRUE(std::is_sorted(batch.rows.begin(), batch.rows.end()));
    chosen += static_cast<double>(batch.rows.size());
    open += static_cast<double>(
        std::count_if(before.ids.begin(), before.ids.end(), [](int32_t id) { return id > kMask; }));
  }
  // Binomial counts, within 5 standard deviations. A token of the 21 that is drawn may be the mask,
  // or the one that stood there.
  const auto expect_share = [](double found, double of, double share) {
    EXPECT_NEAR(found, of * share, 5 * std::sqrt(of * share * (1 - share)));
  };
  expect_share(chosen, open, 0.15);
  expect_share(masked, chosen, 0.8 + 0.1 / 21);
  expect_share(kept, chosen, 0.1 + 0.1 / 21);
}

TEST_F(BatchesTest, MasksATokenOfEachBatch) {
  TuneOptions options = of(TuneTask::kMaskedLm, {folder_.put("text.txt", "a\nx\nb\n[MASK]\n")});
  options.masked_share = 1e-9;
  options.batch = 1;
  const Made made = encoder(options);
  ASSERT_TRUE(made.ok()) << made.status().message();
  EXPECT_EQ((*made)->examples(), 2) << "lines without a token to be masked are left out";
  for (int64_t n = 0; n < 6; ++n) EXPECT_EQ((*made)->batch(n).rows, Ids({1}));
  options.masked_share = 1;
  options.data = {folder_.put("all.txt", "a b c\n")};
  const Made all = encoder(options);
  ASSERT_TRUE(all.ok());
  EXPECT_EQ((*all)->batch(0).labels, Ids({5, 6, 7}));
}

TEST_F(BatchesTest, RefuseTextThatIsNone) {
  const std::string bad = folder_.put("bad.txt", "a\nb\xFF\n");
  expect_message(encoder(of(TuneTask::kDistil, {bad})).status(),
                 {"bad.txt, line 2", "UTF-8", "0xFF"});
  expect_message(decoder(of(TuneTask::kCausalLm, {bad})).status(), {"bad.txt, line 2", "UTF-8"});
  const std::string bad_json =
      folder_.put("bad.jsonl", "{\"text\": \"a\"}\n{\"text\": \"\xC3\"}\n");
  expect_message(encoder(of(TuneTask::kDistil, {bad_json})).status(),
                 {"bad.jsonl, line 2", "UTF-8"});
  for (const char* content : {"", "\n\n", "  \n\t\n"}) {
    const std::string empty = folder_.put("empty.txt", content);
    for (const TuneTask task : {TuneTask::kDistil, TuneTask::kMaskedLm})
      expect_message(encoder(of(task, {empty})).status(), {"empty.txt: expected text, found none"});
    expect_message(decoder(of(TuneTask::kCausalLm, {empty})).status(),
                   {"empty.txt: expected text, found none"});
  }
  const std::string others = folder_.put("others.jsonl", "{\"txt\": \"a\"}\n");
  expect_message(encoder(of(TuneTask::kDistil, {others})).status(),
                 {"others.jsonl, line 1", "\"text\"", "found none"});
  const std::string numbers = folder_.put("numbers.jsonl", "{\"text\": 5}\n");
  expect_message(encoder(of(TuneTask::kDistil, {numbers})).status(), {"line 1", "found \"5\""});
  const std::string broken = folder_.put("broken.jsonl", "{\"text\": \"a\"}\n{\"text\n");
  expect_message(encoder(of(TuneTask::kDistil, {broken})).status(), {"broken.jsonl, line 2"});
  const Status missing = encoder(of(TuneTask::kDistil, {folder_ / "missing.txt"})).status();
  EXPECT_EQ(missing.code(), StatusCode::kIo);
  expect_message(missing, {"missing.txt"});
}

TEST_F(BatchesTest, RefuseWhatDoesNotFit) {
  TuneOptions options = of(TuneTask::kDistil, {folder_.put("text.txt", "a b\nc\n")});
  const auto refused = [&](std::initializer_list<std::string_view> parts) {
    expect_message(encoder(options).status(), parts);
  };
  options.batch = 3;
  refused({"batch", "at most 2", "text.txt", "found 3"});
  options.batch = 0;
  options.max_tokens = 33;
  refused({"max_tokens", "at most 32", "positions", "found 33"});
  options.max_tokens = 2;
  refused({"max_tokens", "2 special tokens", "found 2"});
  options.max_tokens = 20;
  options.batch_tokens = 19;
  refused({"max_tokens", "at most 19", "found 20"});
  options.batch_tokens = 30;
  // A tokenizer of another model.
  Architecture small = encoder_architecture();
  small.vocabulary_size = 6;
  expect_message(encoder(options, small).status(), {"text.txt, line 1", "0 to 5", "found 6"});
  // A stream of fewer blocks than a batch has.
  options = of(TuneTask::kCausalLm, {folder_.put("text.txt", "abcdefgh\n")});
  options.max_tokens = 5;
  options.batch = 3;
  expect_message(decoder(options).status(), {"batch", "at most 2", "found 3"});
}

TEST_F(BatchesTest, RefuseWhatTheModelCannotLearn) {
  const std::string text = folder_.put("text.txt", "a b\n");
  expect_message(decoder(of(TuneTask::kMaskedLm, {text})).status(), {"masked_lm", "decoder"});
  const Status no_mask = make_batches(character_tokenizer(), encoder_architecture(),
                                      of(TuneTask::kMaskedLm, {text}), 256)
                             .status();
  EXPECT_EQ(no_mask.code(), StatusCode::kUnsupported);
  expect_message(no_mask, {"masked_lm", "mask token", "without"});
  expect_message(encoder(of(TuneTask::kCausalLm, {text})).status(), {"causal_lm"});
  expect_message(encoder(of(TuneTask::kDataToText, {text})).status(), {"data_to_text"});
}

TEST(ReadBatches, OpensTheModelsTokenizer) {
  const tessera::testing::TempDir folder;
  TuneOptions options;
  options.data = {folder.put("text.txt", "a\n")};
  const Status none =
      read_batches({folder.path(), folder.path()}, encoder_architecture(), options).status();
  EXPECT_EQ(none.code(), StatusCode::kNotFound) << none.message();
  folder.put("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n");
  const auto made = read_batches({folder.path(), folder.path()}, encoder_architecture(), options);
  ASSERT_TRUE(made.ok()) << made.status().message();
  EXPECT_EQ((*made)->batch(0).ids, Ids({kCls, 5, kSep}));
}

}  // namespace
}  // namespace tessera::training
