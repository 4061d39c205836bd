#include "compress/pipeline_testing.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;
using testing::compensated;
using testing::Compress;
using testing::distance;
using testing::logits_of;
using testing::norm;
using testing::options_of;
using testing::quantize_to;
using testing::repaired;
using testing::TinyCheckpoint;
using testing::wider;

constexpr WeightType kQuantized[] = {WeightType::kInt8, WeightType::kInt4, WeightType::kW8,
                                     WeightType::kW4};

TEST_F(Compress, QuantizedModelsAreTheirMatricesWrittenOut) {
  for (TinyCheckpoint tiny : {wider(testing::tiny_bert()), wider(testing::tiny_llama())}) {
    const std::string source = tiny.write("compress_quantized");
    const std::vector<float> whole = logits_of(source);
    const bool is_bert = tiny.config.find("bert") != std::string::npos;
    for (const WeightType weights : kQuantized) {
      const std::string which = (is_bert ? "bert_" : "llama_") + std::string(name(weights));
      CompressOptions options = quantize_to(weights);
      const CompressReport nearest = run(source, which, options);
      options = compensated(options);
      if (weights == WeightType::kInt8 || weights == WeightType::kInt4)
        options.quantize->smooth = 0.5;
      const CompressReport fitted = run(source, which + "_fitted", options);
      for (const std::string& name : {which, which + "_fitted"}) {
        expect_like_written_out(name, WeightType::kF32);
        const double share = bits(*parse_precision(tessera::name(weights))) == 8 ? 0.05 : 0.5;
        EXPECT_LT(distance(logits_of(target(name), WeightType::kF32), whole), share * norm(whole));
      }
      // Maps, the embedding, and the head that a Llama has beside it.
      EXPECT_EQ(nearest.matrices.size(), is_bert ? 13u : 16u);
      for (const MatrixReport& matrix : nearest.matrices) {
        EXPECT_EQ(matrix.format, "quantized");
        const bool is_table = matrix.name.find("layer") == std::string::npos;
        EXPECT_EQ(matrix.precision, is_table ? "w8" : name(weights)) << matrix.name;
        EXPECT_GT(matrix.weight_error, 0);
        EXPECT_LT(matrix.bytes, matrix.dense_bytes / 3);
        EXPECT_TRUE(std::isnan(matrix.output_error));
      }
      for (size_t i = 0; i < fitted.matrices.size(); ++i) {
        if (fitted.matrices[i].precision != "w8") {
          EXPECT_GT(fitted.matrices[i].output_error, 0);
        }
      }
      EXPECT_LT(nearest.bytes_after, nearest.bytes_before / 2);
    }
  }
}

TEST_F(Compress, IntegersRunAsTheyAreStoredUnlessToldOtherwise) {
  const std::string source = wider(testing::tiny_llama()).write("compress_llama");
  run(source, "stored", quantize_to(WeightType::kW4));
  const auto written = Model::load(target("stored"), {.threads = 1, .weights = WeightType::kF32});
  ASSERT_TRUE(written.ok()) << written.status().message();
  EXPECT_EQ((*written)->info().weight_type, "f32");
  const auto stored = Model::load(target("stored"), {.threads = 1});
  ASSERT_TRUE(stored.ok()) << stored.status().message();
  EXPECT_EQ((*stored)->info().weight_type, "stored");
  EXPECT_LT((*stored)->info().prepared_bytes, (*written)->info().prepared_bytes / 2);
}

TEST_F(Compress, WhatIsPrunedIsQuantizedWhereItStaysDenseOrInTiles) {
  for (TinyCheckpoint tiny : {wider(testing::tiny_bert()), wider(testing::tiny_llama())}) {
    const std::string source = tiny.write("compress_both");
    CompressOptions options = repaired(options_of(PruneUnit::kAttentionAware, 0.5));
    options.quantize = {.weights = WeightType::kInt8, .rounding = Rounding::kCompensated};
    options.prune->precompute_vo = PruneOptions::PrecomputeVo::kYes;
    const std::string name = tiny.config.find("bert") == std::string::npos ? "llama" : "bert";
    const CompressReport report = run(source, name, options);
    expect_like_written_out(name, WeightType::kF32);
    int values = 0;
    for (const MatrixReport& matrix : report.matrices) {
      const bool is_value = matrix.name.find("v_proj") != std::string::npos ||
                            matrix.name.find("self.value") != std::string::npos;
      if (matrix.share > 0) {
        EXPECT_NE(matrix.format, "quantized") << matrix.name;
        EXPECT_EQ(matrix.precision, matrix.format == "tiles" ? "int8" : "") << matrix.name;
      }
      if (is_value) {
        EXPECT_EQ(matrix.precision, "int8");
      }
      values += is_value ? 1 : 0;
    }
    EXPECT_EQ(values, 2);
    EXPECT_NEAR(report.share, 0.5, 0.06);
  }
}

TEST_F(Compress, APrunedModelIsQuantizedWhereItIsDenseOrInTiles) {
  const std::string source = wider(testing::tiny_bert()).write("compress_bert");
  CompressOptions options = repaired(options_of(PruneUnit::kTiles, 0.5));
  options.matrices = {"ffn"};
  run(source, "pruned", options);
  const CompressReport floats =
      run(target("pruned"), "floats", compensated(quantize_to(WeightType::kW8)));
  EXPECT_EQ(floats.matrices.size(), 9u);  // tiles stay as they are
  for (const MatrixReport& matrix : floats.matrices) EXPECT_EQ(matrix.format, "quantized");
  expect_like_written_out("floats", WeightType::kF32);
  CompressOptions smooth = compensated(quantize_to(WeightType::kInt8));
  smooth.quantize->smooth = 0.5;
  const CompressReport report = run(target("pruned"), "both", smooth);
  EXPECT_EQ(report.matrices.size(), 13u);
  for (const MatrixReport& matrix : report.matrices) {
    const bool is_ffn = matrix.name.find("layer") != std::string::npos &&
                        matrix.name.find("attention") == std::string::npos;
    EXPECT_EQ(matrix.format, is_ffn ? "tiles" : "quantized") << matrix.name;
    EXPECT_NEAR(matrix.share, is_ffn ? 0.5 : 0, 1e-9) << matrix.name;
    EXPECT_LT(matrix.bytes, matrix.dense_bytes / (is_ffn ? 6 : 3)) << matrix.name;
  }
  EXPECT_NEAR(report.share, 0.5, 1e-9);  // of the tiles, which the run before pruned
  expect_like_written_out("both", WeightType::kF32);
  const std::string config = testing::content_of(target("both/config.json"));
  for (const char* pass : {"prune-tiles", "\"quantize\"", "\"tiles\"", "\"quantized\""})
    EXPECT_NE(config.find(pass), std::string::npos) << pass;
  // And what is quantized can be quantized again, or pruned.
  run(target("both"), "again", quantize_to(WeightType::kW4));
  expect_like_written_out("again", WeightType::kF32);
  options.matrices = {"qkv"};
  const CompressReport pruned = run(target("both"), "pruned_again", options);
  for (const MatrixReport& matrix : pruned.matrices) EXPECT_EQ(matrix.format, "tiles");
  expect_like_written_out("pruned_again", WeightType::kF32);
}

TEST_F(Compress, OnlyChosenMatricesAreQuantized) {
  const std::string source = wider(testing::tiny_llama()).write("compress_llama");
  CompressOptions options = quantize_to(WeightType::kW4);
  options.matrices = {"key", "attention_output"};
  options.layers = {1};
  const CompressReport report = run(source, "chosen", options);
  ASSERT_EQ(report.matrices.size(), 2u);
  EXPECT_EQ(report.matrices[0].name, "model.layers.1.self_attn.k_proj.weight");
  expect_like_written_out("chosen", WeightType::kF32);
}

TEST_F(Compress, EqualInputsGiveEqualIntegersAndRunsAreTakenUp) {
  const std::string source = wider(testing::tiny_bert()).write("compress_bert");
  CompressOptions options = compensated(quantize_to(WeightType::kInt4));
  options.quantize->smooth = 0.5;
  run(source, "whole", options);
  for (const auto& [what, step] : {std::pair{"quantizing", 1}, {"quantizing embeddings", 0}}) {
    options.on_progress = [&](const std::string& doing, int64_t done, int64_t) {
      return !(doing == what && done == step);
    };
    const auto stopped = compress(source, target("taken_up"), options);
    ASSERT_FALSE(stopped.ok());
    EXPECT_EQ(stopped.status().code(), StatusCode::kCancelled);
  }
  options.on_progress = {};
  EXPECT_TRUE(fs::exists(target("taken_up.part/layer-1")));
  CompressOptions other = options;
  other.quantize->group = 16;
  testing::expect_message(compress(source, target("taken_up"), other).status(), {"same options"});
  run(source, "taken_up", options);
  for (const char* file : {"/tessera.safetensors", "/config.json"})
    EXPECT_EQ(testing::content_of(target("whole") + file),
              testing::content_of(target("taken_up") + file));
}

TEST_F(Compress, CompensationLosesLessOverTheModel) {
  const std::string source = wider(testing::tiny_llama()).write("compress_llama");
  CompressOptions options = compensated(quantize_to(WeightType::kW4));
  const CompressReport fitted = run(source, "compensated", options);
  options.quantize->rounding = Rounding::kNearest;
  const CompressReport nearest = run(source, "nearest", options);
  for (size_t i = 0; i + 2 < fitted.matrices.size(); ++i)  // the tables stand behind
    EXPECT_LT(fitted.matrices[i].output_error, nearest.matrices[i].output_error);
}

}  // namespace
}  // namespace tessera
