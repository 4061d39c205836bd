#include <cstdlib>

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

// Models of every family as transformers writes them: sharded, f16, bf16, fused, Conv1D.
class Families : public Compress, public ::testing::WithParamInterface<const char*> {};

TEST_P(Families, RunAsTheirMatricesWrittenOut) {
  const char* shared = std::getenv("TESSERA_SHARED");
  const std::string source =
      std::string(shared == nullptr ? "" : shared) + "/golden/models/" + GetParam();
  if (shared == nullptr || !fs::exists(source)) GTEST_SKIP() << "needs TESSERA_SHARED";
  int number = 0;
  for (const PruneUnit unit : {PruneUnit::kTiles, PruneUnit::kAttentionAware}) {
    const std::string name = "family" + std::to_string(number++);
    const CompressReport report = run(source, name, repaired(options_of(unit, 0.5)));
    EXPECT_NEAR(report.share, 0.5, 0.06);
    EXPECT_LE(report.bytes_after, report.bytes_before);
    expect_like_written_out(name);
  }
  run(source, "same", options_of(PruneUnit::kTiles, 0));
  EXPECT_EQ(logits_of(target("same")), logits_of(source));
}

TEST_P(Families, AreQuantizedByOutputs) {
  const char* shared = std::getenv("TESSERA_SHARED");
  const std::string source =
      std::string(shared == nullptr ? "" : shared) + "/golden/models/" + GetParam();
  if (shared == nullptr || !fs::exists(source)) GTEST_SKIP() << "needs TESSERA_SHARED";
  const std::vector<float> whole = logits_of(source, WeightType::kF32);
  for (const WeightType weights : {WeightType::kInt8, WeightType::kW4}) {
    const std::string which(name(weights));
    const CompressReport report = run(source, which, compensated(quantize_to(weights)));
    EXPECT_LT(report.bytes_after, report.bytes_before);
    expect_like_written_out(which, WeightType::kF32);
    const double lost = distance(logits_of(target(which), WeightType::kF32), whole) / norm(whole);
    EXPECT_LT(lost, weights == WeightType::kInt8 ? 0.1 : 0.7);
  }
  // Queries and keys of one tensor apart from its values.
  CompressOptions options = options_of(PruneUnit::kAttentionAware, 0.5);
  options.quantize = QuantizeOptions{.weights = WeightType::kInt8};
  options.prune->precompute_vo = PruneOptions::PrecomputeVo::kYes;
  run(source, "both", options);
  expect_like_written_out("both", WeightType::kF32);
  run(target("both"), "again", quantize_to(WeightType::kW8));
  expect_like_written_out("again", WeightType::kF32);
}

INSTANTIATE_TEST_SUITE_P(Golden, Families,
                         ::testing::Values("bert-classify", "bert-classify-bf16", "roberta-mlm",
                                           "distilbert-classify", "gpt2", "gpt2-f16", "gpt-bigcode",
                                           "llama-gqa", "llama-gqa-bf16", "qwen2", "qwen3",
                                           "mistral-window"));

}  // namespace
}  // namespace tessera
