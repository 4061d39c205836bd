#include "runtime/token_rules.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

namespace tessera {
namespace {

// The tokens that may follow, with a prompt of one token, 9, and an end token, 7.
std::vector<int32_t> allowed(const TokenRules& rules, const std::vector<int32_t>& made,
                             std::vector<int32_t> prompt = {9}) {
  const Request request{.prompt_ids = prompt, .max_new_tokens = 5, .rules = rules, .stop_ids = {7}};
  prompt.insert(prompt.end(), made.begin(), made.end());
  std::vector<float> scores(10, 1.0f);
  ActiveRules(request).apply(prompt, scores);
  std::vector<int32_t> ids;
  for (int32_t id = 0; id < 10; ++id) {
    if (scores[static_cast<size_t>(id)] > -INFINITY) ids.push_back(id);
  }
  return ids;
}

using Ids = std::vector<int32_t>;
const Ids kAll = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9};

Ids all_but(const Ids& left_out) {
  Ids ids = kAll;
  std::erase_if(ids, [&](int32_t id) {
    return std::find(left_out.begin(), left_out.end(), id) != left_out.end();
  });
  return ids;
}

TEST(TokenRules, ForbidWhatTheySay) {
  EXPECT_EQ(allowed({}, {1, 2}), kAll);
  EXPECT_FALSE(ActiveRules(Request{.prompt_ids = {1}}).any());
  const TokenRules pairs{.no_repeat_ngram_size = 2};
  EXPECT_EQ(allowed(pairs, {1, 2, 1}), all_but({2}));
  EXPECT_EQ(allowed(pairs, {9}), all_but({9}));  // the prompt counts
  EXPECT_EQ(allowed({.no_repeat_ngram_size = 1}, {1, 2}), all_but({1, 2, 9}));
  EXPECT_EQ(allowed({.no_repeat_ngram_size = 3}, {9}), kAll);
  const TokenRules words{.bad_words = {{3}, {1, 2}, {7}}};
  EXPECT_EQ(allowed(words, {1}), all_but({2, 3}));
  EXPECT_EQ(allowed(words, {2}), all_but({3}));
  EXPECT_EQ(allowed({.min_new_tokens = 2}, {1}), all_but({7}));
  EXPECT_EQ(allowed({.min_new_tokens = 2}, {1, 1}), kAll);
  EXPECT_EQ(allowed({.suppressed = {4}, .suppressed_first = {5}}, {}), all_but({4, 5}));
  EXPECT_EQ(allowed({.suppressed = {4}, .suppressed_first = {5}}, {1}), all_but({4}));
}

TEST(TokenRules, ForceTheFirstAndTheLast) {
  const TokenRules rules{.forced_first = 3, .forced_last = {7, 8}, .suppressed_first = {5}};
  EXPECT_EQ(allowed(rules, {}), Ids{3});
  EXPECT_EQ(allowed(rules, {3}), all_but({5}));
  EXPECT_EQ(allowed(rules, {3, 1, 1, 1}), (Ids{7, 8}));
  // As transformers forces it: only behind a prompt of one token.
  EXPECT_EQ(allowed(rules, {}, {9, 9}), all_but({5}));
}

TEST(TokenRules, AreChecked) {
  EXPECT_TRUE(check_token_rules({.suppressed = {9}}, 10).ok());
  EXPECT_EQ(check_token_rules({.suppressed = {10}}, 10).message(),
            "suppressed: expected ids from 0 to 9, found 10");
  EXPECT_FALSE(check_token_rules({.bad_words = {{}}}, 10).ok());
  EXPECT_FALSE(check_token_rules({.bad_words = {{-1}}}, 10).ok());
  EXPECT_FALSE(check_token_rules({.no_repeat_ngram_size = -1}, 10).ok());
  EXPECT_FALSE(check_token_rules({.forced_first = 10}, 10).ok());
}

}  // namespace
}  // namespace tessera
