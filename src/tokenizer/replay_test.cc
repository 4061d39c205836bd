// Tokenizers that stopped other readers, each by its name.
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "tokenizer/testing.h"

namespace tessera::tokenizer {
namespace {

namespace fs = std::filesystem;

constexpr const char* kModel = R"({"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []})";

// One text is an error, and the next one is encoded as ever.
void expect_one_error(const Parts& parts, const std::string& bad, const std::string& says) {
  const auto made = load(parts);
  ASSERT_TRUE(made.ok()) << made.status().message();
  for (int turn = 0; turn < 2; ++turn) {
    const auto refused = (*made)->encode({bad});
    ASSERT_FALSE(refused.ok());
    EXPECT_NE(refused.status().message().find(says), std::string::npos)
        << refused.status().message();
    const auto next = (*made)->encode({"b"});
    ASSERT_TRUE(next.ok()) << next.status().message();
    EXPECT_EQ(next->ids, std::vector<int32_t>{1});
  }
}

TEST(Replay, ASplitPatternThatExplodesIsAnErrorAndTheNextTextWorks) {
  Parts parts;
  parts.model = kModel;
  for (const char* pattern : {"(a+)+$", "(a|aa)+$", "(.*a){20}$"}) {
    parts.pre_tokenizer = fmt::format(
        R"({{"type": "Split", "behavior": "Isolated", "pattern": {{"Regex": "{}"}}}})", pattern);
    expect_one_error(parts, std::string(60, 'a') + "b", "match limit exceeded");
  }
}

TEST(Replay, AReplacePatternThatExplodesIsAnErrorAndTheNextTextWorks) {
  Parts parts;
  parts.model = kModel;
  parts.normalizer = R"({"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""})";
  expect_one_error(parts, std::string(60, 'a') + "b", "match limit exceeded");
}

TEST(Replay, ANormalizerThatGrowsTextWithoutEndIsAnErrorAndTheNextTextWorks) {
  Parts parts;
  parts.model = kModel;
  std::string steps;
  for (int i = 0; i < 64; ++i) {
    steps += std::string(i == 0 ? "" : ", ") +
             R"({"type": "Replace", "pattern": {"String": "a"}, "content": "aaaaaaaa"})";
  }
  parts.normalizer = R"({"type": "Sequence", "normalizers": [)" + steps + "]}";
  expect_one_error(parts, "a", "expected text of at most 268435456 bytes");
}

TEST(Replay, AFileSwappedForAFifoOrADeviceIsRefused) {
  const fs::path folder =
      fs::path(::testing::TempDir()) / fmt::format("tokenizer_replay_{}", getpid());
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "tokenizer.model"}) {
    fs::remove_all(folder);
    fs::create_directories(folder);
    ASSERT_EQ(mkfifo((folder / name).c_str(), 0600), 0);
    const auto fifo = Tokenizer::open(folder.string());
    ASSERT_FALSE(fifo.ok());
    EXPECT_NE(fifo.status().message().find("found a FIFO"), std::string::npos)
        << fifo.status().message();
    fs::remove(folder / name);
    fs::create_symlink("/dev/zero", folder / name);
    const auto device = Tokenizer::open(folder.string());
    ASSERT_FALSE(device.ok());
    EXPECT_NE(device.status().message().find("found a device"), std::string::npos)
        << device.status().message();
  }
  fs::remove_all(folder);
}

TEST(Replay, AGitLfsPointerInPlaceOfATokenizerIsNamed) {
  const fs::path folder =
      fs::path(::testing::TempDir()) / fmt::format("tokenizer_lfs_{}", getpid());
  for (const char* name : {"tokenizer.json", "tokenizer.model", "vocab.txt"}) {
    fs::remove_all(folder);
    fs::create_directories(folder);
    std::ofstream(folder / name) << "version https://git-lfs.github.com/spec/v1\noid sha256:0\n";
    const auto made = Tokenizer::open(folder.string());
    ASSERT_FALSE(made.ok());
    EXPECT_NE(made.status().message().find("a Git LFS pointer"), std::string::npos)
        << made.status().message();
  }
  fs::remove_all(folder);
}

}  // namespace
}  // namespace tessera::tokenizer
