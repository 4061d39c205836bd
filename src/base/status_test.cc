#include "base/status.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>

namespace tessera {
namespace {

TEST(Result, HoldsAValueOrAStatus) {
  const Result<std::string> text = std::string("abc");
  ASSERT_TRUE(text.ok());
  EXPECT_EQ(*text, "abc");
  EXPECT_EQ(text->size(), 3u);
  const Result<std::string> none = not_found("expected a file, found none");
  EXPECT_FALSE(none.ok());
  EXPECT_EQ(none.status().code(), StatusCode::kNotFound);
}

TEST(Result, GivesItsValueAway) {
  Result<std::unique_ptr<int>> number = std::make_unique<int>(7);
  const std::unique_ptr<int> taken = *std::move(number);
  EXPECT_EQ(*taken, 7);
}

TEST(ResultDeathTest, AbortsWithTheMessageWhereThereIsNoValue) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  Result<std::string> none = not_found("expected a file, found none");
  const Result<std::string>& constant = none;
  constexpr const char* kSays = "tessera: .*: expected a file, found none";
  EXPECT_DEATH((void)*none, kSays);
  EXPECT_DEATH((void)none->size(), kSays);
  EXPECT_DEATH((void)none.value(), kSays);
  EXPECT_DEATH((void)*constant, kSays);
  EXPECT_DEATH((void)constant->size(), kSays);
  EXPECT_DEATH((void)std::string(std::move(none).value()), kSays);
}

}  // namespace
}  // namespace tessera
