#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <filesystem>
#include <fstream>
#include <random>

#include "compress/directory.h"
#include "io/mapped_file.h"
#include "io/testing.h"
#include "runtime/testing.h"
#include "tessera/compress.h"
#include "tessera/model.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;
using testing::TempDir;
using testing::TinyCheckpoint;

constexpr uint32_t kSeed = 88;

// The tiny checkpoints at four times their width, so that there are tiles to choose among.
TinyCheckpoint wider(TinyCheckpoint tiny) {
  for (auto& [name, shape] : tiny.shapes) {
    for (int64_t& extent : shape) {
      if (extent == 8 || extent == 16 || extent == 24) extent *= 4;
    }
  }
  tiny.with("\"hidden_size\": 16", "\"hidden_size\": 64");
  return tiny.with("\"intermediate_size\": 24", "\"intermediate_size\": 96");
}

std::vector<TokenSequence> sequences(int64_t count, int64_t length, uint32_t seed) {
  std::mt19937 generator(seed);
  std::vector<TokenSequence> all;
  for (int64_t s = 0; s < count; ++s) {
    TokenSequence& sequence = all.emplace_back();
    for (int64_t i = 0; i < length; ++i)
      sequence.ids.push_back(static_cast<int32_t>(generator() % 49));
  }
  return all;
}

CompressOptions options_of(PruneUnit unit, double share) {
  CompressOptions options;
  options.prune = PruneOptions{.unit = unit, .share = share};
  options.calibration.threads = 2;
  options.measure = CompressOptions::Measure::kNo;
  return options;
}

CompressOptions quantize_to(WeightType weights) {
  CompressOptions options;
  options.quantize = QuantizeOptions{.weights = weights};
  options.calibration.threads = 2;
  options.measure = CompressOptions::Measure::kNo;
  return options;
}

CompressOptions compensated(CompressOptions options) {
  options.calibration.sequences = sequences(20, 30, kSeed);
  options.quantize->rounding = Rounding::kCompensated;
  return options;
}

CompressOptions calibrated(CompressOptions options) {
  options.calibration.sequences = sequences(20, 30, kSeed);
  options.prune->score = PruneScore::kCalibrated;
  return options;
}

CompressOptions repaired(CompressOptions options) {
  options = calibrated(std::move(options));
  options.prune->repair = PruneOptions::Repair::kLeastSquares;
  return options;
}

std::vector<float> logits_of(const std::string& directory, WeightType weights = WeightType::kAuto) {
  const auto model = Model::load(directory, {.threads = 2, .weights = weights});
  EXPECT_TRUE(model.ok()) << model.status().message();
  if (!model.ok()) return {};
  const auto result = (*model)->forward(sequences(3, 20, kSeed + 1));
  EXPECT_TRUE(result.ok()) << result.status().message();
  return result.ok() ? result->logits : std::vector<float>();
}

std::vector<float> transposed(const std::vector<float>& values, int64_t rows, int64_t cols) {
  std::vector<float> turned(values.size());
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c)
      turned[static_cast<size_t>(c * rows + r)] = values[static_cast<size_t>(r * cols + c)];
  }
  return turned;
}

// The same checkpoint with every matrix written out, to be run by the dense path alone.
void write_out(const std::string& directory, const std::string& target) {
  const auto opened = OpenCheckpoint::open(directory);
  ASSERT_TRUE(opened.ok()) << opened.status().message();
  const OpenCheckpoint& source = **opened;
  const auto architecture = read_architecture(source.checkpoint);
  ASSERT_TRUE(architecture.ok()) << architecture.status().message();
  const TensorNames names = checkpoint_names(source.checkpoint, *architecture);
  std::deque<std::vector<float>> memory;
  std::vector<TensorToWrite> tensors;
  std::vector<std::string> done;
  const auto add = [&](const std::string& name, const TensorFormat& format) {
    const bool is_table = name == tensor_name(names, names.token_embedding, 0);
    const MatrixOrder order = is_table ? MatrixOrder::kOutputRows : names.layer.qkv.order;
    std::vector<float>& whole = memory.emplace_back();  // by outputs
    int64_t inputs = 0;
    for (const std::string& part : parts_of(source.formats, name)) {
      const auto read = read_matrix(source.checkpoint, source.formats, part,
                                    {nullptr, DType::kF32, -1, -1, order});
      ASSERT_TRUE(read.ok()) << read.status().message();
      const StoredMatrix& matrix = read->packed.matrix;
      std::vector<char> dense(static_cast<size_t>(dense_bytes(matrix)));
      to_dense(matrix, dense.data());
      inputs = tessera::inputs(matrix);
      std::vector<float> values(static_cast<size_t>(outputs(matrix) * inputs));
      convert_to_f32(dense.data(), dtype(matrix), outputs(matrix) * inputs, values.data());
      if (tessera::order(matrix) == MatrixOrder::kInputRows)
        values = transposed(values, inputs, outputs(matrix));
      whole.insert(whole.end(), values.begin(), values.end());
    }
    const auto outputs = static_cast<int64_t>(whole.size()) / inputs;
    const bool by_output = order == MatrixOrder::kOutputRows;
    if (!by_output) whole = transposed(whole, outputs, inputs);
    if (format.format != &weight_formats::quantized) {
      ASSERT_EQ(format.rows, by_output ? outputs : inputs);
    }
    for (const std::string& tensor : tensors_of(source.formats, name)) done.push_back(tensor);
    tensors.push_back({name,
                       DType::kF32,
                       {by_output ? outputs : inputs, by_output ? inputs : outputs},
                       whole.data()});
  };
  std::vector<std::string> parts;
  for (const auto& [name, format] : source.formats.tensors())
    parts.insert(parts.end(), format.parts.begin(), format.parts.end());
  for (const auto& [name, format] : source.formats.tensors()) {
    if (std::find(parts.begin(), parts.end(), name) == parts.end()) add(name, format);
  }
  for (const std::string& name : source.checkpoint.names()) {
    if (std::find(done.begin(), done.end(), name) != done.end()) continue;
    const TensorView view = *source.checkpoint.any_tensor(name);
    tensors.push_back({name, view.dtype, view.shape, view.data});
  }
  fs::create_directories(target);
  ASSERT_TRUE(write_safetensors(target + "/model.safetensors", tensors).ok());
  std::string config = testing::content_of(directory + "/config.json");
  config.replace(config.find("\"tessera\""), 9, "\"was_tessera\"");
  std::ofstream(target + "/config.json") << config;
}

double norm(const std::vector<float>& values) {
  double sum = 0;
  for (const float value : values) sum += static_cast<double>(value) * value;
  return std::sqrt(sum);
}

double distance(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double sum = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i)
    sum += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
  return std::sqrt(sum);
}

class Compress : public ::testing::Test {
 protected:
  std::string target(const std::string& name) const { return dir_ / name; }
  CompressReport run(const std::string& source, const std::string& name,
                     const CompressOptions& options) {
    const auto report = compress(source, target(name), options);
    EXPECT_TRUE(report.ok()) << report.status().message();
    return report.ok() ? *report : CompressReport();
  }
  // What the sparse kernels give is what the dense ones give of the matrices written out.
  void expect_like_written_out(const std::string& name, WeightType weights = WeightType::kAuto) {
    write_out(target(name), target(name + "-dense"));
    const std::vector<float> expected = logits_of(target(name + "-dense"), weights);
    EXPECT_LE(distance(logits_of(target(name), weights), expected), 2e-4 * norm(expected)) << name;
    EXPECT_GT(norm(expected), 0);
  }

  TempDir dir_;
};

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
  run(source, "first", options);
  run(source, "second", options);
  const std::string first = testing::content_of(target("first/model.safetensors"));
  EXPECT_EQ(first, testing::content_of(target("second/model.safetensors")));
  EXPECT_EQ(testing::content_of(target("first/config.json")),
            testing::content_of(target("second/config.json")));
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
  EXPECT_EQ(testing::content_of(target("whole/model.safetensors")),
            testing::content_of(target("taken_up/model.safetensors")));
  EXPECT_FALSE(fs::exists(target("taken_up.part")));
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
  if (!stored.ok() && stored.status().code() == StatusCode::kUnsupported)
    GTEST_SKIP() << stored.status().message();
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
  for (const char* file : {"/model.safetensors", "/config.json"})
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
  refused(CompressOptions(), {"to prune or to quantize", "neither"});
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
  options.measure = CompressOptions::Measure::kYes;
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
