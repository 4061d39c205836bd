#include "io/checkpoint.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>

#include "io/testing.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;
using testing::expect_message;
using testing::safetensors_bytes;
using testing::TempDir;

// A file of one tensor of two values.
std::string one_tensor(const std::string& name, const std::string& dtype = "F32", int bytes = 8) {
  return safetensors_bytes("{\"" + name + "\":{\"dtype\":\"" + dtype +
                               "\",\"shape\":[2],\"data_offsets\":[0," + std::to_string(bytes) +
                               "]}}",
                           std::string(static_cast<size_t>(bytes), '\1'));
}

std::string index_of(const std::string& weight_map) {
  return "{\"metadata\":{},\"weight_map\":" + weight_map + "}";
}

class CheckpointTest : public ::testing::Test {
 protected:
  CheckpointTest() { dir_.put("config.json", R"({"model_type":"bert"})"); }

  void put_index(const std::string& weight_map) {
    dir_.put("model.safetensors.index.json", index_of(weight_map));
  }
  Result<Checkpoint> open() const { return Checkpoint::open(dir_.path()); }
  Status error() const { return open().status(); }

  TempDir dir_;
};

TEST_F(CheckpointTest, SingleFile) {
  dir_.put("model.safetensors", one_tensor("w"));
  dir_.put("generation_config.json", R"({"eos_token_id":[1,2]})");
  const Result<Checkpoint> checkpoint = open();
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  EXPECT_EQ(checkpoint->directory(), dir_.path());
  EXPECT_EQ(*checkpoint->config().string("model_type"), "bert");
  EXPECT_EQ(checkpoint->generation_config().integers("eos_token_id")->size(), 2u);
  EXPECT_EQ(checkpoint->names(), std::vector<std::string>{"w"});
  EXPECT_EQ(checkpoint->tensor_count(), 1);
  EXPECT_EQ(checkpoint->size_bytes(), one_tensor("w").size());
  EXPECT_TRUE(checkpoint->has("w"));
  EXPECT_FALSE(checkpoint->has("v"));
  const Result<TensorView> view = checkpoint->tensor("w", {2});
  ASSERT_TRUE(view.ok());
  EXPECT_EQ(view->size_bytes, 8u);
  checkpoint->release(*view);
  EXPECT_EQ(static_cast<const char*>(view->data)[7], '\1');
}

TEST_F(CheckpointTest, GenerationConfigIsOptional) {
  dir_.put("model.safetensors", one_tensor("w"));
  EXPECT_TRUE(open()->generation_config().keys().empty());
  dir_.put("generation_config.json", "{");
  expect_message(error(), {"generation_config.json: expected valid JSON"});
}

TEST_F(CheckpointTest, Shards) {
  put_index(R"({"a":"s1.safetensors","b":"s2.safetensors"})");
  dir_.put("s1.safetensors", one_tensor("a"));
  dir_.put("s2.safetensors", one_tensor("b"));
  const Result<Checkpoint> checkpoint = open();
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  EXPECT_EQ(checkpoint->names(), (std::vector<std::string>{"a", "b"}));
  for (const char* name : {"a", "b"}) {
    const Result<TensorView> view = checkpoint->tensor(name, {-1});
    ASSERT_TRUE(view.ok());
    checkpoint->release(*view);
  }
}

TEST_F(CheckpointTest, ViewsLiveAsLongAsACopy) {
  dir_.put("model.safetensors", one_tensor("w"));
  Checkpoint copy = *open();
  const Result<TensorView> view = copy.tensor("w", {2});
  EXPECT_EQ(static_cast<const char*>(view->data)[0], '\1');
}

TEST_F(CheckpointTest, MissingShardsAreNamed) {
  put_index(R"({"a":"s1.safetensors","b":"s2.safetensors"})");
  dir_.put("s1.safetensors", one_tensor("a"));
  expect_message(error(), {"expected the shard \"s2.safetensors\", found no such file"});
}

TEST_F(CheckpointTest, ShardsArePlainNames) {
  for (const char* name :
       {"../x.safetensors", "/etc/passwd", "sub/x.safetensors", "..", ".", "", "a\\u0000b"}) {
    put_index(std::string(R"({"a":")") + name + "\"}");
    expect_message(error(), {"weight_map: expected plain file names inside the directory"});
  }
  put_index(R"({"a":")" + std::string(300, 'x') + "\"}");
  expect_message(error(), {"expected plain file names"});
}

// A farm of links; and, as Kubernetes mounts files, links to a folder that is a link itself.
TEST_F(CheckpointTest, LinksAreFollowedWhereverTheyLead) {
  const TempDir elsewhere;
  elsewhere.put("s.safetensors", one_tensor("a"));
  put_index(R"({"a":"s.safetensors"})");
  fs::create_symlink(elsewhere / "s.safetensors", dir_ / "s.safetensors");
  EXPECT_TRUE(open().ok()) << error().message();
  fs::remove(dir_ / "s.safetensors");
  dir_.put("..2026_01/s.safetensors", one_tensor("a"));
  fs::create_directory_symlink("..2026_01", dir_ / "..data");
  fs::create_symlink("..data/s.safetensors", dir_ / "s.safetensors");
  EXPECT_TRUE(open().ok()) << error().message();
}

TEST_F(CheckpointTest, LinksThatLeadNowhereAreNamed) {
  put_index(R"({"a":"s.safetensors"})");
  fs::create_symlink("../../blobs/0123", dir_ / "s.safetensors");
  expect_message(error(), {"s.safetensors", "a link that leads nowhere (to ../../blobs/0123)"});
  fs::remove(dir_ / "model.safetensors.index.json");
  fs::create_symlink("gone", dir_ / "model.safetensors");
  expect_message(error(), {"model.safetensors", "a link that leads nowhere (to gone)"});
  fs::remove(dir_ / "model.safetensors");
  dir_.put("model.safetensors", one_tensor("a"));
  fs::remove(dir_ / "config.json");
  fs::create_symlink("gone", dir_ / "config.json");
  expect_message(error(), {"config.json", "a link that leads nowhere (to gone)"});
}

TEST_F(CheckpointTest, ShardsWithoutTheirIndexAreNamed) {
  dir_.put("model-00001-of-00002.safetensors", one_tensor("a"));
  expect_message(error(), {"model.safetensors.index.json", "\"model-00001-of-00002.safetensors\"",
                           "fetch the index"});
}

TEST_F(CheckpointTest, WeightsOfOtherNamesAreNamedWithTheWayOut) {
  const std::pair<const char*, const char*> files[] = {
      {"consolidated.safetensors", "Mistral's own format"},
      {"model.fp16.safetensors", "rename it to model.safetensors"},
      {"adapter.safetensors", "found \"adapter.safetensors\" alone"},
      {"openvino_model.bin", "fetch the weights that it was made from"},
      {"rust_model.ot", "fetch the weights that it was made from"},
      {"onnx/model.onnx", "found \"onnx\": fetch the weights"},
  };
  for (const auto& [name, advice] : files) {
    const std::string path = dir_.put(name, "");
    expect_message(error(), {"expected model.safetensors", advice});
    EXPECT_EQ(error().message().find("fetch the index"), std::string::npos) << name;
    fs::remove_all(dir_ / fs::path(name).begin()->string());
  }
}

// A compressed directory's tensors have a name of their own, and had a plain model's before.
TEST_F(CheckpointTest, CompressedTensorsHaveAFileOfTheirOwn) {
  dir_.put("tessera.safetensors", one_tensor("new"));
  expect_message(error(), {"expected model.safetensors", "tessera.safetensors"});
  dir_.put("config.json", R"({"tessera": {}})");
  EXPECT_EQ(open()->names(), std::vector<std::string>{"new"});
  dir_.put("model.safetensors", one_tensor("old"));
  EXPECT_EQ(open()->names(), std::vector<std::string>{"new"});
  dir_.put("config.json", "{}");
  EXPECT_EQ(open()->names(), std::vector<std::string>{"old"});
  fs::remove(dir_ / "tessera.safetensors");
  dir_.put("config.json", R"({"tessera": {}})");
  EXPECT_EQ(open()->names(), std::vector<std::string>{"old"});
}

TEST_F(CheckpointTest, TensorsOfDtypesWithoutUseAreInNobodysWay) {
  dir_.put("model.safetensors",
           safetensors_bytes(R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                             R"("z":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[8,10]}})",
                             "1234567890"));
  const auto checkpoint = open();
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  EXPECT_TRUE(checkpoint->tensor("w", {2}).ok());
  EXPECT_EQ(checkpoint->names(), std::vector<std::string>{"w"});
  // One that is needed is not taken for missing.
  EXPECT_TRUE(checkpoint->has("z"));
  expect_message(checkpoint->tensor("z", {2}).status(),
                 {"tensor \"z\": expected F32, F16 or BF16, found F8_E4M3"});
}

TEST_F(CheckpointTest, ALinkWithinTheDirectoryIsFollowed) {
  put_index(R"({"a":"s.safetensors"})");
  dir_.put("real.safetensors", one_tensor("a"));
  fs::create_symlink("real.safetensors", dir_ / "s.safetensors");
  EXPECT_TRUE(open().ok()) << error().message();
}

// Nothing tells a hard link from a file: whoever made it could as well have made a copy, and it
// opens with the rights of the user alone.
TEST_F(CheckpointTest, AHardLinkIsAFile) {
  const TempDir elsewhere;
  elsewhere.put("s.safetensors", one_tensor("a"));
  put_index(R"({"a":"s.safetensors"})");
  fs::create_hard_link(elsewhere / "s.safetensors", dir_ / "s.safetensors");
  EXPECT_TRUE(open().ok()) << error().message();
}

TEST_F(CheckpointTest, ALinkedFolderIsNoShard) {
  const TempDir elsewhere;
  elsewhere.put("s.safetensors", one_tensor("a"));
  fs::create_directory_symlink(elsewhere.path(), dir_ / "folder");
  put_index(R"({"a":"folder/s.safetensors"})");
  expect_message(error(), {"expected plain file names inside the directory"});
  put_index(R"({"a":"folder"})");
  expect_message(error(), {"folder: expected a regular file, found a directory"});
}

TEST_F(CheckpointTest, TheUsersOwnLinksAreFollowed) {
  const TempDir elsewhere;
  elsewhere.put("m", one_tensor("a"));
  fs::create_symlink(elsewhere / "m", dir_ / "model.safetensors");
  EXPECT_TRUE(open().ok()) << error().message();
  fs::create_directory_symlink(dir_.path(), elsewhere / "link");
  EXPECT_TRUE(Checkpoint::open(elsewhere / "link").ok());
}

// <cache>/models--x/{blobs/<hash>, snapshots/<revision>/<name> -> ../../blobs/<hash>}
TEST(CheckpointLayout, HubCache) {
  const TempDir cache;
  cache.put("x/blobs/0123", one_tensor("a"));
  cache.put("x/snapshots/r/config.json", "{}");
  cache.put("x/snapshots/r/model.safetensors.index.json", index_of(R"({"a":"s.safetensors"})"));
  const std::string snapshot = cache / "x/snapshots/r";
  fs::create_symlink("../../blobs/0123", snapshot + "/s.safetensors");
  EXPECT_TRUE(Checkpoint::open(snapshot).ok()) << Checkpoint::open(snapshot).status().message();
  EXPECT_TRUE(Checkpoint::open(snapshot + "/").ok());
}

// What a download that stopped leaves is named with the command that goes on.
TEST(CheckpointLayout, ASnapshotThatIsNotWholeSaysHowToFetchTheRest) {
  const TempDir cache;
  cache.put("models--acme--tiny/snapshots/r/config.json", "{}");
  const std::string snapshot = cache / "models--acme--tiny/snapshots/r";
  expect_message(Checkpoint::open(snapshot).status(),
                 {"found neither", "to fetch what is missing: hf download acme/tiny"});
  fs::create_symlink("../../blobs/0123", snapshot + "/model.safetensors");
  expect_message(Checkpoint::open(snapshot).status(), {"leads nowhere", "hf download acme/tiny"});
}

// A snapshot with one file is links alone, config.json among them.
TEST(CheckpointLayout, HubCacheOfASingleFile) {
  const TempDir cache;
  cache.put("x/blobs/0123", one_tensor("a"));
  cache.put("x/blobs/4567", "{}");
  const std::string snapshot = cache / "x/snapshots/r";
  fs::create_directories(snapshot);
  fs::create_symlink("../../blobs/0123", snapshot + "/model.safetensors");
  fs::create_symlink("../../blobs/4567", snapshot + "/config.json");
  EXPECT_TRUE(Checkpoint::open(snapshot).ok()) << Checkpoint::open(snapshot).status().message();
}

TEST_F(CheckpointTest, AShardThatIsADirectoryOrAFifo) {
  put_index(R"({"a":"s.safetensors"})");
  fs::create_directory(dir_ / "s.safetensors");
  expect_message(error(), {"s.safetensors: expected a regular file, found a directory"});
  fs::remove(dir_ / "s.safetensors");
  ASSERT_EQ(mkfifo((dir_ / "s.safetensors").c_str(), 0600), 0);
  expect_message(error(), {"s.safetensors: expected a regular file, found a FIFO"});
}

TEST_F(CheckpointTest, AnIndexThatIsADirectoryOrTooLarge) {
  const std::string index = dir_ / "model.safetensors.index.json";
  fs::create_directory(index);
  expect_message(error(), {"index.json: expected a regular file, found a directory"});
  fs::remove(index);
  dir_.put("model.safetensors.index.json", "{");
  ASSERT_EQ(truncate(index.c_str(), (int64_t{64} << 20) + 1), 0);  // sparse
  expect_message(error(), {"expected at most 67108864 bytes, found 67108865"});
}

TEST_F(CheckpointTest, DeepIndexes) {
  put_index(std::string(100'000, '[') + std::string(100'000, ']'));
  expect_message(error(), {"index.json", "expected JSON at most 64 levels deep"});
}

TEST_F(CheckpointTest, TheIndexNamesATensorThatTheShardLacks) {
  put_index(R"({"a":"s.safetensors","b":"s.safetensors"})");
  dir_.put("s.safetensors", one_tensor("a"));
  expect_message(
      error(),
      {"weight_map: expected tensor \"b\" in \"s.safetensors\", found none of that name there"});
}

TEST_F(CheckpointTest, TheIndexNamesTheWrongShard) {
  put_index(R"({"a":"s2.safetensors","b":"s1.safetensors"})");
  dir_.put("s1.safetensors", one_tensor("a"));
  dir_.put("s2.safetensors", one_tensor("b"));
  expect_message(error(), {"expected tensor \"a\" in \"s2.safetensors\""});
}

TEST_F(CheckpointTest, ATensorInTwoShards) {
  put_index(R"({"a":"s1.safetensors","b":"s2.safetensors"})");
  dir_.put("s1.safetensors", one_tensor("a"));
  dir_.put("s2.safetensors", one_tensor("a"));
  expect_message(error(),
                 {"tensor \"a\": expected it in one shard, found it in two", "s2.safetensors"});
}

TEST_F(CheckpointTest, MalformedIndexes) {
  const std::string file = "model.safetensors.index.json";
  dir_.put(file, "{");
  expect_message(error(), {file, "expected valid JSON"});
  dir_.put(file, "[]");
  expect_message(error(), {file, "weight_map: expected an object of file names, found nothing"});
  dir_.put(file, "{}");
  expect_message(error(), {"weight_map", "found nothing"});
  put_index("[1]");
  expect_message(error(), {"weight_map", "found [1]"});
  put_index(R"({"a":1})");
  expect_message(error(), {"weight_map: \"a\": expected a file name, found 1"});
  put_index(R"({"a":"s","a":"t"})");
  expect_message(error(), {"\"a\" twice"});
  put_index("{}");
  expect_message(error(), {"weight_map: expected at least one tensor, found none"});
}

TEST_F(CheckpointTest, ALyingShardIsNamed) {
  put_index(R"({"a":"s.safetensors"})");
  dir_.put("s.safetensors", one_tensor("a") + "x");
  expect_message(error(), {"s.safetensors: data: expected 8 bytes, as the tensors say, found 9"});
}

TEST_F(CheckpointTest, MissingTensorsGetTheNearestName) {
  dir_.put("model.safetensors", one_tensor("encoder.layer.0.weight"));
  const Status status = open()->tensor("encoder.layers.0.weight", {4, -1}).status();
  EXPECT_EQ(status.code(), StatusCode::kNotFound);
  expect_message(status, {dir_.path().native(), "tensor \"encoder.layers.0.weight\"",
                          "shape [4, any]", "the nearest is \"encoder.layer.0.weight\""});
  expect_message(open()->tensor("zzz", {1}).status(), {"no such name"});
}

TEST_F(CheckpointTest, TheNearestNameAmongManyIsFoundInBoundedTime) {
  std::string header = "{";
  for (int i = 0; i < 20000; ++i) {
    header += (i == 0 ? "\"" : ",\"") + std::to_string(i) + "." + std::string(1000, 'n') +
              R"(":{"dtype":"F32","shape":[0],"data_offsets":[0,0]})";
  }
  dir_.put("model.safetensors", safetensors_bytes(header + "}"));
  const Result<Checkpoint> checkpoint = open();
  ASSERT_TRUE(checkpoint.ok());
  const clock_t start = clock();
  EXPECT_FALSE(checkpoint->tensor(std::string(1000, 'm'), {0}).ok());
  EXPECT_FALSE(checkpoint->tensor(std::string(1 << 20, 'm'), {0}).ok());
  EXPECT_LT(static_cast<double>(clock() - start) / CLOCKS_PER_SEC, 20.0);
}

TEST_F(CheckpointTest, WrongShapes) {
  dir_.put("model.safetensors", one_tensor("w"));
  const Result<Checkpoint> checkpoint = open();
  expect_message(checkpoint->tensor("w", {3}).status(),
                 {"tensor \"w\": expected shape [3], found [2]"});
  expect_message(checkpoint->tensor("w", {2, -1}).status(), {"expected shape [2, any], found [2]"});
  expect_message(checkpoint->tensor("w", {}).status(), {"expected shape [], found [2]"});
  EXPECT_TRUE(checkpoint->tensor("w", {-1}).ok());
}

TEST_F(CheckpointTest, FloatingDtypesOnly) {
  for (const auto& [dtype, bytes] :
       {std::pair("F16", 4), std::pair("BF16", 4), std::pair("F32", 8)}) {
    dir_.put("model.safetensors", one_tensor("w", dtype, bytes));
    EXPECT_TRUE(open()->tensor("w", {2}).ok()) << dtype;
  }
  for (const auto& [dtype, bytes] :
       {std::pair("F64", 16), std::pair("I64", 16), std::pair("U8", 2)}) {
    dir_.put("model.safetensors", one_tensor("w", dtype, bytes));
    expect_message(open()->tensor("w", {2}).status(),
                   {"tensor \"w\": expected F32, F16 or BF16, found " + std::string(dtype)});
  }
}

TEST_F(CheckpointTest, OtherFormsOfWeightsAreNamed) {
  expect_message(error(),
                 {"expected model.safetensors or model.safetensors.index.json, found neither"});
  dir_.put("pytorch_model.bin", "x");
  expect_message(error(), {"found \"pytorch_model.bin\": convert it to safetensors"});
  EXPECT_EQ(error().code(), StatusCode::kUnsupported);
  fs::remove(dir_ / "pytorch_model.bin");
  fs::remove(dir_ / "config.json");
  dir_.put("model-q4.gguf", "x");
  expect_message(error(), {"\"model-q4.gguf\"", "llama.cpp"});
}

TEST_F(CheckpointTest, MissingConfig) {
  dir_.put("model.safetensors", one_tensor("w"));
  fs::remove(dir_ / "config.json");
  expect_message(error(), {"expected config.json beside the weights, found none"});
}

TEST_F(CheckpointTest, MalformedConfig) {
  dir_.put("model.safetensors", one_tensor("w"));
  dir_.put("config.json", "{\"a\":}");
  expect_message(error(), {"config.json: expected valid JSON"});
}

TEST(CheckpointLayout, PathsThatAreNoDirectory) {
  const TempDir dir;
  expect_message(
      Checkpoint::open(dir.put("m.safetensors", "x")).status(),
      {"m.safetensors: expected a directory with config.json and model.safetensors, found a file"});
  expect_message(Checkpoint::open(dir / "gone").status(),
                 {"gone: expected a directory", "found nothing"});
  EXPECT_FALSE(Checkpoint::open("").ok());
  EXPECT_FALSE(Checkpoint::open(std::string(100'000, 'x')).ok());
}

Result<TensorView> of_any_shape(const Checkpoint& checkpoint, const std::string& name) {
  std::vector<int64_t> shape;
  while (true) {
    Result<TensorView> view = checkpoint.tensor(name, shape);
    if (view.status().code() != StatusCode::kInvalidInput || shape.size() == 4) return view;
    shape.push_back(-1);
  }
}

TEST(SharedCheckpoints, EachOneOpensAndAllItsValuesCanBeRead) {
  const char* shared = std::getenv("TESSERA_SHARED");
  if (shared == nullptr || !fs::is_directory(fs::path(shared) / "golden/models")) {
    GTEST_SKIP() << "TESSERA_SHARED names no folder with golden/models";
  }
  int count = 0;
  for (const char* folder : {"golden/models", "models"}) {
    for (const fs::directory_entry& entry : fs::directory_iterator(fs::path(shared) / folder)) {
      if (!entry.is_directory()) continue;
      SCOPED_TRACE(entry.path());
      const Result<Checkpoint> checkpoint = Checkpoint::open(entry.path());
      ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
      EXPECT_TRUE(checkpoint->config().string("model_type").ok());
      EXPECT_GT(checkpoint->tensor_count(), 0);
      for (const std::string& name : checkpoint->names()) {
        const Result<TensorView> view = of_any_shape(*checkpoint, name);
        if (view.status().code() == StatusCode::kUnsupported) continue;  // position_ids are I64
        ASSERT_TRUE(view.ok()) << view.status().message();
        std::vector<float> values(view->size_bytes / size_bytes(view->dtype));
        convert_to_f32(view->data, view->dtype, static_cast<int64_t>(values.size()), values.data());
        EXPECT_TRUE(std::all_of(values.begin(), values.end(), [](float v) {
          return std::isfinite(v);
        })) << name;
        checkpoint->release(*view);
      }
      ++count;
    }
  }
  EXPECT_GE(count, 20);
}

}  // namespace
}  // namespace tessera
