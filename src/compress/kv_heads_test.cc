#include <gtest/gtest.h>

#include "compress/pipeline_testing.h"
#include "io/checkpoint.h"

namespace tessera::testing {
namespace {

CompressOptions to_heads(int32_t heads) {
  CompressOptions options;
  options.kv_heads = heads;
  options.calibration.threads = 2;
  options.measure = CompressOptions::Measure::kNo;
  return options;
}

// Four heads of queries and of keys and values, of 4 numbers.
TinyCheckpoint four_heads() {
  TinyCheckpoint tiny = tiny_llama();
  tiny.with("\"num_key_value_heads\": 2", "\"num_key_value_heads\": 4");
  for (auto& [name, shape] : tiny.shapes) {
    if (name.find("k_proj") == std::string::npos && name.find("v_proj") == std::string::npos)
      continue;
    shape[0] *= 2;
  }
  return tiny;
}

std::vector<float> tensor_of(const std::string& directory, const std::string& name,
                             const std::vector<int64_t>& shape) {
  const auto checkpoint = Checkpoint::open(directory);
  EXPECT_TRUE(checkpoint.ok());
  const auto view = checkpoint->tensor(name, shape);
  EXPECT_TRUE(view.ok()) << view.status().message();
  if (!view.ok()) return {};
  int64_t count = 1;
  for (const int64_t extent : shape) count *= extent;
  std::vector<float> values(static_cast<size_t>(count));
  convert_to_f32(view->data, view->dtype, count, values.data());
  return values;
}

TEST(KvHeads, AreMeansOfNeighbours) {
  const std::string source = four_heads().write("kv_heads"), target = source + "_averaged";
  for (const int32_t heads : {2, 1}) {
    CompressOptions options = to_heads(heads);
    options.existing = Existing::kReplace;
    const auto report = compress(source, target, options);
    ASSERT_TRUE(report.ok()) << report.status().message();
    const auto checkpoint = Checkpoint::open(target);
    ASSERT_TRUE(checkpoint.ok());
    const auto architecture = read_architecture(*checkpoint);
    ASSERT_TRUE(architecture.ok()) << architecture.status().message();
    EXPECT_EQ(architecture->layer(1).kv_heads, heads);
    const std::string name = "model.layers.1.self_attn.v_proj.weight";
    const auto whole = tensor_of(source, name, {16, 16});
    const auto left = tensor_of(target, name, {heads * 4, 16});
    const int64_t of_group = 4 / heads;
    for (int64_t i = 0; i < heads * 64; ++i) {
      double mean = 0;
      for (int64_t h = 0; h < of_group; ++h)
        mean += whole[static_cast<size_t>((i / 64 * of_group + h) * 64 + i % 64)];
      mean /= static_cast<double>(of_group);
      EXPECT_NEAR(left[static_cast<size_t>(i)], mean, 6e-8 * std::abs(mean)) << i;
    }
    EXPECT_EQ(logits_of(target).size(), logits_of(source).size());
  }
}

// Averaging what is the same head already changes nothing.
TEST(KvHeads, OfEqualHeadsComputeTheSame) {
  const std::string source = tiny_llama().write("kv_heads_shared");
  const std::string copied = four_heads().write("kv_heads_copied");
  const auto opened = OpenCheckpoint::open(source);
  ASSERT_TRUE(opened.ok());
  std::deque<std::vector<float>> memory;
  std::vector<TensorToWrite> tensors;
  for (const std::string& name : (*opened)->checkpoint.names()) {
    const auto view = (*opened)->checkpoint.any_tensor(name);
    ASSERT_TRUE(view.ok());
    tensors.push_back({name, view->dtype, view->shape, view->data});
    if (name.find("k_proj") == std::string::npos && name.find("v_proj") == std::string::npos)
      continue;
    const auto* values = reinterpret_cast<const float*>(view->data);
    std::vector<float>& twice = memory.emplace_back();
    for (const int64_t head : {0, 0, 1, 1})
      twice.insert(twice.end(), values + head * 64, values + (head + 1) * 64);
    tensors.back().shape[0] = 16;
    tensors.back().data = twice.data();
  }
  ASSERT_TRUE(write_safetensors(copied + "/model.safetensors", tensors).ok());
  const auto report = compress(copied, copied + "_averaged", to_heads(2));
  ASSERT_TRUE(report.ok()) << report.status().message();
  EXPECT_EQ(logits_of(copied + "_averaged"), logits_of(source));
}

void expect_refused(const std::string& source, const CompressOptions& options,
                    const std::string& says) {
  const auto report = compress(source, source + "_refused", options);
  ASSERT_FALSE(report.ok());
  EXPECT_NE(report.status().message().find(says), std::string::npos) << report.status().message();
}

TEST(KvHeads, AreRefusedWhereTheyMakeNoSense) {
  const std::string llama = four_heads().write("kv_heads_refused");
  expect_refused(llama, to_heads(3), "a smaller divisor of the 4 heads");
  expect_refused(llama, to_heads(4), "a smaller divisor of the 4 heads");
  expect_refused(llama, to_heads(0), "at least 1");
  CompressOptions both = to_heads(2);
  both.prune = PruneOptions();
  expect_refused(llama, both, "compress the result in another run");
  expect_refused(tiny_bert().write("kv_heads_bert"), to_heads(2), "num_key_value_heads");
  CompressOptions pruned = options_of(PruneUnit::kElements, 0.9);
  const auto report = compress(llama, llama + "_pruned", pruned);
  ASSERT_TRUE(report.ok()) << report.status().message();
  expect_refused(llama + "_pruned", to_heads(2), "found a compressed one");
}

}  // namespace
}  // namespace tessera::testing
