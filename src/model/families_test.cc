#include "model/families/families.h"

#include <gtest/gtest.h>

#include "io/testing.h"

namespace tessera {
namespace {

using Rotates = RotaryDefaults::Rotates;

Config config(const std::string& json) {
  auto parsed = Config::parse(json, "here");
  EXPECT_TRUE(parsed.ok()) << parsed.status().message();
  return std::move(parsed).value();
}

std::string with_share(const std::string& share) {
  return R"({"partial_rotary_factor": )" + share + "}";
}

TEST(Rotary, ShareOfAHead) {
  const Config half = config(R"({"rope_parameters": {"partial_rotary_factor": 0.5}})");
  const auto rotary = read_rotary(half, {.theta = 100, .rotates = Rotates::kShareOfHeads}, 8);
  ASSERT_TRUE(rotary.ok()) << rotary.status().message();
  // The exponents count the elements that are rotated: 100^(-2j/4).
  EXPECT_EQ(rotary->inverse_frequencies, (std::vector<float>{1, 0.1f}));
  EXPECT_EQ(rotary->rotated(), 4);

  testing::expect_message(read_rotary(half, {}, 8).status(), {"partial_rotary_factor", "0.5"});
  for (const char* share : {"0", "-1", "1.5", "1e300"}) {
    const Config wrong = config(with_share(share));
    testing::expect_message(read_rotary(wrong, {.rotates = Rotates::kShareOfHeads}, 8).status(),
                            {"partial_rotary_factor"});
  }
  testing::expect_message(
      read_rotary(config(with_share("0.4")), {.rotates = Rotates::kShareOfHeads}, 8).status(),
      {"an even number", "3 of 8"});
}

}  // namespace
}  // namespace tessera
