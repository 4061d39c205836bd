#include "model/pass.h"

#include <gtest/gtest.h>

#include <limits>
#include <string>

#include "model/scratch.h"

namespace tessera {
namespace {

using Lengths = std::vector<int32_t>;

// Three layers of four members; rows are own from 8 a member on.
class PassTest : public ::testing::Test {
 protected:
  PassTest() {
    a_.hidden_size = 16;
    a_.layers.assign(3, {.query_heads = 4, .kv_heads = 2, .head_size = 4, .ffn_size = 1024});
    a_.max_positions = 4096;
    plan_ = choose_plan({.threads = kMembers, .layers = 3, .head_size = 4});
    for (LayerPlan& layer : plan_.layers) layer.own_rows_from = 8;
    for (int32_t layer = 0; layer < 3; ++layer)
      weights_.layers.push_back({.attention = a_.attention_shape_as_stored(layer)});
  }

  // Sequences whose rows stand behind `before` positions, with an id for each row.
  void set_rows(const Lengths& lengths, int32_t before = 0) {
    layout_ = {};
    for (const int32_t length : lengths) layout_.append(length, before);
    ids_.assign(static_cast<size_t>(layout_.rows()), 7);
    input_.layout = &layout_;
    input_.ids = ids_;
  }

  Result<PassShape> shape() const { return shape_of_pass(input_, a_, plan_, kMembers); }
  PassShape valid() const {
    auto pass = shape();
    EXPECT_TRUE(pass.ok()) << pass.status().message();
    return std::move(pass).value();
  }
  void expect_refused(const std::string& message) const {
    const auto pass = shape();
    ASSERT_FALSE(pass.ok());
    EXPECT_EQ(pass.status().code(), StatusCode::kInvalidInput);
    EXPECT_EQ(pass.status().message(), message);
  }

  static constexpr int32_t kMembers = 4;
  Architecture a_;
  Plan plan_;
  Weights weights_;
  TokenLayout layout_;
  std::vector<int32_t> ids_;
  RowSchedule schedule_;
  ForwardInput input_;
};

TEST_F(PassTest, EveryRowEntersEveryLayer) {
  set_rows({5, 0, 30});
  const PassShape pass = valid();
  ASSERT_EQ(pass.layers.size(), 3u);
  EXPECT_EQ(pass.sets.size(), 1u);
  for (const LayerPass& layer : pass.layers) {
    EXPECT_EQ(layer.rows, 35);
    EXPECT_EQ(layer.longest, 30);
    EXPECT_EQ(layer.most_keys, 30);
    EXPECT_EQ(layer.dealing, Dealing::kOwn);  // 35 >= 4 * 8
    EXPECT_EQ(pass.layout(layer).positions, layout_.positions);
    EXPECT_EQ(pass.keys_before_of(layer)[2], 0);
  }
  EXPECT_TRUE(pass.ends_with_head);
  EXPECT_EQ(pass.head_row_count, 0);
}

TEST_F(PassTest, RowsLeaveOnTheWay) {
  set_rows({20, 4, 16});
  schedule_.lengths = {{20, 4, 16}, {10, 0, 16}, {10, 0, 16}};
  input_.schedule = &schedule_;
  const PassShape pass = valid();
  ASSERT_EQ(pass.sets.size(), 2u);
  EXPECT_EQ(pass.layers[0].set, 0);
  EXPECT_EQ(pass.layers[0].rows, 40);
  EXPECT_EQ(pass.layers[0].longest, 20);
  for (int layer : {1, 2}) {
    EXPECT_EQ(pass.layers[layer].set, 1);
    EXPECT_EQ(pass.layers[layer].rows, 26);
    EXPECT_EQ(pass.layers[layer].longest, 16);
    EXPECT_EQ(pass.layout(pass.layers[layer]).offsets, (Lengths{0, 10, 10, 26}));
  }
  EXPECT_EQ(pass.sets[1].kept.size(), 26u);
  // What is left is too little for rows of one's own.
  EXPECT_EQ(pass.layers[0].dealing, Dealing::kOwn);
  EXPECT_EQ(pass.layers[1].dealing, Dealing::kShared);
}

TEST_F(PassTest, RowsMayLeaveInFrontOfTheFirstLayer) {
  set_rows({6});
  schedule_.lengths = {{5}, {5}, {2}};
  input_.schedule = &schedule_;
  const PassShape pass = valid();
  ASSERT_EQ(pass.sets.size(), 3u);
  EXPECT_EQ(pass.rows(), 6);
  EXPECT_EQ(pass.layers[0].rows, 5);
  EXPECT_EQ(pass.layers[2].rows, 2);
}

TEST_F(PassTest, TablesHoldWhatCameBefore) {
  set_rows({2, 1}, 100);
  std::vector<PageTable> tables(6);
  std::vector<PageTable*> pointers;
  for (size_t i = 0; i < tables.size(); ++i) {
    tables[i].positions.resize(60 + i);
    tables[i].pages.resize(2);
    pointers.push_back(&tables[i]);
  }
  input_.tables = pointers;
  const PassShape pass = valid();
  EXPECT_EQ(pass.keys_before, (Lengths{60, 61, 62, 63, 64, 65}));
  EXPECT_EQ(pass.layers[0].most_keys, 62);
  EXPECT_EQ(pass.layers[1].most_keys, 64);
  EXPECT_EQ(pass.layers[2].most_keys, 66);
  EXPECT_EQ(pass.keys_before_of(pass.layers[2])[1], 65);
  for (PageTable& table : tables) EXPECT_EQ(table.positions.size(), 60u + (&table - &tables[0]));

  tables[4].pages.resize(1);  // 64 tokens and 2 rows
  expect_refused("pass: expected 2 pages of sequence 0 in layer 2, found 1");
  pointers.pop_back();
  input_.tables = pointers;
  expect_refused("pass: expected 6 page tables, found 5");
}

TEST_F(PassTest, APartStartsAtItsOwnTables) {
  set_rows({2});
  std::vector<PageTable> tables(3);
  std::vector<PageTable*> pointers;
  for (size_t i = 0; i < tables.size(); ++i) {
    tables[i].positions.resize(i);
    tables[i].pages.resize(1);
    pointers.push_back(&tables[i]);
  }
  const std::vector<float> states(2 * 16);
  input_.tables = pointers;
  input_.states = states;
  input_.first_layer = 1;
  input_.end_layer = 2;
  const PassShape pass = valid();
  ASSERT_EQ(pass.layers.size(), 1u);
  EXPECT_EQ(pass.layers[0].layer, 1);
  EXPECT_EQ(pass.keys_before_of(pass.layers[0])[0], 1);
  EXPECT_FALSE(pass.ends_with_head);
  input_.head_rows = HeadRows::kAll;
  expect_refused("pass: expected no rows for the head, which layer 2 of 3 does not come to");
}

TEST_F(PassTest, EachLayerIsDealtAsItsPlanSays) {
  set_rows({31});
  plan_.layers[1].own_rows_from = 7;
  plan_.layers[1].group_bytes = 100 * 2 * 1024 * sizeof(float);
  const PassShape pass = valid();
  EXPECT_EQ(pass.layers[0].dealing, Dealing::kShared);
  EXPECT_EQ(pass.layers[1].dealing, Dealing::kOwn);
  EXPECT_EQ(pass.layers[1].ffn_width, 2 * 1024);  // gate and up
  EXPECT_EQ(pass.layers[1].group_rows, 96);       // 100, in tiles of 6 rows
  EXPECT_EQ(pass.layers[2].dealing, Dealing::kShared);
}

TEST_F(PassTest, MethodsFollowTheKeysOfTheirLayer) {
  plan_.layers[1].attention = {{10, find_attention_method("unfused"), ""},
                               {0, find_attention_method("flash"), ""}};
  set_rows({10});
  EXPECT_EQ(valid().layers[1].attention->name(), "unfused");
  set_rows({10, 11});
  EXPECT_EQ(valid().layers[1].attention->name(), "flash");
  EXPECT_EQ(valid().layers[0].attention->name(), "on_the_fly");
}

TEST_F(PassTest, HeadRows) {
  set_rows({2, 3});
  ids_ = {1, 7, 1, 7, 7};
  input_.head_rows = HeadRows::kLastOfEach;
  EXPECT_EQ(valid().head_rows, (Lengths{1, 4}));
  a_.head_padding_id = 7;
  EXPECT_EQ(valid().head_rows, (Lengths{0, 2}));
  input_.head_rows = HeadRows::kFirstOfEach;
  EXPECT_EQ(valid().head_rows, (Lengths{0, 2}));
  input_.head_rows = HeadRows::kAll;
  EXPECT_EQ(valid().head_row_count, 5);
  const Lengths given = {4, 0, 4};
  input_.head_rows = HeadRows::kGiven;
  input_.given_head_rows = given;
  EXPECT_EQ(valid().head_rows, given);
  const Lengths outside = {5};
  input_.given_head_rows = outside;
  expect_refused("pass: expected head rows from 0 to 4, found 5");
  set_rows({2, 0});
  input_.head_rows = HeadRows::kFirstOfEach;
  expect_refused("pass: expected a row of sequence 1 for the head, found none");
}

TEST_F(PassTest, PartsThatDoNotFitAreRefused) {
  set_rows({0, 0});
  expect_refused("pass: expected at least one row, found none");
  set_rows({3});
  input_.ids = std::span(ids_).first(2);
  expect_refused("pass: expected 3 ids, found 2");
  layout_.positions.pop_back();
  expect_refused("pass: expected 3 positions, found 2");
  set_rows({3});
  const Lengths types(4);
  input_.type_ids = types;
  expect_refused("pass: expected 3 type ids, found 4");
  input_.type_ids = {};
  const std::vector<float> states(47);
  input_.states = states;
  expect_refused("pass: expected 48 numbers of states, found 47");
  input_.states = {};
  input_.first_layer = 1;
  expect_refused("pass: expected states that enter layer 1, found none");
  input_.first_layer = 3;
  expect_refused("pass: expected layers within 0 to 3, found 3 to 2147483647");
  input_.first_layer = 0;
  input_.schedule = &schedule_;
  schedule_.lengths = {{3}, {2}};
  expect_refused("pass: expected 3 layers in the schedule of rows, found 2");
  schedule_.lengths = {{3}, {2}, {3}};
  expect_refused("pass: expected from 0 to 2 rows of sequence 0 in layer 2, found 3");
  schedule_.lengths = {{3}, {2}, {0}};
  expect_refused("pass: expected a row in layer 2, found none");
}

TEST_F(PassTest, ScratchIsAsLargeAsTheHungriestLayer) {
  set_rows({20, 20});
  schedule_.lengths = {{20, 20}, {10, 10}, {10, 10}};
  input_.schedule = &schedule_;
  const ScratchSizes sizes = scratch_sizes(valid(), input_, a_, weights_, kMembers);
  EXPECT_EQ(sizes.states, 40 * 16);
  EXPECT_EQ(sizes.settled, 40 * 16);
  EXPECT_EQ(sizes.qkv, 40 * 32);
  // Groups of 126 rows for each member in the first layer, then 20 shared ones.
  EXPECT_EQ(valid().layers[0].group_rows, 126);
  EXPECT_EQ(sizes.ffn, 4 * 126 * 2048);
  EXPECT_EQ(sizes.pages, 2);
  input_.schedule = nullptr;
  EXPECT_EQ(scratch_sizes(valid(), input_, a_, weights_, kMembers).settled, 0);
}

TEST_F(PassTest, SizesThatNoMemoryHasAreRefused) {
  set_rows({20});
  const PassShape pass = valid();
  a_.hidden_size = std::numeric_limits<int32_t>::max();
  ScratchSizes sizes = scratch_sizes(pass, input_, a_, weights_, kMembers);
  sizes.logits = std::numeric_limits<int64_t>::max();
  sizes.page_bytes = std::numeric_limits<int64_t>::max();
  EXPECT_EQ(sizes.total_bytes(kMembers), kTooMuch);
  Arena arena;
  EXPECT_EQ(carve(sizes, pass, input_, kMembers, arena).status().code(), StatusCode::kOutOfMemory);
}

}  // namespace
}  // namespace tessera
