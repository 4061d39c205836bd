#include "model/live_heads.h"

#include "model/record_testing.h"

namespace tessera {
namespace {

using testing::base;
using testing::kLayers;
using testing::kSettings;
using testing::largest;
using testing::OfHeads;
using testing::RandomModel;
using testing::Setting;

class HeadSetting : public ::testing::TestWithParam<Setting> {};

// A model whose heads leave is the one that does without what they give, within as much.
TEST_P(HeadSetting, HeadsLeave) {
  Architecture architecture = base();
  GetParam().set(architecture);
  const RandomModel model(architecture);
  const OfHeads<uint8_t> live = model.some_heads();
  if (architecture.layers[0].query_heads != architecture.layers[1].query_heads) {
    const auto refused = model.run(Dealing::kOwn, 1, &live);
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ("pass: expected 6 heads in every layer of a model whose heads leave, found 4",
              refused.status().message());
    return;
  }
  OfHeads<double> magnitudes;
  const std::vector<double> expected = model.reference(&live, &magnitudes);
  const double scale = largest(expected);
  for (const Dealing dealing : {Dealing::kOwn, Dealing::kShared}) {
    for (const int threads : {1, 3}) {
      SCOPED_TRACE(std::to_string(threads) + " threads, " +
                   (dealing == Dealing::kOwn ? "own" : "shared") + " rows");
      const auto found = model.run(dealing, threads, &live);
      ASSERT_TRUE(found.ok()) << found.status().message();
      ASSERT_EQ(found->logits.size(), expected.size());
      double difference = 0;
      for (size_t i = 0; i < expected.size(); ++i)
        difference = std::max(difference, std::abs(found->logits[i] - expected[i]));
      EXPECT_LE(difference, 1e-4 * scale);
      for (size_t layer = 0; layer < kLayers; ++layer) {
        for (size_t s = 0; s < 2; ++s) {
          for (size_t h = 0; h < live[layer][s].size(); ++h)
            EXPECT_NEAR(magnitudes[layer][s][h], found->magnitudes[layer][s][h],
                        1e-4 * largest(magnitudes[layer][s]));
        }
      }
    }
  }
}

// Where every head stays no bit differs.
TEST_P(HeadSetting, HeadsThatStayChangeNothing) {
  Architecture architecture = base();
  GetParam().set(architecture);
  const RandomModel model(architecture);
  OfHeads<uint8_t> live = model.some_heads();
  for (auto& layer : live) {
    for (std::vector<uint8_t>& heads : layer) std::fill(heads.begin(), heads.end(), uint8_t{1});
  }
  const auto all = model.run(Dealing::kOwn, 2, &live), dense = model.run(Dealing::kOwn, 2);
  if (!all.ok()) return;  // refused, see above
  EXPECT_EQ(dense->logits, all->logits);
}

INSTANTIATE_TEST_SUITE_P(All, HeadSetting, ::testing::ValuesIn(kSettings),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace tessera
