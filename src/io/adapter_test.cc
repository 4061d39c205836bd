#include "io/adapter.h"

#include <gtest/gtest.h>

#include <cfloat>
#include <cmath>
#include <deque>

#include "io/testing.h"

namespace tessera::testing {
namespace {

Result<AdapterScale> scale_of(const std::string& more, const std::string& type = "LORA") {
  const auto config =
      Config::parse(R"({"peft_type": ")" + type + R"(", "lora_alpha": 12)" + more + "}", "a.json");
  EXPECT_TRUE(config.ok()) << config.status().message();
  return read_adapter_config(*config);
}

TEST(AdapterConfig, GivesTheScale) {
  const auto plain = scale_of(
      R"(, "r": 4, "use_rslora": false, "alpha_pattern": {}, "rank_pattern": {"q": 2},
           "layer_replication": null, "bias": "none", "init_lora_weights": true)");
  ASSERT_TRUE(plain.ok()) << plain.status().message();
  EXPECT_EQ(plain->of(4), 3);
  EXPECT_EQ(plain->of(2), 6);
  const auto by_root = scale_of(R"(, "use_rslora": true, "init_lora_weights": "gaussian")");
  ASSERT_TRUE(by_root.ok()) << by_root.status().message();
  EXPECT_EQ(by_root->of(4), 6);
}

TEST(AdapterConfig, RefusesWhatIsNoPlainLora) {
  expect_message(scale_of("", "IA3").status(), {"a.json", "LORA", "IA3"});
  expect_message(scale_of(R"(, "use_dora": true)").status(), {"plain updates", "use_dora"});
  expect_message(scale_of(R"(, "lora_bias": true)").status(), {"lora_bias"});
  expect_message(scale_of(R"(, "alpha_pattern": {"q": 3})").status(), {"alpha_pattern"});
  expect_message(scale_of(R"(, "layer_replication": [[0, 2]])").status(), {"layer_replication"});
  expect_message(scale_of(R"(, "bias": "all")").status(), {"biases", "all"});
  expect_message(scale_of(R"(, "init_lora_weights": "pissa_niter_4")").status(), {"pissa"});
  expect_message(scale_of(R"(, "use_dora": 3)").status(), {"use_dora"});
  for (const char* text : {"{}", R"({"peft_type": 3})", R"({"peft_type": "LORA"})"}) {
    const auto config = Config::parse(text, "a.json");
    ASSERT_TRUE(config.ok());
    EXPECT_FALSE(read_adapter_config(*config).ok()) << text;
  }
}

// Tensors of a file whose numbers are 0, 1, 2 and so on.
class Tensors {
 public:
  Tensors& add(const std::string& name, std::vector<int64_t> shape, DType dtype = DType::kF32) {
    int64_t count = 1;
    for (const int64_t extent : shape) count *= extent;
    std::vector<float>& values = memory_.emplace_back(static_cast<size_t>(count));
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
    const size_t bytes = size_bytes(dtype) * static_cast<size_t>(count);
    views_["base_model.model." + name] = {values.data(), dtype, std::move(shape), bytes};
    return *this;
  }
  Result<AdapterTensors> sort() const { return sort_adapter_tensors(views_, "a.safetensors"); }
  std::map<std::string, TensorView>& views() { return views_; }

 private:
  std::deque<std::vector<float>> memory_;
  std::map<std::string, TensorView> views_;
};

TEST(AdapterTensors, AreSortedByTheirNames) {
  Tensors tensors;
  tensors.add("b.q.lora_A.weight", {2, 5}).add("b.q.lora_B.weight", {3, 2});
  tensors.add("a.lora_B.weight", {4, 1}).add("a.lora_A.weight", {1, 4});
  tensors.add("score.modules_to_save.default.weight", {2, 4}).add("classifier.bias", {2});
  const auto sorted = tensors.sort();
  ASSERT_TRUE(sorted.ok()) << sorted.status().message();
  ASSERT_EQ(sorted->updates.size(), 2u);
  EXPECT_EQ(sorted->updates[0].module, "a");
  EXPECT_EQ(sorted->updates[1].module, "b.q");
  EXPECT_EQ(sorted->updates[1].rank(), 2);
  EXPECT_EQ(sorted->updates[1].inputs(), 5);
  EXPECT_EQ(sorted->updates[1].outputs(), 3);
  EXPECT_EQ(sorted->whole.size(), 2u);
  EXPECT_TRUE(sorted->whole.contains("score.weight"));
  EXPECT_TRUE(sorted->whole.contains("classifier.bias"));
}

TEST(AdapterTensors, ThatAreNoAdapterAreRefused) {
  expect_message(Tensors().sort().status(), {"a.safetensors", "lora_A.weight"});
  expect_message(Tensors().add("q.lora_A.weight", {2, 5}).sort().status(), {"\"q\"", "lora_B"});
  expect_message(Tensors().add("q.lora_B.weight", {2, 5}).sort().status(), {"\"q\"", "lora_A"});
  expect_message(
      Tensors().add("q.lora_A.weight", {2, 5}).add("q.lora_B.weight", {3, 3}).sort().status(),
      {"\"q\"", "rank x inputs"});
  expect_message(
      Tensors().add("q.lora_A.weight", {2}).add("q.lora_B.weight", {3, 2}).sort().status(),
      {"\"q\"", "rank x inputs"});
  expect_message(
      Tensors().add("q.lora_A.weight", {0, 4}).add("q.lora_B.weight", {3, 0}).sort().status(),
      {"\"q\""});
  expect_message(Tensors().add("q.lora_embedding_A", {2, 5}).sort().status(), {"lora_embedding_A"});
  expect_message(Tensors().add("q.weight", {2, 5}, DType::kI32).sort().status(), {"floats"});
  Tensors other;
  other.add("q.lora_A.weight", {2, 5});
  other.views()["q.weight"] = other.views().begin()->second;
  expect_message(other.sort().status(), {"base_model.model."});
}

// W + scale B A of rows 1 and 2 of three, by sums in double.
TEST(AdapterUpdate, IsAddedToSomeRows) {
  Tensors tensors;
  tensors.add("q.lora_A.weight", {2, 5}).add("q.lora_B.weight", {3, 2});
  const auto sorted = tensors.sort();
  ASSERT_TRUE(sorted.ok()) << sorted.status().message();
  std::vector<float> values(10, 0.25f);
  sorted->updates[0].add_to(values, 1, 0.3);
  for (int64_t row = 0; row < 2; ++row) {
    for (int64_t i = 0; i < 5; ++i) {
      const auto b = [&](int64_t r) { return static_cast<double>((row + 1) * 2 + r); };
      const auto a = [&](int64_t r) { return static_cast<double>(r * 5 + i); };
      const double expected = 0.25 + 0.3 * (b(0) * a(0) + b(1) * a(1));
      EXPECT_NEAR(values[static_cast<size_t>(row * 5 + i)], expected, FLT_EPSILON * expected);
    }
  }
}

TEST(Adapter, NeedsItsFiles) {
  const TempDir folder;
  const std::string directory = folder.path().string();
  expect_message(Adapter::open(directory).status(), {"adapter_config.json"});
  folder.put(kAdapterConfigFile, R"({"peft_type": "LORA", "lora_alpha": 4})");
  expect_message(Adapter::open(directory).status(), {"adapter_model.safetensors"});
  folder.put("adapter_model.bin", "");
  expect_message(Adapter::open(directory).status(), {"adapter_model.bin", "safe_serialization"});
  const std::vector<float> values(8);
  ASSERT_TRUE(
      write_safetensors(directory + "/" + kAdapterFile,
                        {{"base_model.model.q.lora_A.weight", DType::kF32, {2, 4}, values.data()},
                         {"base_model.model.q.lora_B.weight", DType::kF32, {3, 2}, values.data()}})
          .ok());
  const auto adapter = Adapter::open(directory);
  ASSERT_TRUE(adapter.ok()) << adapter.status().message();
  EXPECT_EQ(adapter->tensors().updates.size(), 1u);
  EXPECT_EQ(adapter->scale().of(2), 2);
}

}  // namespace
}  // namespace tessera::testing
