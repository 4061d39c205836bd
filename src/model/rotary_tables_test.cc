#include "model/rotary_tables.h"

#include <gtest/gtest.h>

#include <cmath>

namespace tessera {
namespace {

using Angles = std::vector<std::vector<float>>;  // cosines, then sines, of each row

// One layer, 2 pairs; other frequencies beyond 8 tokens.
Architecture architecture_with(LongerSequences longer) {
  Architecture a{.max_positions = 64,
                 .rotaries = {{.inverse_frequencies = {1, 0.25f}, .scale = 2}},
                 .layers = std::vector<LayerRecord>(1, LayerRecord{.rotary = 0, .names = {}})};
  longer.usual_tokens = 8;
  a.rotaries[0].longer = std::move(longer);
  return a;
}

Architecture of_lists() { return architecture_with({.inverse_frequencies = {0.5f, 0.0625f}}); }

// theta = 16 gives {1, 1/4}.
Architecture of_growing_base() {
  return architecture_with({.inverse_frequencies = {}, .theta = 16, .factor = 2, .rotated = 4});
}

Angles angles_of(const RotaryTables::View& view, size_t rows) {
  Angles angles;
  const auto pairs = static_cast<size_t>(view.rotated / 2);
  for (size_t row = 0; row < rows; ++row) {
    const size_t first = static_cast<size_t>(view.entries[row]) * pairs;
    std::vector<float>& each =
        angles.emplace_back(view.cosines + first, view.cosines + first + pairs);
    each.insert(each.end(), view.sines + first, view.sines + first + pairs);
  }
  return angles;
}

// Of rows at `first` and behind it, of a sequence with such a prompt.
Angles run(RotaryTables& tables, int32_t first, int32_t rows, std::vector<int32_t> prompt_tokens) {
  RowSet set;
  set.layout.append(rows, first);
  const Status status = tables.prepare({.layout = &set.layout, .prompt_tokens = prompt_tokens});
  EXPECT_TRUE(status.ok()) << status.message();
  return angles_of(*tables.of({.rotary = 0, .names = {}}, set), static_cast<size_t>(rows));
}

std::vector<float> expected(float first, float second, int32_t position) {
  std::vector<float> values;
  for (const auto function :
       {+[](double x) { return std::cos(x); }, +[](double x) { return std::sin(x); }}) {
    for (const float frequency : {first, second})
      values.push_back(2 * static_cast<float>(function(static_cast<float>(position) * frequency)));
  }
  return values;
}

TEST(RotaryTables, TheLengthOfAPromptChoosesForAllItsTokens) {
  RotaryTables tables(of_lists());
  EXPECT_EQ(run(tables, 0, 8, {})[7], expected(1, 0.25f, 7));
  EXPECT_EQ(run(tables, 0, 9, {})[7], expected(0.5f, 0.0625f, 7));
  EXPECT_EQ(run(tables, 0, 8, {})[7], expected(1, 0.25f, 7)) << "the sequence before is forgotten";
}

TEST(RotaryTables, TokensBehindAPromptChooseForThemselves) {
  RotaryTables tables(of_lists());
  EXPECT_EQ(run(tables, 7, 1, {6})[0], expected(1, 0.25f, 7));
  EXPECT_EQ(run(tables, 8, 1, {6})[0], expected(0.5f, 0.0625f, 8));
}

// At 12 tokens: 16 * (2 * 12 / 8 - 1)^(4 / 2) = 64, whose frequencies are {1, 1/8}.
TEST(RotaryTables, ABaseThatGrowsWithTheLength) {
  RotaryTables tables(of_growing_base());
  EXPECT_EQ(run(tables, 0, 8, {})[5], expected(1, 0.25f, 5));
  EXPECT_EQ(run(tables, 0, 12, {})[5], expected(1, 0.125f, 5));
  EXPECT_EQ(run(tables, 11, 1, {4})[0], expected(1, 0.125f, 11));
}

// In one pass or several, the first time or again.
TEST(RotaryTables, PartsChangeNothing) {
  for (const Architecture& architecture : {of_lists(), of_growing_base()}) {
    RotaryTables tables(architecture);
    Angles generated = run(tables, 0, 10, {});
    for (int32_t position = 10; position < 14; ++position)
      generated.push_back(run(tables, position, 1, {10})[0]);
    EXPECT_EQ(run(tables, 0, 14, {10}), generated);
    Angles parts = run(tables, 0, 3, {10});
    for (const Angles& part : {run(tables, 3, 6, {10}), run(tables, 9, 5, {10})})
      parts.insert(parts.end(), part.begin(), part.end());
    EXPECT_EQ(parts, generated);
  }
}

TEST(RotaryTables, EachSequenceOfAPassHasItsOwnLength) {
  RotaryTables tables(of_growing_base());
  RowSet set;
  for (const int32_t length : {3, 12, 0, 8}) set.layout.append(length, 0);
  ASSERT_TRUE(tables.prepare({.layout = &set.layout}).ok());
  const LayerRecord layer{.rotary = 0, .names = {}};
  const Angles together = angles_of(*tables.of(layer, set), 23);
  EXPECT_EQ(together[2], expected(1, 0.25f, 2));
  EXPECT_EQ(together[3 + 2], expected(1, 0.125f, 2));
  EXPECT_EQ(together[15 + 7], expected(1, 0.25f, 7));
  // Rows 1, 4 and 20 are left.
  RowSet left;
  left.layout.append(3, 0);
  left.origins = {1, 4, 20};
  EXPECT_EQ(angles_of(*tables.of(layer, left), 3),
            (Angles{together[1], together[4], together[20]}));
}

TEST(RotaryTables, NoneForALayerThatRotatesNothing) {
  const RotaryTables tables(of_lists());
  EXPECT_FALSE(tables.of({.rotary = kNoRotary, .names = {}}, {}).has_value());
}

}  // namespace
}  // namespace tessera
