#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <filesystem>
#include <fstream>
#include <random>

#include "compress/directory.h"
#include "io/testing.h"
#include "runtime/testing.h"
#include "tessera/compress.h"
#include "tessera/model.h"

// What tests of whole compressions share.
namespace tessera::testing {

inline constexpr uint32_t kSeed = 88;

// The tiny checkpoints at four times their width, so that there are tiles to choose among.
inline TinyCheckpoint wider(TinyCheckpoint tiny) {
  for (auto& [name, shape] : tiny.shapes) {
    for (int64_t& extent : shape) {
      if (extent == 8 || extent == 16 || extent == 24) extent *= 4;
    }
  }
  tiny.with("\"hidden_size\": 16", "\"hidden_size\": 64");
  return tiny.with("\"intermediate_size\": 24", "\"intermediate_size\": 96");
}

inline std::vector<TokenSequence> sequences(int64_t count, int64_t length, uint32_t seed) {
  std::mt19937 generator(seed);
  std::vector<TokenSequence> all;
  for (int64_t s = 0; s < count; ++s) {
    TokenSequence& sequence = all.emplace_back();
    for (int64_t i = 0; i < length; ++i)
      sequence.ids.push_back(static_cast<int32_t>(generator() % 49));
  }
  return all;
}

inline CompressOptions options_of(PruneUnit unit, double share) {
  CompressOptions options;
  options.prune = PruneOptions{.unit = unit, .share = share};
  options.calibration.threads = 2;
  options.measure = CompressOptions::Measure::kNo;
  return options;
}

inline CompressOptions quantize_to(WeightType weights) {
  CompressOptions options;
  options.quantize = QuantizeOptions{.weights = weights};
  options.calibration.threads = 2;
  options.measure = CompressOptions::Measure::kNo;
  return options;
}

inline CompressOptions compensated(CompressOptions options) {
  options.calibration.sequences = sequences(20, 30, kSeed);
  options.quantize->rounding = Rounding::kCompensated;
  return options;
}

inline CompressOptions calibrated(CompressOptions options) {
  options.calibration.sequences = sequences(20, 30, kSeed);
  options.prune->score = PruneScore::kCalibrated;
  return options;
}

inline CompressOptions repaired(CompressOptions options) {
  options = calibrated(std::move(options));
  options.prune->repair = PruneOptions::Repair::kLeastSquares;
  return options;
}

inline std::vector<float> logits_of(const std::string& directory,
                                    WeightType weights = WeightType::kAuto) {
  const auto model = Model::load(directory, {.threads = 2, .weights = weights});
  EXPECT_TRUE(model.ok()) << model.status().message();
  if (!model.ok()) return {};
  const auto result = (*model)->forward(sequences(3, 20, kSeed + 1));
  EXPECT_TRUE(result.ok()) << result.status().message();
  return result.ok() ? result->logits : std::vector<float>();
}

inline std::vector<float> transposed(const std::vector<float>& values, int64_t rows, int64_t cols) {
  std::vector<float> turned(values.size());
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c)
      turned[static_cast<size_t>(c * rows + r)] = values[static_cast<size_t>(r * cols + c)];
  }
  return turned;
}

// The same checkpoint with every matrix written out, to be run by the dense path alone.
inline void write_out(const std::string& directory, const std::string& target) {
  const auto opened = OpenCheckpoint::open(directory);
  ASSERT_TRUE(opened.ok()) << opened.status().message();
  const OpenCheckpoint& source = **opened;
  const auto architecture = read_architecture(source.checkpoint);
  ASSERT_TRUE(architecture.ok()) << architecture.status().message();
  const TensorNames& names = architecture->names;
  std::deque<std::vector<float>> memory;
  std::vector<TensorToWrite> tensors;
  std::vector<std::string> done;
  const auto add = [&](const std::string& name, const TensorFormat& format) {
    const bool is_table = name == tensor_name(names, names.token_embedding, 0);
    const MatrixOrder order =
        is_table ? MatrixOrder::kOutputRows : architecture->layer(0).names.qkv.order;
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
  std::filesystem::create_directories(target);
  ASSERT_TRUE(write_safetensors(target + "/model.safetensors", tensors).ok());
  std::string config = content_of(directory + "/config.json");
  config.replace(config.find("\"tessera\""), 9, "\"was_tessera\"");
  std::ofstream(target + "/config.json") << config;
}

inline double norm(const std::vector<float>& values) {
  double sum = 0;
  for (const float value : values) sum += static_cast<double>(value) * value;
  return std::sqrt(sum);
}

inline double distance(const std::vector<float>& a, const std::vector<float>& b) {
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

}  // namespace tessera::testing
