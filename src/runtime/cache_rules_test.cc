#include "runtime/cache_rules.h"

#include <gtest/gtest.h>

#include "runtime/engine_testing.h"
#include "runtime/loading_testing.h"
#include "tessera/pruning.h"

namespace tessera {
namespace {

using testing::greedy_without_cache;
using testing::load_error;
using testing::prompt_of;
using testing::tiny_bert;
using testing::tiny_llama;

std::shared_ptr<Model> pruned(const std::string& schedule) {
  static const std::string folder = tiny_llama().write("cache_rules");
  auto model = Model::load(folder, {.threads = 2, .pruning = schedule});
  EXPECT_TRUE(model.ok()) << model.status().message();
  return *model;
}

Generation generated(const std::shared_ptr<Model>& model, int32_t prompt, int32_t tokens) {
  auto generation = generate(model, {.prompt_ids = prompt_of(prompt),
                                     .max_new_tokens = tokens,
                                     .ignore_end = true,
                                     .log_probabilities = true});
  EXPECT_TRUE(generation.ok()) << generation.status().message();
  return *generation;
}

TEST(CacheRules, SayWhatAPageHolds) {
  // Two layers with two heads of keys and values of 4; a scale takes as much as four bytes.
  const auto bytes = [](const char* schedule) {
    const auto model = pruned(schedule);
    EXPECT_EQ(model->info().cache_type, CacheType::kInt8);
    return model->info().cache_bytes_per_token;
  };
  EXPECT_EQ(bytes(R"({"key_bits": "8"})"), 2 * 2 * (4 + 4 + 4 + 4));
  EXPECT_EQ(bytes(R"({"key_bits": "8+4"})"), 2 * 2 * (4 + 2 + 4 + 4 + 4));
  EXPECT_EQ(bytes(R"({"key_bits": "6+4", "value_bits": 6})"), 2 * 2 * (4 + 2 + 4 + 4 + 4));
  EXPECT_EQ(bytes(R"({"key_bits": "4", "value_bits": 4})"), 2 * 2 * (2 + 4 + 2 + 4));
}

TEST(CacheRules, EightBitsAreTheCacheOfInt8) {
  const auto int8 = Model::load(tiny_llama().write("cache_rules_int8"),
                                {.threads = 2, .cache = CacheType::kInt8});
  ASSERT_TRUE(int8.ok());
  EXPECT_EQ(generated(*int8, 70, 8).log_probabilities,
            generated(pruned(R"({"key_bits": "8"})"), 70, 8).log_probabilities);
}

// A pass over a whole text reads every plane of every key.
TEST(CacheRules, RefetchingAlwaysIsAsAWholePass) {
  for (const char* bits : {"8+4", "6+4"}) {
    const auto model =
        pruned(std::string(R"({"key_bits": ")") + bits + R"(", "refetch": {"below": 1.5}})");
    for (const int32_t length : {2, 64, 100}) {
      EXPECT_EQ(generated(model, length, 12).ids,
                greedy_without_cache(*model, prompt_of(length), 12));
    }
  }
}

TEST(CacheRules, EverythingKeptIsTheDenseModel) {
  const std::string folder = tiny_llama().write("cache_rules_dense");
  const auto dense = Model::load(folder, {.threads = 2});
  ASSERT_TRUE(dense.ok());
  const auto kept = pruned(R"({"values": [1, 1]})");
  EXPECT_EQ(generated(*dense, 70, 8).log_probabilities, generated(kept, 70, 8).log_probabilities);
  EXPECT_NE(generated(*dense, 70, 8).log_probabilities,
            generated(pruned(R"({"values": [0.1, 0.1]})"), 70, 8).log_probabilities);
}

TEST(CacheRules, GeneratedTokensAreCounted) {
  for (const bool refetches : {false, true}) {
    const auto model = pruned(
        std::string(R"({"values": [0.2, 5], "key_bits": "6+4", "value_bits": 4, "refetch": )") +
        R"({"below": )" + (refetches ? "1.5}}" : "0}}"));
    model->start_profile();
    generated(model, 30, 5);
    model->stop_profile();
    // The first token comes from the prompt; the others see what is before them and themselves.
    int64_t keys = 0, values = 0;
    for (const int32_t seen : {31, 32, 33, 34}) {
      keys += 2 * seen;
      values += seen / 5 + 5;
    }
    const CacheReadProfile reads = model->cache_reads();
    EXPECT_EQ(reads.queries, 4 * 2 * 4);
    EXPECT_EQ(reads.refetched, refetches ? reads.queries : 0);
    EXPECT_EQ(reads.key_numbers, keys * 4 * 4);
    EXPECT_EQ(reads.key_bits, reads.key_numbers * (refetches ? 10 : 6));
    EXPECT_EQ(reads.value_numbers, values * 4 * 4);
    EXPECT_EQ(reads.value_bits, reads.value_numbers * 4);
    // Pairs of query heads share a KV head, and read between half of their values and all of them.
    const int64_t key_bytes = keys * 2 * (4 + 4 + (refetches ? 2 : 0));
    EXPECT_GE(reads.bytes, key_bytes + values * 2 * (2 + 4));
    EXPECT_LE(reads.bytes, key_bytes + values * 4 * (2 + 4));
  }
}

// Records of generated tokens have what each read, in sum what the profile counts.
TEST(CacheRules, ObserversAreToldWhatWasRead) {
  for (
      const char* schedule :
      {"", R"({"tokens": [1, 0.5], "heads": [0.75, 0.5]})",
       R"({"heads": [1, 0.5], "values": [0.2, 5], "key_bits": "6+4", "refetch": {"below": 0.1}})"}) {
    SCOPED_TRACE(schedule);
    CacheReadProfile sum;
    int64_t prompts = 0;
    const auto observe = [&](const PruningRecord& record) {
      ASSERT_EQ(record.reads != nullptr, record.step > 0);
      if (record.reads == nullptr) {
        ++prompts;
        return;
      }
      const CacheReadProfile& reads = *record.reads;
      EXPECT_EQ(reads.tokens, 1);
      if (!record.heads.empty()) {
        EXPECT_EQ(reads.queries, static_cast<int64_t>(record.heads.size()));
      }
      EXPECT_EQ(reads.key_numbers, reads.queries * 4 * static_cast<int64_t>(record.tokens.size()));
      if (record.layer == 0) sum.tokens += reads.tokens;
      sum.queries += reads.queries;
      sum.refetched += reads.refetched;
      sum.key_numbers += reads.key_numbers;
      sum.key_bits += reads.key_bits;
      sum.value_numbers += reads.value_numbers;
      sum.value_bits += reads.value_bits;
      sum.bytes += reads.bytes;
    };
    auto model = Model::load(tiny_llama().write("cache_rules_observed"),
                             {.threads = 2, .pruning = schedule, .on_pruning = observe});
    ASSERT_TRUE(model.ok()) << model.status().message();
    (*model)->start_profile();
    const Generation traced = generated(*model, 30, 6);
    (*model)->stop_profile();
    EXPECT_EQ(prompts, 2);
    const CacheReadProfile all = (*model)->cache_reads();
    EXPECT_EQ(all.tokens, 5);
    EXPECT_EQ(all.tokens, sum.tokens);
    EXPECT_EQ(all.queries, sum.queries);
    EXPECT_EQ(all.refetched, sum.refetched);
    EXPECT_EQ(all.key_numbers, sum.key_numbers);
    EXPECT_EQ(all.key_bits, sum.key_bits);
    EXPECT_EQ(all.value_numbers, sum.value_numbers);
    EXPECT_EQ(all.value_bits, sum.value_bits);
    EXPECT_EQ(all.bytes, sum.bytes);
    EXPECT_GT(all.bytes, 0);
    EXPECT_EQ(traced.log_probabilities, generated(pruned(schedule), 30, 6).log_probabilities);
  }
}

TEST(CacheRules, ADenseModelIsCountedToo) {
  const auto model = pruned("{}");
  model->start_profile();
  generated(model, 10, 2);
  const auto profile = model->stop_profile();
  const CacheReadProfile reads = model->cache_reads();
  EXPECT_EQ(reads.queries, 2 * 4);
  EXPECT_EQ(reads.key_bits, int64_t{2} * 4 * 11 * 4 * 32);
  EXPECT_EQ(reads.bytes, int64_t{2} * 2 * 11 * (4 + 4) * 4);
}

TEST(CacheRules, AreForDecodersAndRefuseOtherCaches) {
  const std::string bits = R"({"key_bits": "8+4"})";
  const std::string bert = tiny_bert().write("cache_rules_bert");
  EXPECT_EQ(load_error(bert, {.pruning = bits}),
            "pruning: key_bits: expected a decoder, as it is what generated tokens read, found an "
            "encoder");
  EXPECT_CONTAINS(load_error(bert, {.pruning = R"({"values": 0.5})"}), "pruning: values: expected");
  EXPECT_TRUE(Model::load(bert, {.pruning = R"({"tokens": 0.7, "values": 1})"}).ok());
  EXPECT_CONTAINS(
      load_error(tiny_llama().write("cache_rules_bf16"),
                 {.cache = CacheType::kBF16, .pruning = bits}),
      "expected a cache of int8, or no type of it, as the pruning schedule has bits for "
      "keys and values, found bf16");
}

}  // namespace
}  // namespace tessera
