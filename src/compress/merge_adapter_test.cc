#include <gtest/gtest.h>

#include <cfloat>

#include "compress/output.h"
#include "compress/pipeline_testing.h"
#include "io/adapter.h"
#include "io/checkpoint.h"

namespace tessera::testing {
namespace {

// GPT-2 as its base is saved: without the prefix that classes with a head have, matrices [inputs,
// outputs], queries, keys and values in one.
TinyCheckpoint tiny_gpt2() {
  TinyCheckpoint tiny;
  tiny.config = R"({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 16,
    "n_layer": 1, "n_head": 4, "n_positions": 60, "vocab_size": 50})";
  tiny.shapes = {{"wte.weight", {50, 16}}, {"wpe.weight", {60, 16}}};
  const std::pair<const char*, std::pair<int64_t, int64_t>> maps[] = {{"attn.c_attn", {16, 48}},
                                                                      {"attn.c_proj", {16, 16}},
                                                                      {"mlp.c_fc", {16, 64}},
                                                                      {"mlp.c_proj", {64, 16}}};
  for (const auto& [map, extents] : maps) {
    const std::string name = std::string("h.0.") + map;
    tiny.shapes[name + ".weight"] = {extents.first, extents.second};
    tiny.shapes[name + ".bias"] = {extents.second};
  }
  for (const char* norm : {"h.0.ln_1", "h.0.ln_2", "ln_f"}) {
    tiny.shapes[std::string(norm) + ".weight"] = {16};
    tiny.shapes[std::string(norm) + ".bias"] = {16};
  }
  return tiny;
}

constexpr int64_t kRank = 3;
constexpr double kScale = 2;  // alpha / rank

// An adapter that a test fills and writes.
struct TinyAdapter {
  std::map<std::string, std::vector<int64_t>> shapes;  // without the prefix of all names
  std::string config = R"({"peft_type": "LORA", "r": 3, "lora_alpha": 6})";

  TinyAdapter& update(const std::string& module, int64_t outputs, int64_t inputs) {
    shapes[module + kAdapterDown] = {kRank, inputs};
    shapes[module + kAdapterUp] = {outputs, kRank};
    return *this;
  }
  std::string write(const TempDir& folder) const {
    TinyCheckpoint files;
    for (const auto& [name, shape] : shapes) files.shapes[kAdapterPrefix + name] = shape;
    const std::string written = files.write("adapter"), directory = folder.path();
    std::filesystem::rename(written + "/model.safetensors", directory + "/" + kAdapterFile);
    folder.put(kAdapterConfigFile, config);
    return directory;
  }
};

std::vector<float> tensor_of(const std::string& file, const std::string& name) {
  const auto opened = Safetensors::open(file);
  EXPECT_TRUE(opened.ok()) << opened.status().message();
  const auto found = opened->tensors().find(name);
  EXPECT_NE(found, opened->tensors().end()) << name;
  if (found == opened->tensors().end()) return {};
  std::vector<float> values(found->second.size_bytes / sizeof(float));
  std::memcpy(values.data(), found->second.data, found->second.size_bytes);
  return values;
}

class MergeAdapter : public ::testing::Test {
 protected:
  Result<CompressReport> merge(const std::string& source, const TinyAdapter& adapter) const {
    CompressOptions options;
    options.merge_adapter = adapter.write(folder_);
    options.measure = CompressOptions::Measure::kNo;
    options.existing = Existing::kReplace;
    return compress(source, source + "_merged", options);
  }

  // W + scale B A of a dense tensor, outputs [outputs, inputs], by sums in double.
  void expect_merged(const std::string& source, const std::string& tensor,
                     const std::string& module,
                     MatrixOrder order = MatrixOrder::kOutputRows) const {
    const auto before = tensor_of(source + "/model.safetensors", tensor);
    const auto after = tensor_of(source + "_merged/" + kWeightsFile, tensor);
    const std::string file = folder_ / kAdapterFile;
    const auto a = tensor_of(file, kAdapterPrefix + module + kAdapterDown);
    const auto b = tensor_of(file, kAdapterPrefix + module + kAdapterUp);
    const size_t inputs = a.size() / kRank, outputs = b.size() / kRank;
    ASSERT_EQ(before.size(), inputs * outputs);
    ASSERT_EQ(after.size(), before.size());
    for (size_t o = 0; o < outputs; ++o) {
      for (size_t i = 0; i < inputs; ++i) {
        const size_t at = order == MatrixOrder::kOutputRows ? o * inputs + i : i * outputs + o;
        double expected = before[at];
        for (size_t r = 0; r < kRank; ++r)
          expected += kScale * double{b[o * kRank + r]} * double{a[r * inputs + i]};
        EXPECT_NEAR(after[at], expected, FLT_EPSILON * std::abs(expected)) << tensor;
      }
    }
  }

  TempDir folder_;
};

TEST_F(MergeAdapter, AddsUpdatesToTheirMatrices) {
  const std::string source = tiny_bert().write("merge_bert");
  const std::string query = "bert.encoder.layer.1.attention.self.query";
  const std::string down = "bert.encoder.layer.0.output.dense";
  const std::string head = "cls.predictions.transform.dense";
  TinyAdapter adapter;
  adapter.update(query, 16, 16).update(down, 16, 24).update(head, 16, 16);
  adapter.shapes["cls.predictions.modules_to_save.default.bias"] = {50};
  const auto report = merge(source, adapter);
  ASSERT_TRUE(report.ok()) << report.status().message();
  EXPECT_EQ(report->matrices.size(), 2u);
  for (const std::string& module : {query, down, head})
    expect_merged(source, module + ".weight", module);
  const std::string merged = source + "_merged/" + kWeightsFile;
  EXPECT_EQ(tensor_of(merged, "cls.predictions.bias"),
            tensor_of(folder_ / kAdapterFile,
                      "base_model.model.cls.predictions.modules_to_save.default.bias"));
  const std::string other = "bert.encoder.layer.0.attention.self.query.weight";
  EXPECT_EQ(tensor_of(merged, other), tensor_of(source + "/model.safetensors", other));
  EXPECT_EQ(logits_of(source + "_merged").size(), logits_of(source).size());
}

TEST_F(MergeAdapter, IntoATensorOfThreeThatLiesTurnedAndLacksThePrefix) {
  const std::string source = tiny_gpt2().write("merge_gpt2");
  TinyAdapter adapter;
  adapter.update("transformer.h.0.attn.c_attn", 48, 16)
      .update("transformer.h.0.mlp.c_proj", 16, 64);
  const auto report = merge(source, adapter);
  ASSERT_TRUE(report.ok()) << report.status().message();
  expect_merged(source, "h.0.attn.c_attn.weight", "transformer.h.0.attn.c_attn",
                MatrixOrder::kInputRows);
  expect_merged(source, "h.0.mlp.c_proj.weight", "transformer.h.0.mlp.c_proj",
                MatrixOrder::kInputRows);
}

TEST_F(MergeAdapter, LeavesWhatWasPrunedPruned) {
  const std::string dense = wider(tiny_bert()).write("merge_pruned");
  // Few single weights leave the matrix dense, as the smaller form, so that no mask says it.
  for (const auto& [unit, share] :
       {std::pair{PruneUnit::kTiles, 0.5}, {PruneUnit::kElements, 0.2}}) {
    const std::string source = dense + (unit == PruneUnit::kTiles ? "_tiles" : "_few");
    CompressOptions prune = options_of(unit, share);
    prune.existing = Existing::kReplace;
    ASSERT_TRUE(compress(dense, source, prune).ok());
    TinyAdapter adapter;
    adapter.update("bert.encoder.layer.0.attention.self.query", 64, 64);
    const auto report = merge(source, adapter);
    ASSERT_TRUE(report.ok()) << report.status().message();
    const auto before = OpenCheckpoint::open(source),
               after = OpenCheckpoint::open(source + "_merged");
    ASSERT_TRUE(before.ok() && after.ok());
    const Item item{.tensor = "bert.encoder.layer.0.attention.self.query.weight",
                    .outputs = 64,
                    .inputs = 64,
                    .tensor_outputs = 64};
    const auto old = read_item({(*before)->source()}, item);
    const auto merged = read_item({(*after)->source()}, item);
    ASSERT_TRUE(old.ok() && merged.ok());
    int64_t kept = 0;
    for (size_t i = 0; i < old->whole.values.size(); ++i) {
      const bool is_zero = old->whole.values[i] == 0;
      EXPECT_EQ(merged->whole.values[i] == 0, is_zero);
      kept += is_zero ? 0 : 1;
    }
    EXPECT_NEAR(static_cast<double>(kept), (1 - share) * 64 * 64, 1);
  }
}

TEST_F(MergeAdapter, ThatDoesNotFitIsRefused) {
  const std::string source = tiny_bert().write("merge_refused");
  const std::string query = "bert.encoder.layer.0.attention.self.query";
  expect_message(merge(source, TinyAdapter().update(query, 16, 24)).status(),
                 {"attention.self", "16 x 16", "16 x 24"});
  expect_message(merge(source, TinyAdapter().update("model.layers.0.q_proj", 16, 16)).status(),
                 {"model.layers.0.q_proj", "trained on"});
  expect_message(
      merge(source, TinyAdapter().update("cls.predictions.transform.dense", 8, 16)).status(),
      {"cls.predictions.transform.dense", "16 x 16", "8 x 16"});
  expect_message(merge(source, TinyAdapter().update("query", 16, 16)).status(),
                 {"query.weight", "trained on"});
  TinyAdapter bias;
  bias.update(query, 16, 16).shapes["cls.predictions.bias"] = {49};
  expect_message(merge(source, bias).status(), {"cls.predictions.bias", "50", "49"});
  TinyAdapter dora;
  dora.config = R"({"peft_type": "LORA", "lora_alpha": 6, "use_dora": true})";
  expect_message(merge(source, dora.update(query, 16, 16)).status(), {"use_dora"});
  CompressOptions both = options_of(PruneUnit::kTiles, 0.5);
  both.merge_adapter = folder_.path();
  expect_message(compress(source, source + "_both", both).status(),
                 {"merge adapter", "another run"});
  const std::string integers = source + "_int8";
  ASSERT_TRUE(compress(source, integers, quantize_to(WeightType::kInt8)).ok());
  expect_message(merge(integers, TinyAdapter().update(query, 16, 16)).status(),
                 {"bert.encoder.layer.0.attention", "integers"});
  EXPECT_FALSE(std::filesystem::exists(source + "_merged"));
}

}  // namespace
}  // namespace tessera::testing
