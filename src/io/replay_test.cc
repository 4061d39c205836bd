// Files that broke other readers, each by its name.
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <vector>

#include "io/checkpoint.h"
#include "io/compressed.h"
#include "io/mapped_file.h"
#include "io/testing.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;
using testing::expect_message;
using testing::safetensors_bytes;
using testing::TempDir;

Result<SafetensorsContents> parse(const std::string& header, size_t data_bytes) {
  return parse_safetensors(safetensors_bytes(header, std::string(data_bytes, '\1')), "m");
}

// (2^62 + 1) x 4 values of 4 bytes are 16 bytes, counted in 64 bits.
TEST(Replay, AShapeProductThatWrapsTo16BytesIsRefused) {
  for (const char* shape : {"[4611686018427387905, 4]", "[4, 4611686018427387905]",
                            "[2, 4611686018427387905, 2]", "[4294967296, 4294967296, 4]"}) {
    for (const char* dtype : {"F32", "U32"}) {
      const std::string header = std::string(R"({"a":{"dtype":")") + dtype + R"(","shape":)" +
                                 shape + R"(,"data_offsets":[0,16]}})";
      expect_message(parse(header, 16).status(), {"\"a\"", "63 bits can count"});
    }
  }
}

TEST(Replay, ZeroSizeTensorsThatShareOffsetsAreRead) {
  const auto contents = parse(R"({"a":{"dtype":"F32","shape":[0],"data_offsets":[4,4]},)"
                              R"("b":{"dtype":"F32","shape":[0, 7],"data_offsets":[4,4]},)"
                              R"("c":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                              R"("d":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
                              8);
  ASSERT_TRUE(contents.ok()) << contents.status().message();
  EXPECT_EQ(contents->tensors.size(), 4u);
  EXPECT_EQ(contents->tensors.at("a").size_bytes, 0u);
  EXPECT_EQ(contents->tensors.at("d").size_bytes, 4u);
  // Only those of no bytes may share.
  expect_message(parse(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                       R"("b":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})",
                       4)
                     .status(),
                 {"an overlap"});
}

// "w" is 16 x 16 in one tile.
class ReplayOneTile : public ::testing::Test {
 protected:
  Status read(const std::string& shape, DType values, DType offsets) {
    dir_.put("config.json", R"({"tessera": {"format": 1, "tensors": {"w": {"format": "tiles",
             "shape": )" + shape +
                                R"(, "tile": [16, 16]}}}})");
    const std::vector<char> memory(16 * 16 * 4, '\0');
    const std::vector<int32_t> bounds = {0, 1};
    const std::vector<TensorToWrite> tensors = {{"w.tiles", values, {1, 16, 16}, memory.data()},
                                                {"w.tile_offsets", offsets, {2}, bounds.data()},
                                                {"w.tile_columns", offsets, {1}, memory.data()}};
    EXPECT_TRUE(write_safetensors(dir_ / "model.safetensors", tensors).ok());
    const auto checkpoint = Checkpoint::open(dir_.path());
    if (!checkpoint.ok()) return checkpoint.status();
    const auto formats = TensorFormats::read(checkpoint->config());
    if (!formats.ok()) return formats.status();
    return read_matrix(*checkpoint, *formats, "w", {nullptr, DType::kF32, -1, -1}).status();
  }

  TempDir dir_;
};

TEST_F(ReplayOneTile, ACompressedPartOfTheRightCountAndTheWrongDtypeIsRefused) {
  EXPECT_TRUE(read("[16, 16]", DType::kF32, DType::kI32).ok());
  expect_message(read("[16, 16]", DType::kI32, DType::kI32), {"w.tiles", "found I32"});
  expect_message(read("[16, 16]", DType::kF32, DType::kF32), {"w.tile_offsets", "found F32"});
}

TEST_F(ReplayOneTile, Dimension0IsRefused) {
  for (const char* shape : {"[0, 16]", "[16, 0]", "[0, 0]"})
    expect_message(read(shape, DType::kF32, DType::kI32), {"shape", "found 0"});
}

TEST(Replay, Dimension0OfATensorIsNotTheShapeThatAModelNeeds) {
  const TempDir dir;
  dir.put("config.json", "{}");
  dir.put("model.safetensors",
          safetensors_bytes(R"({"w":{"dtype":"F32","shape":[0,16],"data_offsets":[0,0]}})"));
  const auto checkpoint = Checkpoint::open(dir.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  expect_message(checkpoint->tensor("w", {16, 16}).status(),
                 {"expected shape [16, 16]", "[0, 16]"});
}

// Whoever waits for a FIFO's writer, or reads all of a device, does not come back.
TEST(Replay, AFileSwappedForAFifoOrADeviceIsRefused) {
  const TempDir dir;
  for (const char* name : {"model.safetensors", "config.json", "generation_config.json"}) {
    dir.put("config.json", "{}");
    dir.put("model.safetensors", safetensors_bytes("{}"));
    dir.put("generation_config.json", "{}");
    ASSERT_TRUE(Checkpoint::open(dir.path()).ok());
    fs::remove(dir / name);
    ASSERT_EQ(mkfifo((dir / name).c_str(), 0600), 0);
    expect_message(Checkpoint::open(dir.path()).status(),
                   {name, "expected a regular file, found a FIFO"});
    fs::remove(dir / name);
    fs::create_symlink("/dev/zero", dir / name);
    expect_message(Checkpoint::open(dir.path()).status(), {name, "found a device"});
    fs::remove(dir / name);
  }
  EXPECT_FALSE(read_text_file("/dev/zero", 10).ok());
}

}  // namespace
}  // namespace tessera
