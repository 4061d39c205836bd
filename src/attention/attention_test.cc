#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "attention/method.h"
#include "base/isa.h"

namespace tessera {
namespace {

constexpr double kEpsilon = std::numeric_limits<float>::epsilon();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Length {
  int32_t queries = 1;
  int32_t keys = 1;
};

struct Case {
  AttentionShape shape;
  std::vector<Length> lengths;
  uint32_t seed = 1;
  float key_scale = 1;
  float shift =
      0;  // added to every score through a constant in the first element of each query and key
  float gap_chance = 0;    // of a position that no key has
  double bias_scale = -1;  // < 0: no bias
};

AttentionShape shape_of(int32_t query_heads, int32_t kv_heads, int32_t d_k, int32_t d_v) {
  return {.query_heads = query_heads,
          .pages = {.kv_heads = kv_heads, .d_k = d_k, .d_v = d_v},
          .scale = 1 / std::sqrt(static_cast<float>(d_k))};
}

// Every query head has values of its own, and the heads are added up.
AttentionShape summed_shape(int32_t query_heads, int32_t kv_heads, int32_t d_k, int32_t d_v) {
  AttentionShape shape = shape_of(query_heads, kv_heads, d_k, d_v);
  shape.pages.value_heads = query_heads;
  shape.outputs = HeadOutputs::kSummed;
  return shape;
}

struct Output {
  std::vector<float> values;
  std::vector<float> log_sum_exp;
  std::vector<float> column_mass = {};  // of all sequences, one after another
};

enum class ColumnMass { kNo, kYes };

// What a float may be off by: see Batch::exact.
struct Exact {
  std::vector<double> values, values_slack, log_sum_exp, log_sum_exp_slack;
  std::vector<double> column_mass, column_mass_slack;
};

// A batch with random data, its pages filled by append_to_pages.
class Batch {
 public:
  explicit Batch(const Case& c) : shape_(c.shape), generator_(c.seed) {
    const PageShape& pages = shape_.pages;
    first_rows_.push_back(0);
    first_keys_.push_back(0);
    for (const Length& length : c.lengths) {
      first_rows_.push_back(first_rows_.back() + length.queries);
      first_keys_.push_back(first_keys_.back() + length.keys);
    }
    query_stride_ = int64_t{shape_.query_heads} * pages.d_k + 3;
    output_stride_ = shape_.output_width() + 5;
    query = normal(first_rows_.back() * query_stride_, 1);
    key = normal(first_keys_.back() * key_stride(), c.key_scale);
    value = normal(first_keys_.back() * value_stride(), 1);
    if (c.shift != 0) shift_scores(c.shift);
    for (const Length& length : c.lengths) add_sequence(length, c);
    append(1);
    link();
  }

  // Writes keys and values into the pages; two calls, so that one starts behind tokens that are
  // there.
  void append(int threads) {
    std::vector<int32_t> rows = {0};
    std::vector<float> some_key, some_value;
    for (int part = 0; part < 2; ++part) {
      rows = {0};
      some_key.clear();
      some_value.clear();
      for (size_t s = 0; s < tables_.size(); ++s) {
        const int32_t begin = part == 0 ? 0 : first_part(s),
                      end = part == 0 ? first_part(s) : keys(s);
        const int64_t at = first_keys_[s];
        some_key.insert(some_key.end(), key.begin() + (at + begin) * key_stride(),
                        key.begin() + (at + end) * key_stride());
        some_value.insert(some_value.end(), value.begin() + (at + begin) * value_stride(),
                          value.begin() + (at + end) * value_stride());
        rows.push_back(rows.back() + end - begin);
      }
      std::vector<PageTable*> tables;
      for (size_t s = 0; s < tables_.size(); ++s) {
        tables_[s].positions.assign(positions_[s].begin(),
                                    positions_[s].begin() + (part == 0 ? first_part(s) : keys(s)));
        tables.push_back(&tables_[s]);
      }
      const AppendArgs args{.shape = shape_.pages,
                            .tables = tables,
                            .first_rows = rows.data(),
                            .key = some_key.data(),
                            .key_stride = key_stride(),
                            .value = some_value.data(),
                            .value_stride = value_stride()};
      Team team(threads);
      team.run([&](Team::Member& member) { append_to_pages(args, member.slice(rows.back())); });
    }
    for (size_t s = 0; s < tables_.size(); ++s) tables_[s].positions = positions_[s];
  }

  Output run(const AttentionMethod& method, int threads, ColumnMass mass = ColumnMass::kNo) {
    Output output{
        std::vector<float>(static_cast<size_t>(first_rows_.back() * output_stride_), -7.0f),
        std::vector<float>(static_cast<size_t>(first_rows_.back() * shape_.query_heads), -7.0f)};
    std::vector<AttentionSequence> sequences = sequences_;
    if (mass == ColumnMass::kYes) {
      output.column_mass.assign(static_cast<size_t>(mass_begin(sequences.size())), -7.0f);
      for (size_t s = 0; s < sequences.size(); ++s)
        sequences[s].column_mass = output.column_mass.data() + mass_begin(s);
    }
    int32_t most_queries = 0, most_keys = 0;
    for (size_t s = 0; s < tables_.size(); ++s) {
      most_queries = std::max(most_queries, sequences_[s].queries);
      most_keys = std::max(most_keys, keys(s));
    }
    const AttentionCost cost = method.cost(shape_, most_queries, most_keys);
    std::vector<float> partials(sequences.size() * static_cast<size_t>(cost.partial_floats),
                                std::nanf(""));
    std::vector<int32_t> arrived(cost.partial_floats > 0
                                     ? sequences.size() * static_cast<size_t>(shape_.pages.kv_heads)
                                     : 0);
    const AttentionArgs args{.shape = shape_,
                             .sequences = sequences,
                             .query = query.data(),
                             .query_stride = query_stride_,
                             .output = output.values.data(),
                             .output_stride = output_stride_,
                             .log_sum_exp = output.log_sum_exp.data(),
                             .partials = partials.data(),
                             .arrived = arrived.data()};
    EXPECT_TRUE(method.check(shape_).ok());
    const int64_t bytes = cost.workspace_bytes;
    Team team(threads);
    std::vector<std::unique_ptr<std::byte, void (*)(void*)>> workspaces;
    for (int t = 0; t < threads; ++t) {
      auto* memory = static_cast<std::byte*>(
          std::aligned_alloc(64, static_cast<size_t>(bytes + 63) / 64 * 64));
      std::fill_n(memory, bytes, std::byte{0xff});  // NaN, whatever is read before it is written
      workspaces.emplace_back(memory, std::free);
    }
    team.run([&](Team::Member& member) {
      method.run(args, member, workspaces[static_cast<size_t>(member.rank())].get());
    });
    EXPECT_EQ(std::count(arrived.begin(), arrived.end(), 0), std::ssize(arrived));
    return output;
  }

  // A key's or value's element as the pages hold it.
  float cached_key(size_t s, int32_t j, int32_t head, int32_t d) const {
    const PageShape& shape = shape_.pages;
    return cached(page(s, j), shape.keys_at(head), d * kPageTokens + j % kPageTokens,
                  shape.key_scales_at(head) + j % kPageTokens * 4);
  }
  float cached_value(size_t s, int32_t j, int32_t head, int32_t d) const {
    const PageShape& shape = shape_.pages;
    return cached(page(s, j), shape.values_at(head), j % kPageTokens * shape.d_v + d,
                  shape.value_scales_at(head) + j % kPageTokens * 4);
  }

  // Attention in double precision, straight from the definition, of the keys and values that the
  // pages hold, and what a computation in f32 may be off by. With n the nonzero terms of a score, A
  // the largest sum of |terms| of a row: each score is off by at most (n + 6) eps A, a probability
  // relative to the sum by twice that and by the sums' keys eps, and so is the output, in units of
  // the largest |value|; a column's mass as its probabilities, and by its own sum's queries eps.
  Exact exact() const {
    Exact exact;
    const auto elements = static_cast<size_t>(first_rows_.back() * output_stride_);
    exact.values.assign(elements, -7.0);
    exact.values_slack.assign(elements, 0.0);
    exact.column_mass.assign(static_cast<size_t>(mass_begin(tables_.size())), 0.0);
    exact.column_mass_slack.assign(exact.column_mass.size(), 1e-30);
    for (size_t s = 0; s < tables_.size(); ++s) {
      if (sequences_[s].queries == 0) {  // left as it was
        std::fill(exact.column_mass.begin() + mass_begin(s),
                  exact.column_mass.begin() + mass_begin(s + 1), -7.0);
      }
      for (int32_t q = 0; q < sequences_[s].queries; ++q) {
        for (int32_t h = 0; h < shape_.query_heads; ++h) exact_row(s, q, h, exact);
      }
    }
    return exact;
  }

  // The pages of a sequence in another order; a key's position goes with it only by page, so for
  // Mask::kNone.
  void permute_pages(uint32_t seed) {
    std::mt19937 generator(seed);
    for (PageTable& table : tables_) {
      const int64_t whole = table.tokens() / kPageTokens;
      std::shuffle(table.pages.begin(), table.pages.begin() + whole, generator);
    }
  }

  const AttentionShape& shape() const { return shape_; }
  const std::vector<PageTable>& tables() const { return tables_; }
  int64_t key_stride() const { return shape_.pages.key_width(); }
  int64_t value_stride() const { return shape_.pages.value_width(); }
  int64_t first_key(size_t s) const { return first_keys_[s]; }

  std::vector<float> query, key, value;

 private:
  std::vector<float> normal(int64_t count, float scale) {
    std::normal_distribution<float> distribution(0, scale);
    std::vector<float> values(static_cast<size_t>(count));
    for (float& v : values) v = distribution(generator_);
    return values;
  }

  const std::byte* page(size_t s, int32_t j) const { return tables_[s].pages[j / kPageTokens]; }

  float cached(const std::byte* page, int64_t matrix, int64_t element, int64_t scale) const {
    const std::byte* at = page + matrix + element * shape_.pages.number_bytes();
    switch (shape_.pages.dtype) {
      case DType::kBF16:
        return bf16_to_f32(*reinterpret_cast<const uint16_t*>(at));
      case DType::kI8:
        return *reinterpret_cast<const int8_t*>(at) * *reinterpret_cast<const float*>(page + scale);
      default:
        return *reinterpret_cast<const float*>(at);
    }
  }

  int64_t mass_begin(size_t s) const { return int64_t{shape_.query_heads} * first_keys_[s]; }
  int32_t keys(size_t s) const { return first_keys_[s + 1] - first_keys_[s]; }
  int32_t first_part(size_t s) const { return keys(s) / 3; }

  void shift_scores(float shift) {
    const PageShape& pages = shape_.pages;
    for (int64_t r = 0; r < first_rows_.back(); ++r) {
      for (int32_t h = 0; h < shape_.query_heads; ++h)
        query[r * query_stride_ + h * pages.d_k] = 1 / shape_.scale;
    }
    for (int64_t r = 0; r < first_keys_.back(); ++r) {
      for (int32_t h = 0; h < pages.kv_heads; ++h) key[r * key_stride() + h * pages.d_k] = shift;
    }
  }

  // Queries are the last positions up to that of the last key (or, with gaps, a little past it).
  void add_sequence(const Length& length, const Case& c) {
    std::uniform_real_distribution<float> chance(0, 1);
    std::vector<int32_t> positions;
    int32_t position = 0;
    for (int32_t j = 0; j < length.keys; ++j, ++position) {
      while (chance(generator_) < c.gap_chance) ++position;
      positions.push_back(position);
    }
    const int32_t last = std::max(position, length.queries);
    std::vector<int32_t> query_positions(static_cast<size_t>(length.queries));
    std::iota(query_positions.begin(), query_positions.end(), last - length.queries);
    const int64_t pages = pages_for(length.keys);
    PageTable table;
    for (int64_t p = 0; p < pages; ++p) {
      // NaN in every type, so that whatever append_to_pages leaves unwritten is seen.
      storage_.push_back(std::make_unique<std::vector<std::byte>>(
          static_cast<size_t>(shape_.pages.page_bytes()), std::byte{0xff}));
      table.pages.push_back(storage_.back()->data());
    }
    tables_.push_back(table);
    positions_.push_back(positions);
    query_positions_.push_back(query_positions);
    bias_.push_back(c.bias_scale < 0
                        ? std::vector<float>()
                        : normal(int64_t{shape_.query_heads} * length.queries * length.keys,
                                 static_cast<float>(c.bias_scale)));
    // Some keys are barred by the bias, and for one query all.
    for (float& b : bias_.back()) {
      if (chance(generator_) < 0.2f) b = -kInfinity;
    }
    if (!bias_.back().empty()) std::fill_n(bias_.back().begin(), length.keys, -kInfinity);
  }

  void link() {
    for (size_t s = 0; s < tables_.size(); ++s) {
      sequences_.push_back({.first_row = first_rows_[s],
                            .queries = first_rows_[s + 1] - first_rows_[s],
                            .query_positions = query_positions_[s].data(),
                            .keys = &tables_[s],
                            .score_bias = bias_[s].empty() ? nullptr : bias_[s].data()});
    }
  }

  bool sees(int32_t query_position, int32_t key_position) const {
    if (shape_.mask == Mask::kCausal && key_position > query_position) return false;
    return shape_.window <= 0 || key_position > query_position - shape_.window;
  }

  void exact_row(size_t s, int32_t q, int32_t h, Exact& exact) const {
    const PageShape& pages = shape_.pages;
    const int32_t g = h / (shape_.query_heads / pages.kv_heads), n = keys(s);
    const int64_t row = first_rows_[s] + q;
    const float* x = query.data() + row * query_stride_ + int64_t{h} * pages.d_k;
    std::vector<double> scores(static_cast<size_t>(n), -kInfinity);
    double maximum = -kInfinity, largest = 0, value_size = 0;
    for (int32_t j = 0; j < n; ++j) {
      if (!sees(query_positions_[s][q], positions_[s][j])) continue;
      double sum = 0, mass = 0;
      for (int32_t d = 0; d < pages.d_k; ++d) {
        const double product = double{x[d]} * cached_key(s, j, g, d);
        sum += product, mass += std::abs(product);
      }
      scores[j] = sum * shape_.scale;
      mass *= shape_.scale;
      if (!bias_[s].empty()) {
        const double bias = bias_[s][(int64_t{h} * sequences_[s].queries + q) * n + j];
        scores[j] += bias;
        if (bias != -kInfinity) mass += std::abs(bias);
      }
      largest = std::max(largest, mass);
      maximum = std::max(maximum, scores[j]);
    }
    const bool summed = shape_.outputs == HeadOutputs::kSummed;
    const int32_t value_head = summed ? h : g;
    double total = 0;
    std::vector<double> sums(static_cast<size_t>(pages.d_v));
    for (int32_t j = 0; j < n; ++j) {
      if (scores[j] == -kInfinity) continue;
      const double p = std::exp(scores[j] - maximum);
      total += p;
      for (int32_t d = 0; d < pages.d_v; ++d) {
        const double y = cached_value(s, j, value_head, d);
        sums[d] += p * y;
        value_size = std::max(value_size, std::abs(y));
      }
    }
    const auto nonzero = pages.d_k - std::count(x, x + pages.d_k, 0.0f);
    const double score_slack = static_cast<double>(nonzero + 6) * kEpsilon * largest;
    const double sum_slack = (n + 32) * kEpsilon;
    for (int32_t d = 0; d < pages.d_v; ++d) {
      const int64_t first = row * output_stride_ + (summed ? 0 : int64_t{h} * pages.d_v);
      const size_t at = static_cast<size_t>(first + d);
      if (!summed || h == 0) exact.values[at] = 0;
      exact.values[at] += total > 0 ? sums[d] / total : 0;
      // Where heads are added up, each is rounded with at most all of them.
      const double heads_slack = summed ? (shape_.query_heads + 1) * kEpsilon : 0;
      exact.values_slack[at] += (2 * score_slack + sum_slack + heads_slack) * value_size;
    }
    for (int32_t j = 0; total > 0 && j < n; ++j) {
      const auto at = static_cast<size_t>(mass_begin(s) + int64_t{h} * n + j);
      const double p = std::exp(scores[j] - maximum) / total;
      exact.column_mass[at] += p;
      exact.column_mass_slack[at] +=
          p * (2 * score_slack + sum_slack + (sequences_[s].queries + 2) * kEpsilon);
    }
    exact.log_sum_exp.push_back(total > 0 ? maximum + std::log(total) : -kInfinity);
    exact.log_sum_exp_slack.push_back(2 * score_slack + sum_slack + kEpsilon * std::abs(maximum));
  }

  AttentionShape shape_;
  std::mt19937 generator_;
  int64_t query_stride_ = 0, output_stride_ = 0;
  std::vector<int32_t> first_rows_, first_keys_;
  std::vector<std::vector<int32_t>> positions_, query_positions_;
  std::vector<std::vector<float>> bias_;
  std::vector<std::unique_ptr<std::vector<std::byte>>> storage_;
  std::vector<PageTable> tables_;
  std::vector<AttentionSequence> sequences_;
};

class IsaCap {
 public:
  explicit IsaCap(Isa cap) : before_(isa_cap()) { set_isa_cap(cap); }
  ~IsaCap() { set_isa_cap(before_); }

 private:
  Isa before_;
};

const AttentionMethod& oracle() { return *attention_methods().back(); }

void for_each_fast_method(const std::function<void(const AttentionMethod&)>& check) {
  const std::vector<Isa> isas = available_isas();
  for (Isa isa : isas) {
    if (isa > Isa::kAvx512) continue;  // no row of attention needs more
    const IsaCap cap(isa);
    for (const AttentionMethod* method :
         attention_methods().first(attention_methods().size() - 1)) {
      SCOPED_TRACE(::testing::Message() << method->name() << " with " << name(isa));
      check(*method);
    }
  }
}

void expect_near(const std::vector<float>& expected, const std::vector<float>& found,
                 const std::vector<double>& slack) {
  ASSERT_EQ(expected.size(), found.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    if (expected[i] == found[i]) continue;  // infinities
    ASSERT_NEAR(expected[i], found[i], slack[i]) << "element " << i;
  }
}

constexpr DType kPageTypes[] = {DType::kF32, DType::kBF16, DType::kI8};

// Double precision from the definition checks the oracle, to a rounding, and the oracle the others.
void check_pages(const Case& c) {
  SCOPED_TRACE(::testing::Message()
               << "seed " << c.seed << ", " << name(c.shape.pages.dtype) << ", heads "
               << c.shape.query_heads << "/" << c.shape.pages.kv_heads << ", sizes "
               << c.shape.pages.d_k << " and " << c.shape.pages.d_v << ", first "
               << c.lengths[0].queries << " x " << c.lengths[0].keys << ", causal "
               << (c.shape.mask == Mask::kCausal) << ", window " << c.shape.window);
  Batch batch(c);
  const Exact exact = batch.exact();
  const Output expected = batch.run(oracle(), 2, ColumnMass::kYes);
  for (size_t i = 0; i < exact.values.size(); ++i) {
    ASSERT_NEAR(exact.values[i], expected.values[i], kEpsilon * std::abs(exact.values[i]) + 1e-12)
        << "element " << i;
  }
  for (size_t i = 0; i < exact.log_sum_exp.size(); ++i) {
    if (exact.log_sum_exp[i] == expected.log_sum_exp[i]) continue;
    ASSERT_NEAR(exact.log_sum_exp[i], expected.log_sum_exp[i],
                kEpsilon * std::abs(exact.log_sum_exp[i]) + 1e-12);
  }
  for (size_t i = 0; i < exact.column_mass.size(); ++i) {
    ASSERT_NEAR(exact.column_mass[i], expected.column_mass[i],
                kEpsilon * std::abs(exact.column_mass[i]) + 1e-12)
        << "mass " << i;
  }
  for_each_fast_method([&](const AttentionMethod& method) {
    const Output found = batch.run(method, 1, ColumnMass::kYes);
    expect_near(expected.values, found.values, exact.values_slack);
    expect_near(expected.log_sum_exp, found.log_sum_exp, exact.log_sum_exp_slack);
    expect_near(expected.column_mass, found.column_mass, exact.column_mass_slack);
    // What is asked for beside it does not change the output.
    EXPECT_EQ(found.values, batch.run(method, 1).values);
  });
}

void check_case(Case c) {
  for (DType dtype : kPageTypes) {
    c.shape.pages.dtype = dtype;
    check_pages(c);
  }
}

TEST(Attention, HeadSizes) {
  uint32_t seed = 100;
  for (int32_t d : {1, 3, 8, 12, 16, 24, 32, 40, 64, 80, 128, 200, 256}) {
    check_case({.shape = shape_of(4, 2, d, d), .lengths = {{70, 70}, {3, 130}}, .seed = ++seed});
    check_case({.shape = shape_of(2, 2, d, 257 - d), .lengths = {{9, 65}}, .seed = ++seed});
  }
}

TEST(Attention, LengthsAndMasks) {
  uint32_t seed = 200;
  for (int32_t keys : {1, 2, 15, 16, 17, 63, 64, 65, 100, 128, 200, 257, 300, 513}) {
    for (Mask mask : {Mask::kNone, Mask::kCausal}) {
      AttentionShape shape = shape_of(2, 1, 16, 24);
      shape.mask = mask;
      // As many queries as keys, and queries behind a cached prefix.
      check_case({.shape = shape,
                  .lengths = {{std::min(keys, 200), keys}, {(keys + 2) / 3, keys}, {1, keys}},
                  .seed = ++seed});
    }
  }
}

TEST(Attention, HeadGroups) {
  uint32_t seed = 300;
  for (int32_t kv_heads : {1, 2, 4, 8}) {
    for (int32_t group : {1, 2, 4, 8}) {
      AttentionShape shape = shape_of(kv_heads * group, kv_heads, 8, 8);
      shape.mask = Mask::kCausal;
      check_case({.shape = shape, .lengths = {{37, 50}, {1, 90}}, .seed = ++seed});
    }
  }
  check_case({.shape = shape_of(150, 1, 16, 16), .lengths = {{2, 90}, {1, 64}}, .seed = ++seed});
}

TEST(Attention, Windows) {
  uint32_t seed = 400;
  for (int32_t window : {1, 2, 30, 64, 100, 1000}) {
    for (Mask mask : {Mask::kNone, Mask::kCausal}) {
      for (float gap_chance : {0.0f, 0.5f}) {
        AttentionShape shape = shape_of(2, 2, 16, 16);
        shape.mask = mask;
        shape.window = window;
        check_case({.shape = shape,
                    .lengths = {{200, 200}, {130, 700}, {1, 400}},
                    .seed = ++seed,
                    .gap_chance = gap_chance});
      }
    }
  }
}

// Heads that are split over their keys.
TEST(Attention, LongCaches) {
  uint32_t seed = 1500;
  for (int32_t keys : {511, 512, 513, 1024, 1025, 3000}) {
    for (int32_t window : {0, 600}) {
      for (int32_t kv_heads : {1, 3}) {
        AttentionShape shape = shape_of(6, kv_heads, 16, 24);
        shape.mask = Mask::kCausal;
        shape.window = window;
        check_case({.shape = shape,
                    .lengths = {{1, keys}, {5, keys}, {40, keys}, {1, 3}},
                    .seed = ++seed});
        check_case({.shape = shape, .lengths = {{2, keys}}, .seed = ++seed, .gap_chance = 0.3f});
      }
    }
  }
  AttentionShape shape = shape_of(2, 1, 16, 16);
  check_case({.shape = shape, .lengths = {{3, 1400}}, .seed = 1600, .bias_scale = 2});
  check_case({.shape = shape, .lengths = {{3, 1400}}, .seed = 1601, .shift = 1000});
  check_case(
      {.shape = shape_of(2, 1, 1, 16), .lengths = {{3, 1400}}, .seed = 1602, .key_scale = 3000});
}

TEST(Attention, GapsInPositions) {
  AttentionShape shape = shape_of(4, 2, 16, 16);
  shape.mask = Mask::kCausal;
  for (uint32_t seed = 500; seed < 504; ++seed) {
    check_case({.shape = shape,
                .lengths = {{150, 150}, {40, 200}, {1, 70}},
                .seed = seed,
                .gap_chance = 0.6f});
  }
}

TEST(Attention, QueriesBeforeEveryKeySeeNothing) {
  AttentionShape shape = shape_of(2, 1, 16, 8);
  shape.mask = Mask::kCausal;
  // More queries than keys with few gaps: the first positions have no key.
  for (uint32_t seed = 510; seed < 514; ++seed) {
    check_case({.shape = shape,
                .lengths = {{120, 40}, {30, 0}, {0, 30}},
                .seed = seed,
                .gap_chance = 0.5f});
  }
}

TEST(Attention, Bias) {
  for (uint32_t seed = 600; seed < 604; ++seed) {
    AttentionShape shape = shape_of(4, 2, 16, 16);
    shape.mask = seed % 2 == 0 ? Mask::kCausal : Mask::kNone;
    check_case({.shape = shape,
                .lengths = {{100, 100}, {7, 300}, {1, 65}},
                .seed = seed,
                .bias_scale = 2});
    check_case({.shape = shape,
                .lengths = {{70, 70}},
                .seed = seed,
                .gap_chance = 0.3f,
                .bias_scale = 30});
  }
}

TEST(Attention, PeakedFlatAndShiftedScores) {
  const AttentionShape shape =
      shape_of(2, 1, 1, 16);  // one term a score, so that its rounding is small
  const std::vector<Length> lengths = {{50, 300}, {100, 100}};
  check_case({.shape = shape, .lengths = lengths, .seed = 700, .key_scale = 3000});
  check_case({.shape = shape, .lengths = lengths, .seed = 701, .key_scale = 1e-6f});
  const AttentionShape wide = shape_of(2, 1, 16, 16);
  for (float shift : {-1000.0f, -120.0f, -25.0f, 25.0f, 100.0f, 1000.0f}) {
    check_case({.shape = wide, .lengths = lengths, .seed = 702, .shift = shift});
  }
}

TEST(Attention, RaggedBatch) {
  AttentionShape shape = shape_of(4, 2, 32, 32);
  shape.mask = Mask::kCausal;
  std::mt19937 generator(800);
  std::vector<Length> lengths;
  for (int i = 0; i < 20; ++i) {
    const auto keys = static_cast<int32_t>(generator() % 200 + 1);
    lengths.push_back({static_cast<int32_t>(generator() % keys + 1), keys});
  }
  check_case({.shape = shape, .lengths = lengths, .seed = 800});
}

TEST(Attention, SummedHeads) {
  uint32_t seed = 1300;
  for (int32_t heads : {1, 2, 4, 8, 12}) {
    for (int32_t kv_heads = 1; kv_heads <= heads; kv_heads *= 2) {
      if (heads % kv_heads != 0) continue;
      AttentionShape shape = summed_shape(heads, kv_heads, 16, 1 + 23 * kv_heads);
      shape.mask = seed % 2 == 0 ? Mask::kCausal : Mask::kNone;
      check_case({.shape = shape, .lengths = {{70, 70}, {1, 130}, {9, 200}}, .seed = ++seed});
    }
  }
  for (int32_t d_v : {1, 63, 64, 65, 257, 800})
    check_case({.shape = summed_shape(3, 3, 8, d_v), .lengths = {{50, 65}}, .seed = ++seed});
}

TEST(Attention, SummedHeadsInEveryPlace) {
  uint32_t seed = 1400;
  for (int32_t window : {0, 2, 64, 100}) {
    AttentionShape shape = summed_shape(4, 2, 16, 40);
    shape.mask = Mask::kCausal;
    shape.window = window;
    check_case({.shape = shape,
                .lengths = {{120, 40}, {30, 0}, {200, 200}, {1, 700}, {130, 700}},
                .seed = ++seed,
                .gap_chance = 0.3f});
    // Heads differ in what their bias bars.
    check_case({.shape = shape,
                .lengths = {{100, 100}, {7, 300}, {1, 65}},
                .seed = ++seed,
                .bias_scale = 2});
  }
}

class Teams : public ::testing::TestWithParam<AttentionShape> {};

TEST_P(Teams, OfAnySizeGiveTheSameBits) {
  const AttentionShape shape = GetParam();
  for (const std::vector<Length>& lengths :
       std::vector<std::vector<Length>>{{{200, 200}, {1, 150}, {30, 31}},
                                        {{1, 500}},
                                        {{400, 400}},
                                        {{0, 0}},
                                        {{1, 2100}, {3, 1300}, {200, 600}, {1, 512}}}) {
    Batch batch({.shape = shape, .lengths = lengths, .seed = 900});
    for (const AttentionMethod* method : attention_methods()) {
      // It is slow, and deals what it deals whatever the lengths.
      if (method == &oracle() && lengths.front().keys > 1000) continue;
      const Output one = batch.run(*method, 1);
      for (int threads : {2, 3, 4}) {
        const Output more = batch.run(*method, threads);
        EXPECT_EQ(one.values, more.values) << method->name();
        EXPECT_EQ(one.log_sum_exp, more.log_sum_exp) << method->name();
      }
      const Output with_mass = batch.run(*method, 1, ColumnMass::kYes);
      for (int threads : {2, 3}) {
        const Output more = batch.run(*method, threads, ColumnMass::kYes);
        EXPECT_EQ(one.values, more.values) << method->name();
        EXPECT_EQ(with_mass.column_mass, more.column_mass) << method->name();
      }
    }
  }
}

AttentionShape causal(AttentionShape shape, int32_t window = 0) {
  shape.mask = Mask::kCausal;
  shape.window = window;
  return shape;
}

AttentionShape in_pages(DType dtype, AttentionShape shape) {
  shape.pages.dtype = dtype;
  return shape;
}

INSTANTIATE_TEST_SUITE_P(Shapes, Teams,
                         ::testing::Values(causal(shape_of(6, 2, 40, 40)),
                                           causal(shape_of(8, 1, 16, 16)),
                                           causal(shape_of(2, 2, 16, 16), 1100),
                                           in_pages(DType::kI8, causal(shape_of(6, 2, 40, 40))),
                                           causal(summed_shape(6, 2, 40, 200)),
                                           causal(summed_shape(6, 2, 40, 200), 90),
                                           summed_shape(4, 4, 40, 130)));

// A sequence gives the same bits in any company.
TEST(Attention, OtherSequencesOfABatchDoNotMatter) {
  AttentionShape shape = shape_of(4, 2, 16, 16);
  shape.mask = Mask::kCausal;
  for (const Length& length : std::vector<Length>{{1, 900}, {30, 700}, {150, 150}}) {
    Batch alone({.shape = shape, .lengths = {length}, .seed = 950});
    Batch together({.shape = shape, .lengths = {length, {1, 1}, {200, 1500}}, .seed = 951});
    std::copy(alone.query.begin(), alone.query.end(), together.query.begin());
    std::copy(alone.key.begin(), alone.key.end(), together.key.begin());
    std::copy(alone.value.begin(), alone.value.end(), together.value.begin());
    together.append(1);
    for_each_fast_method([&](const AttentionMethod& method) {
      const Output one = alone.run(method, 1), all = together.run(method, 1);
      EXPECT_TRUE(std::equal(one.values.begin(), one.values.end(), all.values.begin()));
    });
  }
}

TEST(Attention, OrderOfPagesDoesNotMatter) {
  Batch batch({.shape = shape_of(4, 2, 32, 32), .lengths = {{60, 700}, {5, 128}}, .seed = 1000});
  const Exact exact = batch.exact();
  const Output before = batch.run(oracle(), 1);
  batch.permute_pages(1001);
  for_each_fast_method([&](const AttentionMethod& method) {
    expect_near(before.values, batch.run(method, 1).values, exact.values_slack);
  });
}

// What lies behind the last key, or is masked, has no influence.
TEST(Attention, LaterKeysDoNotMatter) {
  AttentionShape shape = shape_of(2, 1, 16, 16);
  shape.mask = Mask::kCausal;
  Batch batch({.shape = shape, .lengths = {{100, 100}}, .seed = 1100});
  for_each_fast_method([&](const AttentionMethod& method) {
    const Output before = batch.run(method, 1);
    auto* page = reinterpret_cast<float*>(batch.tables()[0].pages[1]);
    const std::vector<float> kept(page, page + shape.pages.page_bytes() / 4);
    for (int32_t token = 70 - 64; token < 64; ++token) {
      for (int32_t d = 0; d < 16; ++d) {
        page[shape.pages.keys_at(0) / 4 + d * kPageTokens + token] = 50;
        page[shape.pages.values_at(0) / 4 + token * 16 + d] = 1e30f;
      }
    }
    const Output after = batch.run(method, 1);
    std::copy(kept.begin(), kept.end(), page);
    const auto row = static_cast<std::ptrdiff_t>(after.values.size() / 100);
    EXPECT_TRUE(
        std::equal(before.values.begin(), before.values.begin() + 70 * row, after.values.begin()));
    EXPECT_NE(before.values, after.values);
  });
}

TEST(Attention, WorkspaceOfALargerBatchIsEnough) {
  for (const AttentionMethod* method : attention_methods()) {
    const AttentionShape shape = shape_of(2, 1, 64, 64);
    int64_t before = 0;
    for (int32_t keys = 1; keys < 40000; keys += 97) {
      const int64_t bytes = method->cost(shape, 10, keys).workspace_bytes;
      ASSERT_GE(bytes, before) << method->name() << ", keys " << keys;
      before = bytes;
    }
  }
}

TEST(Attention, RefusesShapesOutsideTheContract) {
  const auto refused = [](const AttentionShape& shape, const char* expected, const char* found) {
    for (const AttentionMethod* method : attention_methods()) {
      const Status status = method->check(shape);
      EXPECT_EQ(status.code(), StatusCode::kUnsupported);
      EXPECT_NE(status.message().find(expected), std::string::npos) << status.message();
      EXPECT_NE(status.message().find(found), std::string::npos) << status.message();
    }
  };
  refused(shape_of(4, 2, 257, 64), "1 to 256", "257");
  refused(shape_of(4, 2, 64, 300), "1 to 256", "300");
  refused(shape_of(4, 2, 0, 64), "1 to 256", "found 0");
  refused(shape_of(5, 2, 64, 64), "multiple of the 2", "found 5");
  refused(shape_of(0, 2, 64, 64), "multiple of the 2", "found 0");
  refused(shape_of(4, 0, 64, 64), "multiple of the 0", "found 4");
  refused(summed_shape(4, 2, 64, 65537), "1 to 65536", "65537");
  AttentionShape shape = summed_shape(4, 2, 64, 64);
  shape.pages.value_heads = 2;
  refused(shape, "4 heads of values", "found 2");
  shape = shape_of(4, 2, 64, 64);
  shape.pages.value_heads = 4;
  refused(shape, "2 heads of values", "found 4");
}

TEST(Attention, MethodsAreFoundByName) {
  for (const AttentionMethod* method : attention_methods()) {
    EXPECT_EQ(find_attention_method(method->name()), method);
    EXPECT_FALSE(method->summary().empty());
  }
  EXPECT_EQ(oracle().name(), "unfused");
  EXPECT_EQ(find_attention_method("none"), nullptr);
}

// What the pages hold of a matrix of rows: half a step off at most, and zeros behind the last
// token. The step of kI8 is a token's scale, max / 127; the product before and the scale after
// rounding are off by eps each, of at most 127 steps.
void expect_rounded(const std::vector<float>& x, const std::vector<float>& found, DType dtype) {
  float largest = 0;
  for (float each : x) largest = std::max(largest, std::abs(each));
  for (size_t i = 0; i < x.size(); ++i) {
    switch (dtype) {
      case DType::kBF16:
        ASSERT_EQ(bf16_to_f32(f32_to_bf16(x[i])), found[i]);
        break;
      case DType::kI8:
        ASSERT_NEAR(x[i], found[i], largest / 127 * (0.5 + 127 * 4 * kEpsilon));
        break;
      default:
        ASSERT_EQ(x[i], found[i]);
    }
  }
}

TEST(AppendToPages, PutsTokensInTheirPlacesAndZerosBehindTheLast) {
  for (DType dtype : kPageTypes) {
    for (int threads : {1, 3, 4}) {
      SCOPED_TRACE(::testing::Message() << name(dtype) << ", threads " << threads);
      // With four, of two values a key.
      AttentionShape shape = threads == 4 ? summed_shape(6, 3, 12, 20) : shape_of(3, 3, 19, 20);
      shape.pages.dtype = dtype;
      Batch batch({.shape = shape, .lengths = {{1, 150}, {1, 1}, {1, 64}, {1, 0}}, .seed = 1200});
      batch.append(threads);
      const PageShape& pages = batch.shape().pages;
      const auto token = [&](const std::vector<float>& rows, int64_t at, int32_t width) {
        return std::vector<float>(rows.begin() + at, rows.begin() + at + width);
      };
      for (size_t s = 0; s < batch.tables().size(); ++s) {
        const PageTable& table = batch.tables()[s];
        for (int32_t j = 0; j < static_cast<int32_t>(table.pages.size()) * kPageTokens; ++j) {
          const bool there = j < table.tokens();
          for (int32_t h = 0; h < 3; ++h) {
            const int64_t at = (batch.first_key(s) + j) * batch.key_stride() + h * pages.d_k;
            std::vector<float> x(static_cast<size_t>(pages.d_k)), found;
            if (there) x = token(batch.key, at, pages.d_k);
            for (int32_t d = 0; d < pages.d_k; ++d) found.push_back(batch.cached_key(s, j, h, d));
            expect_rounded(x, found, dtype);
          }
          for (int32_t h = 0; h < 3 * pages.values_per_key(); ++h) {
            const int64_t at = (batch.first_key(s) + j) * batch.value_stride() + h * pages.d_v;
            std::vector<float> x(static_cast<size_t>(pages.d_v)), found;
            if (there) x = token(batch.value, at, pages.d_v);
            for (int32_t d = 0; d < pages.d_v; ++d) found.push_back(batch.cached_value(s, j, h, d));
            expect_rounded(x, found, dtype);
          }
        }
      }
    }
  }
}

// One token of one head with these keys and values.
std::vector<float> appended(std::vector<float> x, DType dtype) {
  const auto size = static_cast<int32_t>(x.size());
  AttentionShape shape = shape_of(1, 1, size, size);
  shape.pages.dtype = dtype;
  Batch batch({.shape = shape, .lengths = {{1, 1}}});
  batch.key = batch.value = x;
  batch.append(1);
  std::vector<float> found;
  for (int32_t d = 0; d < size; ++d) {
    found.push_back(batch.cached_key(0, 0, 0, d));
    const float value = batch.cached_value(0, 0, 0, d);
    EXPECT_TRUE(found.back() == value || (std::isnan(found.back()) && std::isnan(value)));
  }
  return found;
}

TEST(AppendToPages, RoundsToNearestEven) {
  EXPECT_EQ(appended({127, -126.5f, 0.5f, 1.5f, -2.5f, 2.51f, 0}, DType::kI8),
            std::vector<float>({127, -126, 0, 2, -2, 3, 0}));
  EXPECT_EQ(appended({0, 0, 0}, DType::kI8), std::vector<float>({0, 0, 0}));
  EXPECT_EQ(appended({1e-42f, -1e-38f}, DType::kI8), std::vector<float>({0, 0}));
  const float most = std::numeric_limits<float>::max();
  EXPECT_EQ(appended({most, 1}, DType::kI8), std::vector<float>({most / 127 * 127, 0}));
  EXPECT_EQ(appended({0x1.01p0f, 0x1.03p0f, 0x1.011p0f, -kInfinity}, DType::kBF16),
            std::vector<float>({1, 0x1.04p0f, 0x1.02p0f, -kInfinity}));
}

TEST(AppendToPages, NotANumberStaysSo) {
  // Its payload is in the bits that bf16 drops.
  const float nan = std::bit_cast<float>(0x7f800001);
  EXPECT_TRUE(std::isnan(appended({1, nan}, DType::kBF16)[1]));
  for (float bad : {nan, kInfinity, -kInfinity}) {
    for (float found : appended({1, bad, 0}, DType::kI8)) EXPECT_TRUE(std::isnan(found));
  }
}

}  // namespace
}  // namespace tessera
