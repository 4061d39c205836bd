#include "tessera/names.h"

#include <gtest/gtest.h>

#include <sstream>

#include "base/status.h"

// That every public enum has its names is a test of the headers: tests/install.
namespace tessera {
namespace {

enum class Colour { kRed, kGreen, kBlue };
constexpr auto names_of(Colour) { return enum_names("red", "green", "blue"); }
enum class Nameless { kA };

TEST(Names, GoBothWays) {
  EXPECT_EQ(name(Colour::kGreen), "green");
  EXPECT_EQ(parse<Colour>("blue"), Colour::kBlue);
  EXPECT_FALSE(parse<Colour>("Blue").has_value());
  EXPECT_FALSE(parse<Colour>("").has_value());
  EXPECT_EQ(names<Colour>(), "red, green or blue");
  EXPECT_EQ(name(static_cast<Colour>(3)), "unknown");
  static_assert(name(StatusCode::kNotFound) == "not_found");
  static_assert(!Named<Nameless> && !Named<int>);
}

TEST(Names, AreWrittenToStreams) {
  std::ostringstream out;
  out << Colour::kRed << " " << StatusCode::kIo;
  EXPECT_EQ(out.str(), "red io");
}

}  // namespace
}  // namespace tessera
