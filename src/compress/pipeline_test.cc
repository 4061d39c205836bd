#include "compress/pipeline.h"

#include "compress/pipeline_testing.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;
using testing::calibrated;
using testing::compensated;
using testing::Compress;
using testing::distance;
using testing::kSeed;
using testing::logits_of;
using testing::norm;
using testing::options_of;
using testing::quantize_to;
using testing::repaired;
using testing::sequences;
using testing::TinyCheckpoint;
using testing::wider;
using testing::write_out;

class EveryUnit : public Compress,
                  public ::testing::WithParamInterface<std::tuple<PruneUnit, const char*>> {
 protected:
  std::string source() const {
    return std::string(std::get<1>(GetParam())) == "bert"
               ? wider(testing::tiny_bert()).write("compress_bert")
               : wider(testing::tiny_llama()).write("compress_llama");
  }
};

TEST_P(EveryUnit, RunsAsItsMatricesWrittenOut) {
  const PruneUnit unit = std::get<0>(GetParam());
  int number = 0;
  for (const CompressOptions& options :
       {options_of(unit, 0.5), calibrated(options_of(unit, 0.5)), repaired(options_of(unit, 0.5)),
        repaired(options_of(unit, 0.8))}) {
    const std::string name = "out" + std::to_string(number++);
    const CompressReport report = run(source(), name, options);
    expect_like_written_out(name);
    EXPECT_LE(report.bytes_after, report.bytes_before);
    EXPECT_NEAR(report.share, options.prune->share, 0.06);
    for (const MatrixReport& matrix : report.matrices) {
      EXPECT_GT(matrix.weight_error, 0) << matrix.name;
      EXPECT_LT(matrix.weight_error, 2) << matrix.name;
      EXPECT_NE(matrix.format, "dense") << matrix.name;
    }
  }
}

TEST_P(EveryUnit, NothingPrunedGivesTheSameTensors) {
  const std::string from = source();
  run(from, "same", options_of(std::get<0>(GetParam()), 0));
  const auto before = Checkpoint::open(from), after = Checkpoint::open(target("same"));
  ASSERT_TRUE(before.ok() && after.ok());
  EXPECT_LE(after->size_bytes(), before->size_bytes() + 64);          // the file's metadata
  if (std::get<0>(GetParam()) == PruneUnit::kAttentionAware) return;  // parts of a stack
  ASSERT_EQ(before->names(), after->names());
  for (const std::string& name : before->names()) {
    const TensorView a = *before->any_tensor(name), b = *after->any_tensor(name);
    ASSERT_EQ(a.size_bytes, b.size_bytes);
    EXPECT_EQ(std::memcmp(a.data, b.data, a.size_bytes), 0) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Units, EveryUnit,
    ::testing::Combine(::testing::Values(PruneUnit::kTiles, PruneUnit::kElements,
                                         PruneUnit::kOutputs, PruneUnit::kInputs,
                                         PruneUnit::kAttentionAware),
                       ::testing::Values("bert", "llama")));

TEST_F(Compress, RepairLosesLessThanCalibrationAloneAndThatLessThanMagnitude) {
  const std::string source = wider(testing::tiny_bert()).write("compress_bert");
  const CompressOptions plain = options_of(PruneUnit::kTiles, 0.5);
  CompressOptions magnitude = calibrated(plain);
  magnitude.prune->score = PruneScore::kMagnitude;
  const auto mean_error = [](const CompressReport& report) {
    double sum = 0;
    for (const MatrixReport& matrix : report.matrices) sum += matrix.output_error;
    return sum / static_cast<double>(report.matrices.size());
  };
  const double by_magnitude = mean_error(run(source, "magnitude", magnitude));
  const double by_effect = mean_error(run(source, "calibrated", calibrated(plain)));
  const double with_repair = mean_error(run(source, "repaired", repaired(plain)));
  EXPECT_LT(by_effect, by_magnitude);
  EXPECT_LT(with_repair, 0.95 * by_effect);
}

TEST_F(Compress, EqualInputsGiveEqualBytesOnAnyNumberOfThreads) {
  const std::string source = wider(testing::tiny_llama()).write("compress_llama");
  CompressOptions options = repaired(options_of(PruneUnit::kTiles, 0.6));
  for (const int32_t threads : {1, 2, 3}) {
    options.calibration.threads = threads;
    const std::string name = "on" + std::to_string(threads);
    run(source, name, options);
    for (const char* file : {"/tessera.safetensors", "/config.json"})
      EXPECT_EQ(testing::content_of(target(name) + file), testing::content_of(target("on1") + file))
          << threads << " threads";
  }
}

TEST_F(Compress, AnInterruptedRunIsTakenUp) {
  const std::string source = wider(testing::tiny_llama()).write("compress_llama");
  CompressOptions options = repaired(options_of(PruneUnit::kTiles, 0.6));
  run(source, "whole", options);
  options.on_progress = [](const std::string& what, int64_t done, int64_t) {
    return !(what == "pruning" && done == 1);
  };
  const auto stopped = compress(source, target("taken_up"), options);
  ASSERT_FALSE(stopped.ok());
  EXPECT_EQ(stopped.status().code(), StatusCode::kCancelled);
  EXPECT_FALSE(fs::exists(target("taken_up")));
  EXPECT_TRUE(fs::exists(target("taken_up.part/layer-0")));
  CompressOptions other = options;
  other.prune->share = 0.7;
  const auto refused = compress(source, target("taken_up"), other);
  testing::expect_message(refused.status(), {"same options", "remove it"});
  options.on_progress = {};
  run(source, "taken_up", options);
  EXPECT_EQ(testing::content_of(target("whole/tessera.safetensors")),
            testing::content_of(target("taken_up/tessera.safetensors")));
  EXPECT_FALSE(fs::exists(target("taken_up.part")));
}

// Adds a number to every weight, or multiplies them by it, of the matrices of one role.
class Toy final : public Pass {
 public:
  enum class Does { kAdds, kMultiplies };
  Toy(Does does, float number, std::optional<Role> role = {})
      : does_(does), number_(number), role_(role) {}
  PassInfo info() const override {
    return {"toy", "Changes every weight.", "none", "any", "dense", "toying"};
  }
  std::string options() const override {
    return R"({"pass": "toy", "number": ")" + std::to_string(number_) + "\"}";
  }
  bool takes(const Item& item) const override { return !role_ || item.role == *role_; }
  Status apply(const MapWork& work) override {
    for (Matrix* matrix : work.matrices) {
      seen.push_back(matrix->item.name());
      for (float& value : matrix->pruned.values)
        value = does_ == Does::kAdds ? value + number_ : value * number_;
      round_to_file(*matrix);
    }
    return {};
  }

  std::vector<std::string> seen;

 private:
  Does does_;
  float number_;
  std::optional<Role> role_;
};

TEST_F(Compress, PassesRunInTheOrderOfTheirListEachOnWhatTheOneBeforeLeft) {
  const std::string source = wider(testing::tiny_llama()).write("compress_llama");
  const std::string key = "model.layers.1.self_attn.k_proj.weight";
  const auto value_of = [&](const std::string& directory) {
    const auto opened = Checkpoint::open(directory);
    float value = 0;
    std::memcpy(&value, opened->any_tensor(key)->data, sizeof(value));
    return value;
  };
  const float before = value_of(source);
  for (const bool adds_first : {true, false}) {
    Passes passes;
    passes.push_back(std::make_unique<Toy>(Toy::Does::kAdds, 4));
    passes.push_back(std::make_unique<Toy>(Toy::Does::kMultiplies, 2, Role::kKey));
    if (!adds_first) std::swap(passes[0], passes[1]);
    const Toy& keys = static_cast<const Toy&>(*passes[adds_first ? 1 : 0]);
    const std::string name = adds_first ? "adds" : "multiplies";
    CompressOptions options;
    options.measure = CompressOptions::Measure::kNo;
    options.calibration.sequences = sequences(4, 10, kSeed);
    const auto report = run_passes(source, target(name), options, passes);
    ASSERT_TRUE(report.ok()) << report.status().message();
    EXPECT_EQ(value_of(target(name)), adds_first ? (before + 4) * 2 : before * 2 + 4);
    EXPECT_EQ(keys.seen, (std::vector<std::string>{"model.layers.0.self_attn.k_proj.weight", key}));
    ASSERT_EQ(report->passes.size(), 2u);
    EXPECT_EQ(report->passes[0].name, "toy");
    EXPECT_GT(report->passes[0].seconds, 0);
    for (const MatrixReport& matrix : report->matrices) EXPECT_GT(matrix.output_error, 0);
  }
}

TEST_F(Compress, WhatAPassBreaksIsAnErrorAndNotWritten) {
  const std::string source = wider(testing::tiny_llama()).write("compress_llama");
  Passes passes;
  passes.push_back(std::make_unique<Toy>(Toy::Does::kMultiplies, INFINITY));
  const auto report = run_passes(source, target("broken"), {}, passes);
  testing::expect_message(report.status(), {"q_proj", "expected finite values"});
  EXPECT_FALSE(fs::exists(target("broken")));
  // Weights that a mask prunes are not stored, so they have to be zero.
  run(source, "pruned", options_of(PruneUnit::kTiles, 0.5));
  passes.clear();
  passes.push_back(std::make_unique<Toy>(Toy::Does::kAdds, 1));
  testing::expect_message(run_passes(target("pruned"), target("filled"), {}, passes).status(),
                          {"q_proj", "zeros where the mask prunes"});
}

TEST_F(Compress, FloatsAreNotPrunedOnceTheyAreIntegers) {
  const std::string source = wider(testing::tiny_llama()).write("compress_llama");
  CompressOptions options = options_of(PruneUnit::kTiles, 0.5);
  options.quantize = QuantizeOptions{.weights = WeightType::kInt8};
  auto passes = make_passes(options);
  ASSERT_TRUE(passes.ok()) << passes.status().message();
  ASSERT_EQ(passes->size(), 2u);
  std::swap((*passes)[0], (*passes)[1]);
  testing::expect_message(run_passes(source, target("turned"), options, *passes).status(),
                          {"pruning", "floats", "integers"});
}

TEST_F(Compress, EveryScopeReachesTheShare) {
  const std::string source = wider(testing::tiny_llama()).write("compress_llama");
  for (const PruneScope scope :
       {PruneScope::kMatrix, PruneScope::kBalanced, PruneScope::kGlobal, PruneScope::kAllocated}) {
    CompressOptions options = repaired(options_of(PruneUnit::kTiles, 0.5));
    options.prune->tile_rows = 8;
    options.prune->scope = scope;
    const std::string name = "scope" + std::to_string(static_cast<int>(scope));
    EXPECT_NEAR(run(source, name, options).share, 0.5, 0.04);
    expect_like_written_out(name);
  }
}

TEST_F(Compress, OutputsForPrecomputedVoKeepOneSetOfFeatures) {
  for (TinyCheckpoint tiny : {wider(testing::tiny_bert()), wider(testing::tiny_llama())}) {
    const std::string source = tiny.write("compress_vo");
    CompressOptions options = repaired(options_of(PruneUnit::kAttentionAware, 0.75));
    options.prune->precompute_vo = PruneOptions::PrecomputeVo::kYes;
    const std::string name = tiny.config.find("bert") == std::string::npos ? "vo_llama" : "vo_bert";
    const CompressReport report = run(source, name, options);
    for (const MatrixReport& matrix : report.matrices)
      EXPECT_EQ(matrix.name.find("v_proj"), std::string::npos);
    write_out(target(name), target(name + "-dense"));
    const std::vector<float> expected = logits_of(target(name + "-dense"));
    for (const PrecomputeVo how : {PrecomputeVo::kOn, PrecomputeVo::kOff}) {
      const auto model = Model::load(target(name), {.threads = 2, .precompute_vo = how});
      ASSERT_TRUE(model.ok()) << model.status().message();
      const auto result = (*model)->forward(sequences(3, 20, kSeed + 1));
      ASSERT_TRUE(result.ok()) << result.status().message();
      EXPECT_LE(distance(result->logits, expected), 2e-4 * norm(expected)) << name;
    }
  }
}

TEST_F(Compress, OnlyChosenMatricesAndLayersChange) {
  const std::string source = wider(testing::tiny_bert()).write("compress_bert");
  CompressOptions options = options_of(PruneUnit::kTiles, 0.5);
  options.matrices = {"ffn", "key"};
  options.layers = {1};
  const CompressReport report = run(source, "chosen", options);
  ASSERT_EQ(report.matrices.size(), 3u);
  EXPECT_EQ(report.matrices[0].name, "bert.encoder.layer.1.attention.self.key.weight");
  expect_like_written_out("chosen");
}

TEST_F(Compress, ACompressedModelCanBeCompressedAgain) {
  const std::string source = wider(testing::tiny_bert()).write("compress_bert");
  CompressOptions options = options_of(PruneUnit::kTiles, 0.5);
  options.matrices = {"ffn"};
  run(source, "once", options);
  options.matrices = {"attention_output"};
  run(target("once"), "twice", options);
  expect_like_written_out("twice");
  const std::string config = testing::content_of(target("twice/config.json"));
  EXPECT_NE(config.find("layer.0.output.dense.weight"), std::string::npos);
  EXPECT_NE(config.find("layer.0.attention.output.dense.weight"), std::string::npos);
  // The earlier pass stays in the provenance.
  EXPECT_NE(config.find("ffn"), std::string::npos);
}

TEST_F(Compress, WhatCannotBeIsOneSentence) {
  const std::string source = wider(testing::tiny_bert()).write("compress_bert");
  const auto refused = [&](const CompressOptions& options,
                           std::initializer_list<std::string_view> parts) {
    testing::expect_message(compress(source, target("refused"), options).status(), parts);
    EXPECT_FALSE(fs::exists(target("refused")));
    EXPECT_FALSE(fs::exists(target("refused.part")));
  };
  CompressOptions options = options_of(PruneUnit::kTiles, 1.5);
  refused(options, {"share", "0 to 1", "1.5"});
  options = options_of(PruneUnit::kTiles, NAN);
  refused(options, {"share", "nan"});
  options = options_of(PruneUnit::kTiles, 0.5);
  options.prune->tile_rows = 0;
  refused(options, {"tile", "found 0 x 16"});
  options = options_of(PruneUnit::kTiles, 0.5);
  options.matrices = {"everything"};
  refused(options, {"matrices", "everything"});
  options = options_of(PruneUnit::kTiles, 0.5);
  options.layers = {2};
  refused(options, {"layers", "0 to 1", "found 2"});
  options = options_of(PruneUnit::kTiles, 0.5);
  options.prune->repair = PruneOptions::Repair::kLeastSquares;
  refused(options, {"calibration text", "found none"});
  options = calibrated(options_of(PruneUnit::kTiles, 0.5));
  options.calibration.sequences[0].ids[0] = 50;
  refused(options, {"ids from 0 to 49, found 50"});
  for (const auto& [types, found] : std::vector<std::pair<std::vector<int32_t>, const char*>>{
           {{0, 1}, "30 type ids"}, {{}, "found 2 at token 3"}}) {
    options = calibrated(options_of(PruneUnit::kTiles, 0.5));
    options.calibration.sequences[2].type_ids = types;
    if (types.empty()) options.calibration.sequences[2].type_ids.resize(30);
    if (types.empty()) options.calibration.sequences[2].type_ids[3] = 2;
    refused(options, {"calibration: sequence 2", found});
  }
  options = options_of(PruneUnit::kAttentionAware, 0.5);
  options.prune->tile_cols = 0;
  refused(options, {"tile", "found 16 x 0"});
  refused(CompressOptions(),
          {"to prune, to quantize, to average heads, an adapter or a schedule", "none"});
  options = quantize_to(WeightType::kF32);
  refused(options, {"int8, int4, w8 or w4", "f32"});
  options = compensated(quantize_to(WeightType::kW4));
  options.calibration.sequences.clear();
  refused(options, {"compensated rounding", "found none"});
  options = quantize_to(WeightType::kInt8);
  options.quantize->smooth = 0.5;
  refused(options, {"smoothing", "found none"});
  options = options_of(PruneUnit::kAttentionAware, 0.5);
  options.matrices = {"value"};
  refused(options, {"value and attention_output"});
  fs::create_directory(target("there"));
  testing::expect_message(
      compress(source, target("there"), options_of(PruneUnit::kTiles, 0.5)).status(),
      {"not there yet"});
}

// An output among the source's files would be copied into itself.
TEST_F(Compress, TheTargetIsNotInsideTheSource) {
  const std::string source = wider(testing::tiny_bert()).write("compress_inside");
  const CompressOptions options = options_of(PruneUnit::kTiles, 0.5);
  fs::create_directories(source + "/1_Pooling");
  fs::create_directory_symlink(source, target("link"));
  for (const std::string& inside :
       {source + "/small", source + "/1_Pooling/small", target("link") + "/small"}) {
    testing::expect_message(compress(source, inside, options).status(), {"outside of", "inside"});
    EXPECT_FALSE(fs::exists(inside + ".part"));
  }
}

TEST_F(Compress, ATargetMayEndInASlashAndFoldersMayLinkUpwards) {
  const std::string source = wider(testing::tiny_bert()).write("compress_linked");
  fs::create_directories(source + "/1_Pooling");
  std::ofstream(source + "/1_Pooling/config.json") << "{}";
  std::ofstream(source + "/empty.txt");
  // The dense model's weights, of another program.
  std::ofstream(source + "/1_Pooling/model.onnx_data") << "weights";
  if (!fs::exists(source + "/1_Pooling/up"))
    fs::create_directory_symlink(source, source + "/1_Pooling/up");
  run(source, "small/", options_of(PruneUnit::kTiles, 0.5));
  EXPECT_TRUE(fs::exists(target("small/1_Pooling/config.json")));
  EXPECT_TRUE(fs::exists(target("small/empty.txt")));
  EXPECT_FALSE(fs::exists(target("small/1_Pooling/up")));
  EXPECT_FALSE(fs::exists(target("small/1_Pooling/model.onnx_data")));
}

// All is written when speeds are measured.
TEST_F(Compress, CancelledWhileMeasuringTheReportIsWhole) {
  const std::string source = wider(testing::tiny_bert()).write("compress_bert");
  CompressOptions options = options_of(PruneUnit::kTiles, 0.9);
  options.measure = CompressOptions::Measure::kMatrices;
  options.on_progress = [](const std::string& what, int64_t done, int64_t) {
    return what != "measuring" || done == 0;
  };
  const CompressReport report = run(source, "measured", options);
  EXPECT_NEAR(report.share, 0.9, 0.01);
  EXPECT_TRUE(std::isfinite(report.matrices.front().measured_speedup));
  EXPECT_TRUE(std::isnan(report.matrices.back().measured_speedup));
}

// What a report says of the file is what stands in the file.
TEST_F(Compress, BytesAreThoseOfTheFile) {
  const std::string source = wider(testing::tiny_bert()).write("compress_bert");
  CompressOptions smooth = compensated(quantize_to(WeightType::kInt8));
  smooth.quantize->smooth = 0.5;
  for (const CompressOptions& options :
       {options_of(PruneUnit::kElements, 0.7), options_of(PruneUnit::kTiles, 0.7),
        options_of(PruneUnit::kOutputs, 0.5), smooth}) {
    const CompressReport report = run(source, "bytes", options);
    const auto opened = OpenCheckpoint::open(target("bytes"));
    ASSERT_TRUE(opened.ok());
    for (const MatrixReport& matrix : report.matrices) {
      int64_t bytes = 0;
      for (const std::string& tensor : tensors_of((*opened)->formats, matrix.name)) {
        if (!(*opened)->checkpoint.has(tensor)) continue;
        bytes += static_cast<int64_t>((*opened)->checkpoint.any_tensor(tensor)->size_bytes);
      }
      EXPECT_EQ(matrix.bytes, bytes) << matrix.name << " " << matrix.format;
    }
    fs::remove_all(target("bytes"));
  }
}

TEST_F(Compress, MeasuresTheWholeModelBeforeAndAfter) {
  const std::string source = wider(testing::tiny_llama()).write("compress_llama");
  CompressOptions options = options_of(PruneUnit::kTiles, 0.5);
  options.measure = CompressOptions::Measure::kModel;
  const CompressReport report = run(source, "speed", options);
  for (const std::optional<ModelSpeed>& speed : {report.speed_before, report.speed_after}) {
    ASSERT_TRUE(speed.has_value());
    EXPECT_GT(speed->tokens, 0);
    EXPECT_GT(speed->pass_seconds, 0);
    EXPECT_GT(speed->tokens_per_second, 0);
  }
  EXPECT_TRUE(std::isnan(report.matrices.front().measured_speedup));
  EXPECT_EQ(report.head, Head::kCausalLm);
  ASSERT_EQ(report.next.size(), 2u);
  EXPECT_NE(report.next[0].find("tessera run "), std::string::npos) << report.next[0];
  EXPECT_NE(report.next[1].find("--base " + source), std::string::npos) << report.next[1];
}

std::string read_card(const std::string& directory, const char* name = "README.md") {
  std::ifstream file(directory + "/" + name);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST_F(Compress, WritesAModelCardOfItsOwn) {
  const std::string source = wider(testing::tiny_bert()).write("compress_bert");
  const std::string base =
      "---\nlanguage:\n- en\n- de\nlicense: mit\ntags:\n- old\n---\n# The base\nWords.\n";
  std::ofstream(source + "/README.md") << base;
  CompressOptions options = options_of(PruneUnit::kTiles, 0.5);
  options.command = {"tessera", "compress", "the base", "--prune-tiles", "0.5"};
  run(source, "card", options);
  const std::string card = read_card(target("card"));
  for (const char* part :
       {"---\nlicense: mit\nlanguage:\n- en\n- de\nbase_model: ", "library_name: tessera",
        "    tessera compress 'the base' --prune-tiles 0.5\n", "weights removed", "prune-tiles",
        "calibration text | not measured", "That of the base model: mit", "tessera fill-mask card"})
    EXPECT_NE(card.find(part), std::string::npos) << part << " in\n" << card;
  EXPECT_EQ(card.find("old"), std::string::npos) << card;
  EXPECT_EQ(read_card(target("card"), "base-model-card.md"), base);
  // What is compressed again is of the first base, whose card stays.
  run(target("card"), "again", quantize_to(WeightType::kInt8));
  const std::string again = read_card(target("again"));
  const std::string name = card.substr(card.find("base_model: "), 30);
  EXPECT_NE(again.find(name.substr(0, name.find('\n'))), std::string::npos) << again;
  EXPECT_NE(again.find("license: mit\n"), std::string::npos) << again;
  EXPECT_EQ(read_card(target("again"), "base-model-card.md"), base);
}

// A header that does not end, a card that is no text, none at all.
TEST_F(Compress, AnyCardOfTheSourceWillDo) {
  const std::string source = wider(testing::tiny_bert()).write("compress_bert");
  for (const std::string& base : {std::string("---\nlicense: mit"), std::string("\xff\0---", 5),
                                  std::string("---\n---"), std::string("---\nx\n---\n")}) {
    std::ofstream(source + "/README.md") << base;
    run(source, "any", options_of(PruneUnit::kTiles, 0.5));
    EXPECT_NE(read_card(target("any")).find("does not name one"), std::string::npos);
    EXPECT_EQ(read_card(target("any"), "base-model-card.md"), base);
    fs::remove_all(target("any"));
  }
}

}  // namespace
}  // namespace tessera
