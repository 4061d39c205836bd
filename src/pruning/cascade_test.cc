#include "pruning/cascade.h"

#include <gtest/gtest.h>

#include <limits>
#include <numeric>

namespace tessera {
namespace {

constexpr QueryReach kCausal = {.is_causal = true};

std::vector<Keep> counts(const std::vector<int32_t>& layers) {
  std::vector<Keep> keeps;
  for (const int32_t count : layers) keeps.push_back({.count = count});
  return keeps;
}

// A sequence of tokens with the ids 10, 11, ... that is told what it is attended to.
class Sequence {
 public:
  Sequence(PruningSchedule schedule, CascadeKind kind)
      : schedule_(std::move(schedule)),
        cascade_(schedule_,
                 {.layers = static_cast<int32_t>(schedule_.tokens.size()), .positions = 100},
                 kind) {
    scratch_.fit(100);
  }

  void begin(int32_t before, int32_t tokens, const std::vector<int32_t>& kept = {}) {
    std::vector<int32_t> ids(static_cast<size_t>(tokens));
    std::iota(ids.begin(), ids.end(), 10 + before);
    cascade_.begin(before, ids, kept);
  }
  std::vector<int32_t> choose(int32_t layer) {
    cascade_.choose(layer, scratch_);
    return {cascade_.alive().begin(), cascade_.alive().end()};
  }
  // Of the tokens alive, from all of them.
  void add(const std::vector<float>& mass, int32_t heads = 1, QueryReach reach = {}) {
    const std::vector<int32_t> alive(cascade_.alive().begin(), cascade_.alive().end());
    add(mass, alive, alive, heads, reach);
  }
  void add(const std::vector<float>& mass, const std::vector<int32_t>& keys,
           const std::vector<int32_t>& queries, int32_t heads = 1, QueryReach reach = {}) {
    cascade_.add(
        {.mass = mass.data(), .heads = heads, .keys = keys, .queries = queries, .reach = reach},
        scratch_);
  }
  TokenCascade& operator*() { return cascade_; }
  TokenCascade* operator->() { return &cascade_; }
  CascadeScratch& scratch() { return scratch_; }

 private:
  PruningSchedule schedule_;
  TokenCascade cascade_;
  CascadeScratch scratch_;
};

using Positions = std::vector<int32_t>;

// Heads are summed, layers accumulated.
TEST(TokenCascade, KeepsWhatWasAttendedToMost) {
  Sequence text({.tokens = counts({4, 3, 2, 1})}, CascadeKind::kText);
  text.begin(0, 4);
  EXPECT_EQ((Positions{4, 3, 2, 1}), text->lengths());
  EXPECT_EQ(3, text->scored_layers());
  text.add({1, 0, 3, 0, 0, 1, 0, 2}, 2);  // 1 1 3 2
  // Of the equal tokens 0 and 1 the first stays; places are those among the tokens before.
  const auto places = text->choose(1, text.scratch());
  EXPECT_EQ((Positions{0, 2, 3}), Positions(places.begin(), places.end()));
  text.add({4, 0, 0});  // 5 3 2
  EXPECT_EQ((Positions{0, 2}), text.choose(2));
  text.add({0, 9});
  EXPECT_EQ((Positions{2}), text.choose(3));
  EXPECT_FLOAT_EQ(12, text->importance(2));
}

// Nothing has been scored in front of the first layer.
TEST(TokenCascade, TheFirstLayerReadsAll) {
  for (const CascadeKind kind : {CascadeKind::kText, CascadeKind::kPrompt}) {
    Sequence sequence({.tokens = counts({2, 2})}, kind);
    sequence.begin(0, 5);
    EXPECT_EQ((Positions{5, 2}), sequence->lengths());
  }
}

TEST(TokenCascade, ProtectedTokensNeverLeave) {
  Sequence text({.tokens = counts({5, 3, 2}), .protect_first = 1, .protect_ids = {14}},
                CascadeKind::kText);
  text.begin(0, 5, {2});
  EXPECT_EQ((Positions{5, 3, 3}), text->lengths());
  text.add({0, 9, 0, 7, 0});
  EXPECT_EQ((Positions{0, 2, 4}), text.choose(1));
}

TEST(TokenCascade, EarlierLayersDecay) {
  for (const double decay : {1.0, 0.25}) {
    Sequence text({.tokens = counts({2, 2, 1}), .decay = decay}, CascadeKind::kText);
    text.begin(0, 2);
    text.add({4, 0});
    text.add({0, 2});
    EXPECT_FLOAT_EQ(static_cast<float>(4 * decay), text->importance(0));
    EXPECT_EQ((Positions{decay == 1 ? 0 : 1}), text.choose(2));
  }
}

// With a causal mask token j of n is seen by n - j queries, with a window of 2 by at most 2.
TEST(TokenCascade, ImportanceByTheQueriesThatSeeAToken) {
  const auto importance = [](QueryReach reach) {
    Sequence text({.tokens = {{}}, .scale = ImportanceScale::kQueries}, CascadeKind::kText);
    text.begin(0, 4);
    text.add({4, 3, 2, 1}, 1, reach);
    std::vector<float> all;
    for (int32_t j = 0; j < 4; ++j) all.push_back(text->importance(j));
    return all;
  };
  EXPECT_EQ((std::vector<float>{1, 1, 1, 1}), importance(kCausal));
  EXPECT_EQ((std::vector<float>{2, 1.5, 1, 1}), importance({.is_causal = true, .window = 2}));
  EXPECT_EQ((std::vector<float>{1, 1, 1, 1}),
            importance({.is_causal = true, .window = std::numeric_limits<int32_t>::max()}));
  EXPECT_EQ((std::vector<float>{1, 0.75, 0.5, 0.25}), importance({}));
}

// Token 1 leaves layer 1 in step 0 and never comes back to it, however important it becomes; the
// newest is always there.
TEST(TokenCascade, StepsGoOnWithWhatTheLayersHad) {
  Sequence prompt({.tokens = counts({4, 2})}, CascadeKind::kPrompt);
  prompt.begin(0, 3);
  EXPECT_EQ(2, prompt->scored_layers());
  prompt.add({3, 1, 0}, 1, kCausal);
  EXPECT_EQ((Positions{0, 2}), prompt.choose(1));
  prompt.add({1, 1});  // 4 1 1
  prompt.begin(3, 1);
  EXPECT_EQ((Positions{4, 2}), prompt->lengths());
  EXPECT_FALSE(prompt->may_drop(0));
  EXPECT_TRUE(prompt->may_drop(1));
  EXPECT_EQ((Positions{0, 1, 2, 3}), prompt.choose(0));
  prompt.add({0, 9, 5, 1}, {0, 1, 2, 3}, {3});  // 4 10 6 1
  EXPECT_EQ((Positions{2, 3}), prompt.choose(1));
  // Keys may come in any order: 4 10 6 5.
  prompt.add({4, 0}, {3, 2}, {3});
  prompt.begin(4, 1);
  EXPECT_TRUE(prompt->may_drop(0));
  EXPECT_EQ((Positions{1, 2, 3, 4}), prompt.choose(0));
  EXPECT_FALSE(prompt->is_alive(0, 0));
  EXPECT_TRUE(prompt->is_alive(1, 0));
  EXPECT_FALSE(prompt->is_alive(1, 1));
  // Begun anew, as after a pass that failed, it is the same step.
  prompt.begin(4, 1);
  EXPECT_EQ((Positions{1, 2, 3, 4}), prompt.choose(0));
  EXPECT_EQ((Positions{2, 4}), prompt.choose(1));
}

TEST(TokenCascade, PromptsThatAreScoredOrSkipped) {
  Sequence scored({.tokens = counts({3, 2}), .prefill = Prefill::kScore}, CascadeKind::kPrompt);
  scored.begin(0, 4);
  EXPECT_EQ((Positions{4, 4}), scored->lengths());
  EXPECT_EQ(2, scored->scored_layers());
  scored.begin(4, 1);
  EXPECT_EQ((Positions{3, 2}), scored->lengths());
  Sequence skipped({.tokens = counts({3, 2}), .prefill = Prefill::kSkip}, CascadeKind::kPrompt);
  skipped.begin(0, 4);
  EXPECT_EQ((Positions{4, 4}), skipped->lengths());
  EXPECT_EQ(0, skipped->scored_layers());
  skipped.begin(4, 1);
  EXPECT_EQ((Positions{5, 5}), skipped->lengths());
  EXPECT_EQ(2, skipped->scored_layers());
  skipped.choose(0);
  skipped.choose(1);
  skipped.begin(5, 1);
  EXPECT_EQ((Positions{3, 2}), skipped->lengths());
}

TEST(TokenCascade, TheNewestTokensStay) {
  Sequence prompt({.tokens = counts({2, 2}), .protect_newest = 3}, CascadeKind::kPrompt);
  prompt.begin(0, 5);
  EXPECT_EQ((Positions{5, 3}), prompt->lengths());
  prompt.add({9, 9, 1, 1, 1});
  EXPECT_EQ((Positions{2, 3, 4}), prompt.choose(1));
  prompt.begin(5, 1);
  EXPECT_EQ((Positions{3, 4, 5}), prompt.choose(0));
}

TEST(TokenCascade, SharesAreOfTokensPromptOrPositions) {
  for (const CountBase base : {CountBase::kTokens, CountBase::kPrompt, CountBase::kPositions}) {
    Sequence prompt({.tokens = {{.share = 0.5}}, .base = base}, CascadeKind::kPrompt);
    prompt.begin(0, 20);
    for (int32_t before = 20; before < 30; ++before) {
      prompt.begin(before, 1);
      prompt.choose(0);
    }
    const size_t expected = base == CountBase::kTokens ? 15 : base == CountBase::kPrompt ? 10 : 30;
    EXPECT_EQ(expected, prompt->alive().size());
  }
}

TEST(TokenCascade, TheMostThatAreAliveBoundEveryStep) {
  const std::vector<int32_t> ids(20, 1);
  for (const Prefill prefill : {Prefill::kPrune, Prefill::kScore, Prefill::kSkip}) {
    const PruningSchedule schedule{.tokens = {{.share = 0.9}, {.share = 0.5}, {.count = 4}},
                                   .prefill = prefill};
    const std::vector<int32_t> most =
        most_alive(schedule, {.layers = 3, .positions = 100}, ids, 60);
    Sequence prompt(schedule, CascadeKind::kPrompt);
    std::vector<int32_t> found(3);
    for (int32_t before = 0; before < 60; before = (*prompt).tokens()) {
      prompt.begin(before, before == 0 ? 20 : 1);
      for (int32_t layer = 0; layer < 3; ++layer) {
        auto& each = found[static_cast<size_t>(layer)];
        each = std::max(each, static_cast<int32_t>(prompt.choose(layer).size()));
      }
    }
    EXPECT_EQ(found, most);
  }
}

// As a model may have so many positions.
TEST(TokenCascade, MoreProtectedTokensThanThereAreKeepAll) {
  const PruningSchedule schedule{.tokens = counts({2, 2}),
                                 .protect_newest = std::numeric_limits<int32_t>::max()};
  const std::vector<int32_t> ids(20, 1);
  EXPECT_EQ((Positions{60, 60}), most_alive(schedule, {.layers = 2, .positions = 100}, ids, 60));
}

// Heads may leave where no token does.
TEST(TokenCascade, NothingIsScoredWhereEveryTokenStays) {
  for (const CascadeKind kind : {CascadeKind::kText, CascadeKind::kPrompt}) {
    Sequence sequence({.tokens = {{}, {}}}, kind);
    sequence.begin(0, 3);
    EXPECT_EQ(0, sequence->scored_layers());
  }
}

}  // namespace
}  // namespace tessera
