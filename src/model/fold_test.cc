#include "model/fold.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <string>

#include "base/device.h"
#include "formats/compact.h"
#include "kernels/family.h"

// A layer's attention alone, from its input to its output with the residual, against two steps in
// double precision over the matrices written out.
namespace tessera {
namespace {

constexpr double kEpsilon = std::numeric_limits<float>::epsilon();

enum class Biases { kNone, kAll };
// Which outputs of V or of the output matrix are kept.
enum class Keep { kDense, kAll, kSome, kNone };

struct Case {
  int32_t query_heads = 4;
  int32_t kv_heads = 4;
  int32_t head_size = 8;
  int32_t hidden_size = 40;
  Biases biases = Biases::kAll;
  Keep features = Keep::kDense;
  Keep values = Keep::kDense;
  bool fused = false;
  VoMethod vo = VoMethod::kPrecomputed;
  Precision weights = Precision::kF32;
  int threads = 2;
  uint32_t seed = 1;
};

class Layer {
 public:
  explicit Layer(const Case& c) : case_(c), random_(c.seed), team_(c.threads) {
    a_.layers = 1;
    a_.mask = Mask::kNone;
    a_.hidden_size = c.hidden_size;
    a_.query_heads = c.query_heads;
    a_.kv_heads = c.kv_heads;
    a_.head_size = c.head_size;
    a_.score_scale = 1 / std::sqrt(static_cast<float>(c.head_size));
    const int64_t d = c.hidden_size;
    qkv_ = normal((a_.query_width() + 2 * a_.kv_width()) * d, 0.3f);
    output_ = normal(d * a_.query_width(), 0.3f);
    if (c.biases == Biases::kAll) {
      stored_.qkv_bias = normal(a_.query_width() + 2 * a_.kv_width(), 1);
      stored_.output_bias = normal(d, 1);
    }
    x_ = normal(rows() * d, 1);
    residual_ = normal(rows() * d, 1);
    store_values();
    store_output();
  }

  Result<PreparedAttention> prepare() {
    return prepare_attention(
        stored_, {.architecture = &a_,
                  .vo = case_.vo,
                  .weights = case_.weights,
                  .team = &team_,
                  .prepare = [&](const MatrixStack& stack, const std::vector<float>& bias) {
                    return prepare_stack(stack, bias);
                  }});
  }

  std::vector<float> run(const PreparedAttention& prepared, const AttentionMethod& method) {
    a_.values = {prepared.values};
    const int64_t d = a_.hidden_size, width = a_.qkv_width(0);
    const AttentionShape shape = a_.attention_shape(0);
    EXPECT_TRUE(method.check(shape).ok());
    EXPECT_EQ(prepared.qkv->info().outputs, width);
    EXPECT_EQ(prepared.output->info().inputs, shape.output_width());
    std::vector<float> qkv(rows() * width), context(rows() * shape.output_width()), y = residual_;
    std::vector<std::vector<std::byte>> storage;
    std::vector<PageTable> tables(kLengths.size());
    std::vector<PageTable*> pointers;
    std::vector<AttentionSequence> sequences;
    const std::vector<int32_t> first_tokens(kLengths.size());
    std::vector<int32_t> first_rows = {0}, positions;
    for (size_t s = 0; s < kLengths.size(); ++s) {
      for (int32_t p = 0; p < pages_for(kLengths[s]); ++p) {
        storage.emplace_back(shape.pages.page_bytes());
        tables[s].pages.push_back(storage.back().data());
      }
      tables[s].positions.resize(kLengths[s]);
      std::iota(tables[s].positions.begin(), tables[s].positions.end(), 0);
      sequences.push_back({.first_row = first_rows.back(),
                           .queries = kLengths[s],
                           .query_positions = tables[s].positions.data(),
                           .keys = &tables[s]});
      pointers.push_back(&tables[s]);
      first_rows.push_back(first_rows.back() + kLengths[s]);
    }
    const int64_t bytes = method.cost(shape, 200, 200).workspace_bytes;
    const int64_t stride = (bytes + 63) / 64 * 64;
    const Buffer workspace = host_device().allocate(stride * team_.size());
    // Alone, so that only attention depends on the team.
    prepared.qkv->apply_alone(
        {.x = x_.data(), .x_stride = d, .rows = rows(), .y = qkv.data(), .y_stride = width});
    team_.run([&](Team::Member& member) {
      const float* key = qkv.data() + a_.query_width();
      append_to_pages({.shape = shape.pages,
                       .tables = pointers,
                       .first_tokens = first_tokens.data(),
                       .first_rows = first_rows.data(),
                       .key = key,
                       .key_stride = width,
                       .value = key + a_.kv_width(),
                       .value_stride = width},
                      member.slice(rows()));
      member.barrier();
      method.run({.shape = shape,
                  .sequences = sequences,
                  .query = qkv.data(),
                  .query_stride = width,
                  .output = context.data(),
                  .output_stride = shape.output_width()},
                 member, workspace.as<char>() + member.rank() * stride);
      member.barrier();
      prepared.output->apply({.x = context.data(),
                              .x_stride = shape.output_width(),
                              .rows = rows(),
                              .residual = y.data(),
                              .residual_stride = d,
                              .y = y.data(),
                              .y_stride = d},
                             member);
    });
    return y;
  }

  // Two steps in double precision, and what rounding may change: each of the chained sums of n
  // terms is off by at most (n + 8) eps of its terms' sizes, the scores' error enters the
  // probabilities as a factor. `rounding`: relative, of a pre-computed weight.
  void check(const std::vector<float>& found, double rounding) const {
    const int64_t d = a_.hidden_size;
    int64_t first = 0;
    for (const int32_t length : kLengths) {
      for (int32_t r = 0; r < length; ++r) {
        std::vector<double> y(d), size(d);
        for (int32_t h = 0; h < a_.query_heads; ++h) add_head(first, length, r, h, y, size);
        for (int64_t i = 0; i < d; ++i) {
          double value = y[i], magnitude = size[i];
          if (!stored_.output_bias.empty()) {
            value += stored_.output_bias[i];
            magnitude += std::abs(stored_.output_bias[i]);
          }
          value += residual_[(first + r) * d + i];
          magnitude += std::abs(residual_[(first + r) * d + i]);
          const double terms = d + a_.head_size + length + a_.query_heads + 32;
          ASSERT_NEAR(value, found[(first + r) * d + i],
                      magnitude * (terms * kEpsilon + rounding) + score_slack_ * magnitude)
              << "seed " << case_.seed << ", row " << first + r << ", feature " << i;
        }
      }
      first += length;
    }
  }

  Architecture& architecture() { return a_; }

 private:
  static inline const std::vector<int32_t> kLengths = {70, 1, 9};

  static int64_t rows() { return std::accumulate(kLengths.begin(), kLengths.end(), 0); }

  std::vector<float> normal(int64_t count, float scale) {
    std::normal_distribution<float> distribution(0, scale);
    std::vector<float> values(static_cast<size_t>(count));
    for (float& v : values) v = distribution(random_);
    // Exact in bf16, so that only products are rounded there.
    if (case_.weights == Precision::kBF16) {
      for (float& v : values) v = bf16_to_f32(f32_to_bf16(v));
    }
    return values;
  }

  std::vector<int32_t> kept(Keep keep, int32_t begin, int32_t end) {
    std::vector<int32_t> all(end - begin), some;
    std::iota(all.begin(), all.end(), begin);
    if (keep == Keep::kNone) return {};
    if (keep != Keep::kSome) return all;
    std::sample(all.begin(), all.end(), std::back_inserter(some), (end - begin + 2) / 3, random_);
    return some;
  }

  CompactMatrix compact(std::vector<float>& whole, int64_t inputs, std::vector<int32_t> index) {
    std::vector<float>& values = owned_.emplace_back(1);  // not of null where nothing is kept
    values.clear();
    std::vector<float> masked(whole.size());
    for (const int32_t output : index) {
      const auto row = whole.begin() + output * inputs;
      values.insert(values.end(), row, row + inputs);
      std::copy(row, row + inputs, masked.begin() + output * inputs);
    }
    const auto outputs = static_cast<int64_t>(whole.size()) / inputs;
    whole = masked;
    const auto count = static_cast<int64_t>(index.size());
    indices_.push_back(std::move(index));
    return {.kept = {values.data(), DType::kF32, count, inputs},
            .axis = KeptAxis::kOutputs,
            .index = indices_.back().data(),
            .whole = outputs};
  }

  void store_values() {
    const int64_t d = a_.hidden_size;
    const auto queries_keys = qkv_.begin() + (a_.query_width() + a_.kv_width()) * d;
    value_.assign(queries_keys, qkv_.end());
    if (case_.fused) {  // by inputs, as GPT-2 has it
      const int64_t outputs = a_.query_width() + 2 * a_.kv_width();
      transposed_.resize(qkv_.size());
      for (int64_t o = 0; o < outputs; ++o) {
        for (int64_t i = 0; i < d; ++i) transposed_[i * outputs + o] = qkv_[o * d + i];
      }
      stored_.qkv = {
          DenseView{transposed_.data(), DType::kF32, d, outputs, MatrixOrder::kInputRows}};
      return;
    }
    stored_.qkv = {DenseView{qkv_.data(), DType::kF32, a_.query_width() + a_.kv_width(), d}};
    if (case_.values == Keep::kDense) {
      stored_.qkv.push_back(DenseView{value_.data(), DType::kF32, a_.kv_width(), d});
      return;
    }
    std::vector<int32_t> index;
    for (int32_t g = 0; g < a_.kv_heads; ++g) {
      const std::vector<int32_t> of_head =
          kept(case_.values, g * a_.head_size, (g + 1) * a_.head_size);
      index.insert(index.end(), of_head.begin(), of_head.end());
    }
    stored_.qkv.push_back(compact(value_, d, index));
  }

  void store_output() {
    if (case_.features == Keep::kDense) {
      stored_.output = {DenseView{output_.data(), DType::kF32, a_.hidden_size, a_.query_width()}};
    } else {
      stored_.output = {
          compact(output_, a_.query_width(), kept(case_.features, 0, a_.hidden_size))};
    }
  }

  // What the loader does, for the formats of this test.
  Result<std::unique_ptr<Linear>> prepare_stack(const MatrixStack& stack,
                                                const std::vector<float>& bias) {
    DenseStack dense;
    std::vector<std::vector<float>> whole;
    for (const StoredMatrix& part : stack) {
      if (const auto view = as<DenseView>(part)) {
        dense.push_back(*view);
      } else {
        whole.emplace_back(outputs(part) * inputs(part));
        to_dense(part, whole.back().data());
        dense.push_back({whole.back().data(), DType::kF32, outputs(part), inputs(part)});
      }
    }
    return prepare_dense(dense, bias.empty() ? nullptr : bias.data(), case_.weights, team_);
  }

  double bias(int64_t output) const {
    return stored_.qkv_bias.empty() ? 0 : stored_.qkv_bias[static_cast<size_t>(output)];
  }

  double projected(const float* weights, int64_t output, int64_t row, double offset,
                   double* size = nullptr) const {
    const int64_t d = a_.hidden_size;
    double sum = offset, magnitude = std::abs(offset);
    for (int64_t i = 0; i < d; ++i) {
      const double term = double{weights[output * d + i]} * x_[row * d + i];
      sum += term;
      magnitude += std::abs(term);
    }
    if (size != nullptr) *size = magnitude;
    return sum;
  }

  void add_head(int64_t first, int32_t length, int32_t r, int32_t h, std::vector<double>& y,
                std::vector<double>& y_size) const {
    const int32_t size = a_.head_size, g = h / (a_.query_heads / a_.kv_heads);
    std::vector<double> score(length), value(size), value_size(size);
    double maximum = -INFINITY, total = 0;
    for (int32_t j = 0; j < length; ++j) {
      for (int32_t i = 0; i < size; ++i) {
        const int64_t q = h * size + i, k = a_.query_width() + g * size + i;
        score[j] += projected(qkv_.data(), q, first + r, bias(q)) *
                    projected(qkv_.data(), k, first + j, bias(k));
      }
      score[j] *= a_.score_scale;
      maximum = std::max(maximum, score[j]);
    }
    for (double& s : score) total += s = std::exp(s - maximum);
    for (int32_t j = 0; j < length; ++j) {
      for (int32_t i = 0; i < size; ++i) {
        double magnitude = 0;
        const int64_t v = g * size + i;
        const double offset = bias(a_.query_width() + a_.kv_width() + v);
        value[i] += score[j] / total * projected(value_.data(), v, first + j, offset, &magnitude);
        value_size[i] += score[j] / total * magnitude;
      }
    }
    for (int64_t o = 0; o < a_.hidden_size; ++o) {
      for (int32_t i = 0; i < size; ++i) {
        const double w = output_[o * a_.query_width() + h * size + i];
        y[o] += w * value[i];
        y_size[o] += std::abs(w) * value_size[i];
      }
    }
  }

  Case case_;
  std::mt19937 random_;
  Team team_;
  Architecture a_;
  StoredAttention stored_;
  std::vector<float> qkv_, value_, output_, x_, residual_, transposed_;
  std::vector<std::vector<float>> owned_;
  std::vector<std::vector<int32_t>> indices_;
  // Scores of about 40 terms of size 10, each projected with 48 roundings, and their exponential.
  static constexpr double score_slack_ = 2 * 2 * (48 + 48 + 8) * 10 * kEpsilon;
};

void check_case(const Case& c, HeadOutputs expected) {
  SCOPED_TRACE(::testing::Message()
               << "heads " << c.query_heads << "/" << c.kv_heads << ", seed " << c.seed);
  Layer layer(c);
  const auto prepared = layer.prepare();
  ASSERT_TRUE(prepared.ok()) << prepared.status().message();
  EXPECT_EQ(prepared->values.outputs, expected);
  const double rounding = c.weights == Precision::kBF16 ? 1.0 / 512 : 0;
  for (const AttentionMethod* method : attention_methods()) {
    SCOPED_TRACE(method->name());
    layer.check(layer.run(*prepared, *method), rounding);
  }
}

constexpr HeadOutputs kSummed = HeadOutputs::kSummed;
constexpr HeadOutputs kConcatenated = HeadOutputs::kConcatenated;

TEST(Fold, GivesWhatTwoStepsGive) {
  uint32_t seed = 10;
  for (const int32_t heads : {1, 2, 4, 8, 12}) {
    for (const Biases biases : {Biases::kNone, Biases::kAll}) {
      for (const Keep features : {Keep::kDense, Keep::kSome})
        check_case({.query_heads = heads,
                    .kv_heads = heads,
                    .biases = biases,
                    .features = features,
                    .seed = ++seed},
                   kSummed);
    }
  }
}

TEST(Fold, GroupsShareTheirValues) {
  uint32_t seed = 100;
  for (const int32_t kv_heads : {1, 2, 4}) {
    for (const Keep features : {Keep::kDense, Keep::kSome})
      check_case({.query_heads = 8, .kv_heads = kv_heads, .features = features, .seed = ++seed},
                 kSummed);
  }
}

TEST(Fold, AllOrNoFeaturesKept) {
  check_case({.features = Keep::kAll, .seed = 200}, kSummed);
  check_case({.features = Keep::kNone, .seed = 201}, kSummed);
  check_case({.biases = Biases::kNone, .features = Keep::kNone, .seed = 202}, kSummed);
}

TEST(Fold, FusedAndCompactValues) {
  check_case({.fused = true, .seed = 300}, kSummed);
  check_case({.features = Keep::kSome, .fused = true, .seed = 301}, kSummed);
  check_case({.values = Keep::kSome, .seed = 302}, kSummed);
}

TEST(Fold, RoundsToBf16Once) {
  // With rows of f32, whatever the CPU is faster with.
  force_kernel("matmul:ref");
  check_case({.features = Keep::kSome, .weights = Precision::kBF16, .seed = 400}, kSummed);
  force_kernel("");
}

TEST(Fold, TwoStepsAsStored) {
  uint32_t seed = 500;
  for (const Keep features : {Keep::kDense, Keep::kSome, Keep::kAll}) {
    check_case({.features = features, .vo = VoMethod::kTwoStep, .seed = ++seed}, kConcatenated);
  }
  check_case({.fused = true, .vo = VoMethod::kTwoStep, .seed = ++seed}, kConcatenated);
}

TEST(Fold, CompactValues) {
  uint32_t seed = 600;
  for (const Biases biases : {Biases::kNone, Biases::kAll}) {
    for (const int32_t kv_heads : {1, 2, 4}) {
      const Case c{.kv_heads = kv_heads,
                   .biases = biases,
                   .values = Keep::kSome,
                   .vo = VoMethod::kTwoStep,
                   .seed = ++seed};
      check_case(c, kConcatenated);
      Layer layer(c);
      const auto prepared = layer.prepare();
      ASSERT_TRUE(prepared.ok());
      EXPECT_EQ(prepared->values.size, 3);  // of 8
      EXPECT_EQ(prepared->output->info().inputs, 12);
    }
  }
}

// As much is kept of each head, or values stay as they are.
TEST(Fold, NoValueKept) {
  const Case c{.values = Keep::kNone, .vo = VoMethod::kTwoStep, .seed = 700};
  check_case(c, kConcatenated);
}

TEST(Fold, TeamsOfAnySizeGiveTheSameBits) {
  for (const AttentionMethod* method : attention_methods()) {
    std::vector<std::vector<float>> results;
    for (const int threads : {1, 2, 3}) {
      Layer layer({.query_heads = 8, .kv_heads = 2, .features = Keep::kSome, .threads = threads});
      const auto prepared = layer.prepare();
      ASSERT_TRUE(prepared.ok());
      results.push_back(layer.run(*prepared, *method));
    }
    EXPECT_EQ(results[0], results[1]) << method->name();
    EXPECT_EQ(results[0], results[2]) << method->name();
  }
}

// Dense, four heads have four products where two steps have two; a third of the features for one
// head costs less.
TEST(Fold, IsChosenWhereItPays) {
  for (const Keep features : {Keep::kDense, Keep::kSome}) {
    const int32_t heads = features == Keep::kSome ? 1 : 4;
    Layer layer({.query_heads = heads,
                 .kv_heads = heads,
                 .head_size = 40 / heads,
                 .features = features,
                 .vo = VoMethod::kAuto});
    const auto prepared = layer.prepare();
    ASSERT_TRUE(prepared.ok());
    EXPECT_EQ(prepared->vo.method,
              features == Keep::kSome ? VoMethod::kPrecomputed : VoMethod::kTwoStep);
    EXPECT_FALSE(prepared->vo.why.empty());
  }
}

TEST(Fold, RefusesProductsThatOverflow) {
  Case c;
  Layer layer(c);
  const std::vector<float> huge(4 * 8 * 40, 3e38f);
  StoredAttention stored;
  stored.qkv = {DenseView{huge.data(), DType::kF32, 32, 40},
                DenseView{huge.data(), DType::kF32, 32, 40},
                DenseView{huge.data(), DType::kF32, 32, 40}};
  stored.output = {DenseView{huge.data(), DType::kF32, 40, 32}};
  Team team(1);
  const auto prepared = prepare_attention(
      stored, {.architecture = &layer.architecture(),
               .vo = VoMethod::kPrecomputed,
               .team = &team,
               .prepare = [&](const MatrixStack&, const std::vector<float>&) {
                 return Result<std::unique_ptr<Linear>>(invalid_input("not reached"));
               }});
  EXPECT_EQ(prepared.status().code(), StatusCode::kInvalidInput);
  EXPECT_NE(prepared.status().message().find("not finite"), std::string::npos);
}

}  // namespace
}  // namespace tessera
