#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <iterator>
#include <numeric>
#include <random>
#include <vector>

#include "attention/testing.h"
#include "base/isa.h"

namespace tessera::testing {
namespace {

class IsaCap {
 public:
  explicit IsaCap(Isa cap) : before_(isa_cap()) { set_isa_cap(cap); }
  ~IsaCap() { set_isa_cap(before_); }

 private:
  Isa before_;
};

const AttentionMethod& oracle() { return *attention_methods().back(); }

void for_each_fast_method(const std::function<void(const AttentionMethod&)>& check) {
  const std::vector<Isa> isas = available_isas();
  for (Isa isa : isas) {
    if (isa > Isa::kAvx512) continue;  // no row of attention needs more
    const IsaCap cap(isa);
    for (const AttentionMethod* method :
         attention_methods().first(attention_methods().size() - 1)) {
      SCOPED_TRACE(::testing::Message() << method->name() << " with " << name(isa));
      check(*method);
    }
  }
}

void expect_near(const std::vector<float>& expected, const std::vector<float>& found,
                 const std::vector<double>& slack) {
  ASSERT_EQ(expected.size(), found.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    if (expected[i] == found[i]) continue;  // infinities
    ASSERT_NEAR(expected[i], found[i], slack[i]) << "element " << i;
  }
}

// Double precision from the definition checks the oracle, to a rounding, and the oracle the others.
void check_pages(const Case& c) {
  SCOPED_TRACE(::testing::Message()
               << "seed " << c.seed << ", " << to_string({c.shape.pages.dtype, c.shape.pages.bits})
               << ", heads " << c.shape.query_heads << "/" << c.shape.pages.kv_heads << ", sizes "
               << c.shape.pages.d_k << " and " << c.shape.pages.d_v << ", first "
               << c.lengths[0].queries << " x " << c.lengths[0].keys << ", causal "
               << (c.shape.mask == Mask::kCausal) << ", window " << c.shape.window);
  Batch batch(c);
  const Exact exact = batch.exact();
  const Output expected = batch.run(oracle(), 2, ColumnMass::kYes);
  for (size_t i = 0; i < exact.values.size(); ++i) {
    ASSERT_NEAR(exact.values[i], expected.values[i], kEpsilon * std::abs(exact.values[i]) + 1e-12)
        << "element " << i;
  }
  for (size_t i = 0; i < exact.log_sum_exp.size(); ++i) {
    if (exact.log_sum_exp[i] == expected.log_sum_exp[i]) continue;
    ASSERT_NEAR(exact.log_sum_exp[i], expected.log_sum_exp[i],
                kEpsilon * std::abs(exact.log_sum_exp[i]) + 1e-12);
  }
  for (size_t i = 0; i < exact.column_mass.size(); ++i) {
    ASSERT_NEAR(exact.column_mass[i], expected.column_mass[i],
                kEpsilon * std::abs(exact.column_mass[i]) + 1e-12)
        << "mass " << i;
  }
  for (size_t i = 0; i < exact.magnitudes.size(); ++i) {
    ASSERT_NEAR(exact.magnitudes[i], expected.magnitudes[i], kEpsilon * exact.magnitudes[i] + 1e-12)
        << "magnitude " << i;
  }
  if (exact.is_clear) {
    EXPECT_EQ(exact.reads, expected.reads);
  }
  for_each_fast_method([&](const AttentionMethod& method) {
    const Output found = batch.run(method, 1, ColumnMass::kYes);
    expect_near(expected.values, found.values, exact.values_slack);
    expect_near(expected.log_sum_exp, found.log_sum_exp, exact.log_sum_exp_slack);
    expect_near(expected.column_mass, found.column_mass, exact.column_mass_slack);
    expect_near(expected.magnitudes, found.magnitudes, exact.magnitudes_slack);
    if (exact.is_clear) {
      EXPECT_EQ(exact.reads, found.reads);
    }
    // What is asked for beside it does not change the output.
    EXPECT_EQ(found.values, batch.run(method, 1).values);
  });
}

void check_case(Case c) {
  for (DType dtype : kPageTypes) {
    c.shape.pages.dtype = dtype;
    check_pages(c);
  }
}

TEST(Attention, HeadSizes) {
  uint32_t seed = 100;
  for (int32_t d : {1, 3, 8, 12, 16, 24, 32, 40, 64, 80, 128, 200, 256}) {
    check_case({.shape = shape_of(4, 2, d, d), .lengths = {{70, 70}, {3, 130}}, .seed = ++seed});
    check_case({.shape = shape_of(2, 2, d, 257 - d), .lengths = {{9, 65}}, .seed = ++seed});
  }
}

TEST(Attention, LengthsAndMasks) {
  uint32_t seed = 200;
  for (int32_t keys : {1, 2, 15, 16, 17, 63, 64, 65, 100, 128, 200, 257, 300, 513}) {
    for (Mask mask : {Mask::kNone, Mask::kCausal}) {
      AttentionShape shape = shape_of(2, 1, 16, 24);
      shape.mask = mask;
      // As many queries as keys, and queries behind a cached prefix.
      check_case({.shape = shape,
                  .lengths = {{std::min(keys, 200), keys}, {(keys + 2) / 3, keys}, {1, keys}},
                  .seed = ++seed});
    }
  }
}

TEST(Attention, HeadGroups) {
  uint32_t seed = 300;
  for (int32_t kv_heads : {1, 2, 4, 8}) {
    for (int32_t group : {1, 2, 4, 8}) {
      AttentionShape shape = shape_of(kv_heads * group, kv_heads, 8, 8);
      shape.mask = Mask::kCausal;
      check_case({.shape = shape, .lengths = {{37, 50}, {1, 90}}, .seed = ++seed});
    }
  }
  check_case({.shape = shape_of(150, 1, 16, 16), .lengths = {{2, 90}, {1, 64}}, .seed = ++seed});
}

TEST(Attention, Windows) {
  uint32_t seed = 400;
  for (int32_t window : {1, 2, 30, 64, 100, 1000}) {
    for (Mask mask : {Mask::kNone, Mask::kCausal}) {
      for (float gap_chance : {0.0f, 0.5f}) {
        AttentionShape shape = shape_of(2, 2, 16, 16);
        shape.mask = mask;
        shape.window = window;
        check_case({.shape = shape,
                    .lengths = {{200, 200}, {130, 700}, {1, 400}},
                    .seed = ++seed,
                    .gap_chance = gap_chance});
      }
    }
  }
}

// Heads that are split over their keys.
TEST(Attention, LongCaches) {
  uint32_t seed = 1500;
  for (int32_t keys : {511, 512, 513, 1024, 1025, 3000}) {
    for (int32_t window : {0, 600}) {
      for (int32_t kv_heads : {1, 3}) {
        AttentionShape shape = shape_of(6, kv_heads, 16, 24);
        shape.mask = Mask::kCausal;
        shape.window = window;
        check_case({.shape = shape,
                    .lengths = {{1, keys}, {5, keys}, {40, keys}, {1, 3}},
                    .seed = ++seed});
        check_case({.shape = shape, .lengths = {{2, keys}}, .seed = ++seed, .gap_chance = 0.3f});
      }
    }
  }
  AttentionShape shape = shape_of(2, 1, 16, 16);
  check_case({.shape = shape, .lengths = {{3, 1400}}, .seed = 1600, .bias_scale = 2});
  check_case({.shape = shape, .lengths = {{3, 1400}}, .seed = 1601, .shift = 1000});
  check_case(
      {.shape = shape_of(2, 1, 1, 16), .lengths = {{3, 1400}}, .seed = 1602, .key_scale = 3000});
}

TEST(Attention, PagesThatNobodySeesChangeNoBitWhenTheyGo) {
  uint32_t seed = 1700;
  for (const int32_t window : {1, 100, 600, 2500}) {
    for (const float gap_chance : {0.0f, 0.3f}) {
      AttentionShape shape = shape_of(6, 3, 16, 24);
      shape.mask = Mask::kCausal;
      shape.window = window;
      Batch batch({.shape = shape,
                   .lengths = {{1, 3000}, {5, 2999}, {40, 3000}, {130, 700}, {1, 3}},
                   .seed = ++seed,
                   .gap_chance = gap_chance});
      std::vector<Output> before;
      for (const AttentionMethod* method : attention_methods())
        before.push_back(batch.run(*method, 2));
      batch.drop_unseen_pages();
      EXPECT_GT(batch.tables().front().dropped, 0);
      for (size_t i = 0; i < before.size(); ++i) {
        const AttentionMethod& method = *attention_methods()[i];
        SCOPED_TRACE(std::string(method.name()) + ", window " + std::to_string(window));
        const Output after = batch.run(method, 2);
        EXPECT_EQ(after.values, before[i].values);
        EXPECT_EQ(after.log_sum_exp, before[i].log_sum_exp);
      }
    }
  }
}

TEST(Attention, GapsInPositions) {
  AttentionShape shape = shape_of(4, 2, 16, 16);
  shape.mask = Mask::kCausal;
  for (uint32_t seed = 500; seed < 504; ++seed) {
    check_case({.shape = shape,
                .lengths = {{150, 150}, {40, 200}, {1, 70}},
                .seed = seed,
                .gap_chance = 0.6f});
  }
}

TEST(Attention, QueriesBeforeEveryKeySeeNothing) {
  AttentionShape shape = shape_of(2, 1, 16, 8);
  shape.mask = Mask::kCausal;
  // More queries than keys with few gaps: the first positions have no key.
  for (uint32_t seed = 510; seed < 514; ++seed) {
    check_case({.shape = shape,
                .lengths = {{120, 40}, {30, 0}, {0, 30}},
                .seed = seed,
                .gap_chance = 0.5f});
  }
}

TEST(Attention, Bias) {
  for (uint32_t seed = 600; seed < 604; ++seed) {
    AttentionShape shape = shape_of(4, 2, 16, 16);
    shape.mask = seed % 2 == 0 ? Mask::kCausal : Mask::kNone;
    check_case({.shape = shape,
                .lengths = {{100, 100}, {7, 300}, {1, 65}},
                .seed = seed,
                .bias_scale = 2});
    check_case({.shape = shape,
                .lengths = {{70, 70}},
                .seed = seed,
                .gap_chance = 0.3f,
                .bias_scale = 30});
  }
}

TEST(Attention, PeakedFlatAndShiftedScores) {
  const AttentionShape shape =
      shape_of(2, 1, 1, 16);  // one term a score, so that its rounding is small
  const std::vector<Length> lengths = {{50, 300}, {100, 100}};
  check_case({.shape = shape, .lengths = lengths, .seed = 700, .key_scale = 3000});
  check_case({.shape = shape, .lengths = lengths, .seed = 701, .key_scale = 1e-6f});
  const AttentionShape wide = shape_of(2, 1, 16, 16);
  for (float shift : {-1000.0f, -120.0f, -25.0f, 25.0f, 100.0f, 1000.0f}) {
    check_case({.shape = wide, .lengths = lengths, .seed = 702, .shift = shift});
  }
}

TEST(Attention, RaggedBatch) {
  AttentionShape shape = shape_of(4, 2, 32, 32);
  shape.mask = Mask::kCausal;
  std::mt19937 generator(800);
  std::vector<Length> lengths;
  for (int i = 0; i < 20; ++i) {
    const auto keys = static_cast<int32_t>(generator() % 200 + 1);
    lengths.push_back({static_cast<int32_t>(generator() % keys + 1), keys});
  }
  check_case({.shape = shape, .lengths = lengths, .seed = 800});
}

TEST(Attention, SummedHeads) {
  uint32_t seed = 1300;
  for (int32_t heads : {1, 2, 4, 8, 12}) {
    for (int32_t kv_heads = 1; kv_heads <= heads; kv_heads *= 2) {
      if (heads % kv_heads != 0) continue;
      AttentionShape shape = summed_shape(heads, kv_heads, 16, 1 + 23 * kv_heads);
      shape.mask = seed % 2 == 0 ? Mask::kCausal : Mask::kNone;
      check_case({.shape = shape, .lengths = {{70, 70}, {1, 130}, {9, 200}}, .seed = ++seed});
    }
  }
  for (int32_t d_v : {1, 63, 64, 65, 257, 800})
    check_case({.shape = summed_shape(3, 3, 8, d_v), .lengths = {{50, 65}}, .seed = ++seed});
}

TEST(Attention, SummedHeadsInEveryPlace) {
  uint32_t seed = 1400;
  for (int32_t window : {0, 2, 64, 100}) {
    AttentionShape shape = summed_shape(4, 2, 16, 40);
    shape.mask = Mask::kCausal;
    shape.window = window;
    check_case({.shape = shape,
                .lengths = {{120, 40}, {30, 0}, {200, 200}, {1, 700}, {130, 700}},
                .seed = ++seed,
                .gap_chance = 0.3f});
    // Heads differ in what their bias bars.
    check_case({.shape = shape,
                .lengths = {{100, 100}, {7, 300}, {1, 65}},
                .seed = ++seed,
                .bias_scale = 2});
  }
}

constexpr ValueRule kLargest{.kind = ValueRule::Kind::kLargest, .share = 0.2};
constexpr ValueRule kThree{.kind = ValueRule::Kind::kLargest, .count = 3};
constexpr ValueRule kAbove{.kind = ValueRule::Kind::kAbove, .threshold = 0.3f};

AttentionShape with(const ReadRules& rules, AttentionShape shape) {
  shape.values = rules.values;
  shape.refetch = rules.refetch;
  return shape;
}

TEST(Selecting, PagesOfEveryKindUnderEveryRule) {
  uint32_t seed = 2000;
  std::vector<PageType> types(std::begin(kIntegerTypes), std::end(kIntegerTypes));
  for (const DType dtype : kPageTypes) types.push_back({dtype});
  for (const PageType& type : types) {
    for (const ReadRules& rules :
         {ReadRules{}, ReadRules{kLargest, {.below = 0.08}},
          ReadRules{kAbove, {.below_times_keys = 20}}, ReadRules{kThree, {2}}}) {
      // Sequences that select stand between others.
      const AttentionShape shape = in_pages(type, with(rules, shape_of(6, 2, 21, 19)));
      check_pages({.shape = shape,
                   .lengths = {{3, 40}, {1, 200}, {1, 1}, {0, 9}, {1, 64}, {20, 90}},
                   .seed = ++seed});
    }
  }
}

// Those of a sequence go before the shape's, also where they ask for everything.
TEST(Selecting, SequencesWithRulesOfTheirOwn) {
  uint32_t seed = 2050;
  const std::vector<ReadRules> rules = {{kLargest, {}},     {kAbove, {.below = 2}},
                                        {{}, {.below = 2}}, {kThree, {.below = 0.1}},
                                        {kLargest, {}},     {{}, {}}};
  const std::vector<Length> lengths = {{1, 90}, {1, 200}, {1, 64}, {1, 130}, {5, 60}, {1, 70}};
  for (const PageType& type : {PageType{DType::kF32}, PageType{DType::kI8, {6, 4, 6}}}) {
    for (const ReadRules& shapes : {ReadRules{}, ReadRules{kThree, {.below = 0.5}}}) {
      for (const AttentionShape& shape : {shape_of(6, 2, 21, 19), summed_shape(6, 2, 16, 300)}) {
        check_pages({.shape = in_pages(type, with(shapes, shape)),
                     .lengths = lengths,
                     .seed = ++seed,
                     .rules = rules});
      }
    }
  }
}

TEST(Selecting, MasksWindowsGapsAndBiases) {
  uint32_t seed = 2100;
  const std::vector<Length> lengths = {{1, 300}, {1, 65}, {1, 1}, {130, 200}};
  for (const PageType& type : {PageType{DType::kF32}, PageType{DType::kI8, {6, 4, 6}}}) {
    for (const int32_t window : {0, 2, 100}) {
      AttentionShape shape = with({kLargest, {.below = 0.1}}, shape_of(4, 2, 16, 24));
      shape.mask = Mask::kCausal;
      shape.window = window;
      shape = in_pages(type, shape);
      check_pages({.shape = shape, .lengths = lengths, .seed = ++seed, .gap_chance = 0.3f});
      check_pages({.shape = shape, .lengths = lengths, .seed = ++seed, .bias_scale = 2});
    }
  }
}

TEST(Selecting, HeadsOfEveryArrangement) {
  uint32_t seed = 2200;
  const ReadRules rules{kLargest, {.below = 0.1}};
  for (const PageType& type : {PageType{DType::kF32}, PageType{DType::kI8, {8, 4, 4}}}) {
    for (const int32_t kv_heads : {1, 3, 6}) {
      const std::vector<Length> lengths = {{1, 150}, {7, 70}, {1, 40}};
      const auto check = [&](const AttentionShape& shape) {
        check_pages(
            {.shape = in_pages(type, with(rules, shape)), .lengths = lengths, .seed = ++seed});
      };
      check(shape_of(6, kv_heads, 64, 64));
      check(shape_of(18, kv_heads, 40, 33));
      check(summed_shape(6, kv_heads, 16, 300));
    }
  }
}

// A threshold above 1 reads what a cache without planes would hold.
TEST(Selecting, RefetchingAlwaysIsFullPrecision) {
  for (const PageType& type : kIntegerTypes) {
    if (type.bits.lower == 0) continue;
    const AttentionShape shape = in_pages(type, shape_of(4, 2, 32, 32));
    Batch never({.shape = shape, .lengths = {{1, 200}}, .seed = 2300});
    Batch always(
        {.shape = with({.refetch = {.below = 1.5}}, shape), .lengths = {{1, 200}}, .seed = 2300});
    const Output upper = never.run(oracle(), 1), whole = always.run(oracle(), 1);
    int64_t off = 0;
    for (size_t i = 0; i < 4; ++i) {
      EXPECT_EQ(upper.reads[i].refetched, 0);
      EXPECT_EQ(whole.reads[i].refetched, 1);
    }
    // Two rows of the same query read every plane as several queries always do.
    Batch two({.shape = shape, .lengths = {{2, 200}}, .seed = 2300});
    std::copy(always.query.begin(), always.query.end(), two.query.begin());
    two.key = always.key;
    two.value = always.value;
    two.append(1);
    const Output full = two.run(oracle(), 1);
    for (size_t i = 0; i < 4 * 32; ++i) {
      EXPECT_NEAR(full.values[i], whole.values[i], kEpsilon * std::abs(full.values[i]) + 1e-12);
      off += std::abs(upper.values[i] - whole.values[i]) > 1e-4f ? 1 : 0;
    }
    EXPECT_GT(off, 0) << to_string(type);
  }
}

// So many that roundings decide some: the others are counted from lengths, thresholds and the
// probabilities of the definition.
TEST(Selecting, CountsWhatIsRead) {
  int32_t clear = 0, refetched = 0, kept = 0;
  for (uint32_t seed = 2400; seed < 2430; ++seed) {
    const bool above = seed % 2 == 0;
    const AttentionShape shape =
        in_pages(kIntegerTypes[seed % 3],
                 with({above ? kAbove : kLargest, {.below = 0.06}}, shape_of(6, 2, 24, 20)));
    const Case c{.shape = shape, .lengths = {{1, 140}, {1, 37}}, .seed = seed};
    Batch batch(c);
    const Exact exact = batch.exact();
    if (!exact.is_clear) continue;
    ++clear;
    for (const CacheReads& reads : exact.reads) {
      refetched += static_cast<int32_t>(reads.refetched);
      kept += reads.refetched == 0 ? 1 : 0;
    }
    EXPECT_EQ(batch.run(oracle(), 2).reads, exact.reads);
    for_each_fast_method(
        [&](const AttentionMethod& method) { EXPECT_EQ(batch.run(method, 2).reads, exact.reads); });
  }
  EXPECT_GE(clear, 10);
  EXPECT_GE(refetched, 10);
  EXPECT_GE(kept, 10);
}

TEST(Selecting, CountsOfAQueryThatReadsAll) {
  AttentionShape shape = in_pages({DType::kI8}, shape_of(4, 2, 10, 12));
  shape.mask = Mask::kCausal;
  shape.window = 30;
  PageTable table;
  table.positions.resize(100);
  std::iota(table.positions.begin(), table.positions.end(), 0);
  const int32_t position = 99;
  std::vector<CacheReads> reads(4);
  count_all_read(
      shape, {.queries = 1, .query_positions = &position, .keys = &table, .reads = reads.data()});
  for (size_t h = 0; h < 4; ++h) {
    EXPECT_EQ(reads[h].key_bits, 30 * 10 * 8);
    EXPECT_EQ(reads[h].value_numbers, 30 * 12);
    EXPECT_EQ(reads[h].bytes, h % 2 == 0 ? 30 * (10 + 4 + 12 + 4) : 0);
  }
}

// Which heads of three sequences live: some, all, and one.
std::vector<std::vector<uint8_t>> some_heads(int32_t heads) {
  std::vector<std::vector<uint8_t>> live(3, std::vector<uint8_t>(static_cast<size_t>(heads), 1));
  for (size_t h = 0; h < live[0].size(); ++h) {
    live[0][h] = h % 3 == 1;
    live[2][h] = h + 1 == live[2].size();
  }
  return live;
}

// What a dead head reads may be anything.
TEST(Attention, DeadHeads) {
  uint32_t seed = 1500;
  for (const AttentionShape& shape :
       {shape_of(6, 6, 16, 16), shape_of(8, 2, 40, 24), shape_of(6, 2, 16, 16),
        shape_of(4, 1, 16, 64), summed_shape(6, 6, 16, 40), summed_shape(6, 2, 16, 130)}) {
    for (const Mask mask : {Mask::kNone, Mask::kCausal}) {
      Case each{.shape = shape,
                .lengths = {{70, 200}, {30, 30}, {1, 1300}},
                .seed = ++seed,
                .live_heads = some_heads(shape.query_heads)};
      each.shape.mask = mask;
      check_case(each);
    }
  }
}

TEST(Attention, DeadHeadsAreNotRead) {
  for (const AttentionShape& shape :
       {shape_of(8, 2, 16, 16), shape_of(5, 5, 16, 16), summed_shape(6, 2, 16, 40)}) {
    const Case clean{.shape = shape,
                     .lengths = {{40, 90}, {20, 20}, {1, 1300}},
                     .seed = 1600,
                     .live_heads = some_heads(shape.query_heads)};
    Batch batch(clean), spoiled(clean);
    const int32_t d_k = shape.pages.d_k, group = shape.query_heads / shape.pages.kv_heads;
    const int32_t value_group = shape.outputs == HeadOutputs::kSummed ? 1 : group;
    const auto spoil = [](std::vector<float>& values, int64_t first, int32_t count) {
      std::fill_n(values.begin() + first, count, std::nanf(""));
    };
    int32_t row = 0;
    for (size_t s = 0; s < clean.lengths.size(); ++s, row += clean.lengths[s - 1].queries) {
      const std::vector<uint8_t>& live = clean.live_heads[s];
      for (int32_t h = 0; h < shape.query_heads; ++h) {
        for (int32_t q = row; live[h] == 0 && q < row + clean.lengths[s].queries; ++q)
          spoil(spoiled.query, q * spoiled.query_stride() + int64_t{h} * d_k, d_k);
      }
      const auto any = [&](int32_t first, int32_t count) {
        return std::count(live.begin() + first, live.begin() + first + count, 0) < count;
      };
      for (int64_t j = batch.first_key(s); j < batch.first_key(s) + clean.lengths[s].keys; ++j) {
        for (int32_t g = 0; g < shape.pages.kv_heads; ++g) {
          if (!any(g * group, group))
            spoil(spoiled.key, j * spoiled.key_stride() + int64_t{g} * d_k, d_k);
        }
        for (int32_t g = 0; g < shape.query_heads / value_group; ++g) {
          if (!any(g * value_group, value_group))
            spoil(spoiled.value, j * spoiled.value_stride() + int64_t{g} * shape.pages.d_v,
                  shape.pages.d_v);
        }
      }
    }
    spoiled.append(1);
    for (const AttentionMethod* method : attention_methods()) {
      SCOPED_TRACE(method->name());
      const Output expected = batch.run(*method, 1, ColumnMass::kYes);
      for (const int threads : {1, 2, 3}) {
        const Output found = spoiled.run(*method, threads, ColumnMass::kYes);
        EXPECT_EQ(expected.values, found.values);
        EXPECT_EQ(expected.log_sum_exp, found.log_sum_exp);
        EXPECT_EQ(expected.column_mass, found.column_mass);
        EXPECT_EQ(expected.magnitudes, found.magnitudes);
        EXPECT_EQ(expected.values, spoiled.run(*method, threads).values);
      }
    }
  }
}

// Queries that select leave out dead heads, too, and count nothing of them.
TEST(Selecting, DeadHeads) {
  uint32_t seed = 2700;
  for (const PageType& type : {PageType{DType::kF32}, PageType{DType::kI8, {8, 4, 8}}}) {
    for (const AttentionShape& shape :
         {shape_of(6, 6, 16, 16), shape_of(6, 2, 16, 16), summed_shape(6, 2, 16, 40)}) {
      const Case c{.shape = in_pages(type, with({kLargest, {.below = 0.1}}, shape)),
                   .lengths = {{1, 200}, {1, 30}, {1, 130}},
                   .seed = ++seed,
                   .live_heads = some_heads(shape.query_heads)};
      Batch batch(c);
      const Output expected = batch.run(oracle(), 2, ColumnMass::kYes);
      for (size_t s = 0; s < 3; ++s) {
        for (size_t h = 0; h < 6; ++h) {
          const CacheReads& reads = expected.reads[s * 6 + h];
          EXPECT_EQ(c.live_heads[s][h] != 0, reads.value_numbers > 0);
        }
      }
      for_each_fast_method([&](const AttentionMethod& method) {
        const Output found = batch.run(method, 2, ColumnMass::kYes);
        // Values of numbers around 1, sums of at most 200 of them.
        const std::vector<double> slack(expected.values.size(), 1e-4);
        expect_near(expected.values, found.values, slack);
        expect_near(expected.magnitudes, found.magnitudes,
                    std::vector<double>(expected.magnitudes.size(), 1e-3));
        expect_near(expected.column_mass, found.column_mass,
                    std::vector<double>(expected.column_mass.size(), 1e-4));
        EXPECT_EQ(expected.reads, found.reads);
      });
    }
  }
}

class Teams : public ::testing::TestWithParam<AttentionShape> {};

TEST_P(Teams, OfAnySizeGiveTheSameBits) {
  const AttentionShape shape = GetParam();
  for (const std::vector<Length>& lengths :
       std::vector<std::vector<Length>>{{{200, 200}, {1, 150}, {30, 31}},
                                        {{1, 500}},
                                        {{400, 400}},
                                        {{0, 0}},
                                        {{1, 2100}, {3, 1300}, {200, 600}, {1, 512}}}) {
    Batch batch({.shape = shape, .lengths = lengths, .seed = 900});
    for (const AttentionMethod* method : attention_methods()) {
      // It is slow, and deals what it deals whatever the lengths.
      if (method == &oracle() && lengths.front().keys > 1000) continue;
      const Output one = batch.run(*method, 1);
      for (int threads : {2, 3, 4}) {
        const Output more = batch.run(*method, threads);
        EXPECT_EQ(one.values, more.values) << method->name();
        EXPECT_EQ(one.log_sum_exp, more.log_sum_exp) << method->name();
      }
      const Output with_mass = batch.run(*method, 1, ColumnMass::kYes);
      for (int threads : {2, 3}) {
        const Output more = batch.run(*method, threads, ColumnMass::kYes);
        EXPECT_EQ(one.values, more.values) << method->name();
        EXPECT_EQ(with_mass.column_mass, more.column_mass) << method->name();
        EXPECT_EQ(with_mass.magnitudes, more.magnitudes) << method->name();
      }
    }
  }
}

AttentionShape causal(AttentionShape shape, int32_t window = 0) {
  shape.mask = Mask::kCausal;
  shape.window = window;
  return shape;
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, Teams,
    ::testing::Values(causal(shape_of(6, 2, 40, 40)), causal(shape_of(8, 1, 16, 16)),
                      causal(shape_of(2, 2, 16, 16), 1100),
                      in_pages({DType::kI8}, causal(shape_of(6, 2, 40, 40))),
                      causal(summed_shape(6, 2, 40, 200)), causal(summed_shape(6, 2, 40, 200), 90),
                      summed_shape(4, 4, 40, 130),
                      in_pages({DType::kI8, {8, 4, 8}},
                               with({kLargest, {.below = 0.05}}, causal(shape_of(6, 2, 40, 40)))),
                      with({kAbove}, summed_shape(4, 2, 40, 130))),
    [](const auto& info) {
      const AttentionShape& shape = info.param;
      const PageShape& pages = shape.pages;
      std::string text = std::to_string(shape.query_heads) + "_heads_on_" +
                         std::to_string(pages.kv_heads) + "_" + std::string(name(pages.dtype)) +
                         (shape.selects() ? "_selecting" : "") + "_" + std::to_string(pages.d_k) +
                         "_to_" + std::to_string(pages.d_v);
      if (shape.mask == Mask::kCausal) text += "_causal";
      if (shape.window > 0) text += "_window_" + std::to_string(shape.window);
      if (shape.outputs == HeadOutputs::kSummed) text += "_summed";
      return text;
    });

// A sequence gives the same bits in any company.
TEST(Attention, OtherSequencesOfABatchDoNotMatter) {
  AttentionShape shape = shape_of(4, 2, 16, 16);
  shape.mask = Mask::kCausal;
  for (const Length& length : std::vector<Length>{{1, 900}, {30, 700}, {150, 150}}) {
    Batch alone({.shape = shape, .lengths = {length}, .seed = 950});
    Batch together({.shape = shape, .lengths = {length, {1, 1}, {200, 1500}}, .seed = 951});
    std::copy(alone.query.begin(), alone.query.end(), together.query.begin());
    std::copy(alone.key.begin(), alone.key.end(), together.key.begin());
    std::copy(alone.value.begin(), alone.value.end(), together.value.begin());
    together.append(1);
    for_each_fast_method([&](const AttentionMethod& method) {
      const Output one = alone.run(method, 1), all = together.run(method, 1);
      EXPECT_TRUE(std::equal(one.values.begin(), one.values.end(), all.values.begin()));
    });
  }
}

TEST(Attention, OrderOfPagesDoesNotMatter) {
  Batch batch({.shape = shape_of(4, 2, 32, 32), .lengths = {{60, 700}, {5, 128}}, .seed = 1000});
  const Exact exact = batch.exact();
  const Output before = batch.run(oracle(), 1);
  batch.permute_pages(1001);
  for_each_fast_method([&](const AttentionMethod& method) {
    expect_near(before.values, batch.run(method, 1).values, exact.values_slack);
  });
}

// What lies behind the last key, or is masked, has no influence.
TEST(Attention, LaterKeysDoNotMatter) {
  AttentionShape shape = shape_of(2, 1, 16, 16);
  shape.mask = Mask::kCausal;
  Batch batch({.shape = shape, .lengths = {{100, 100}}, .seed = 1100});
  for_each_fast_method([&](const AttentionMethod& method) {
    const Output before = batch.run(method, 1);
    auto* page = reinterpret_cast<float*>(batch.tables()[0].pages[1]);
    const std::vector<float> kept(page, page + shape.pages.page_bytes() / 4);
    for (int32_t token = 70 - 64; token < 64; ++token) {
      for (int32_t d = 0; d < 16; ++d) {
        page[shape.pages.keys_at(0) / 4 + d * kPageTokens + token] = 50;
        page[shape.pages.values_at(0) / 4 + token * 16 + d] = 1e30f;
      }
    }
    const Output after = batch.run(method, 1);
    std::copy(kept.begin(), kept.end(), page);
    const auto row = static_cast<std::ptrdiff_t>(after.values.size() / 100);
    EXPECT_TRUE(
        std::equal(before.values.begin(), before.values.begin() + 70 * row, after.values.begin()));
    EXPECT_NE(before.values, after.values);
  });
}

TEST(Attention, WorkspaceOfALargerBatchIsEnough) {
  for (const AttentionMethod* method : attention_methods()) {
    const AttentionShape shape = shape_of(2, 1, 64, 64);
    int64_t before = 0;
    for (int32_t keys = 1; keys < 40000; keys += 97) {
      const int64_t bytes = method->cost(shape, 10, keys).workspace_bytes;
      ASSERT_GE(bytes, before) << method->name() << ", keys " << keys;
      before = bytes;
    }
  }
}

TEST(Attention, RefusesShapesOutsideTheContract) {
  const auto refused = [](const AttentionShape& shape, const char* expected, const char* found) {
    for (const AttentionMethod* method : attention_methods()) {
      const Status status = method->check(shape);
      EXPECT_EQ(status.code(), StatusCode::kUnsupported);
      EXPECT_NE(status.message().find(expected), std::string::npos) << status.message();
      EXPECT_NE(status.message().find(found), std::string::npos) << status.message();
    }
  };
  refused(shape_of(4, 2, 257, 64), "1 to 256", "257");
  refused(shape_of(4, 2, 64, 300), "1 to 256", "300");
  refused(shape_of(4, 2, 0, 64), "1 to 256", "found 0");
  refused(shape_of(5, 2, 64, 64), "multiple of the 2", "found 5");
  refused(shape_of(0, 2, 64, 64), "multiple of the 2", "found 0");
  refused(shape_of(4, 0, 64, 64), "multiple of the 0", "found 4");
  refused(summed_shape(4, 2, 64, 65537), "1 to 65536", "65537");
  AttentionShape shape = summed_shape(4, 2, 64, 64);
  shape.pages.value_heads = 2;
  refused(shape, "4 heads of values", "found 2");
  shape = shape_of(4, 2, 64, 64);
  shape.pages.value_heads = 4;
  refused(shape, "2 heads of values", "found 4");
  for (const IntegerBits& bits :
       {IntegerBits{5, 4, 8}, IntegerBits{8, 2, 8}, IntegerBits{8, 4, 0}}) {
    refused(in_pages({DType::kI8, bits}, shape_of(4, 2, 64, 64)), "4, 6 or 8 bits", "found");
  }
}

TEST(Attention, MethodsAreFoundByName) {
  for (const AttentionMethod* method : attention_methods()) {
    EXPECT_EQ(find_attention_method(method->name()), method);
    EXPECT_FALSE(method->summary().empty());
  }
  EXPECT_EQ(oracle().name(), "unfused");
  EXPECT_EQ(find_attention_method("none"), nullptr);
}

}  // namespace
}  // namespace tessera::testing
