#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "attention/method.h"

namespace tessera::testing {

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

inline AttentionShape shape_of(int32_t query_heads, int32_t kv_heads, int32_t d_k, int32_t d_v) {
  return {.query_heads = query_heads,
          .pages = {.kv_heads = kv_heads, .d_k = d_k, .d_v = d_v},
          .scale = 1 / std::sqrt(static_cast<float>(d_k))};
}

// Every query head has values of its own, and the heads are added up.
inline AttentionShape summed_shape(int32_t query_heads, int32_t kv_heads, int32_t d_k,
                                   int32_t d_v) {
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
      std::vector<int32_t> first_tokens;
      for (size_t s = 0; s < tables_.size(); ++s) {
        first_tokens.push_back(part == 0 ? 0 : first_part(s));
        tables.push_back(&tables_[s]);
      }
      const AppendArgs args{.shape = shape_.pages,
                            .tables = tables,
                            .first_tokens = first_tokens.data(),
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

  // Takes away the first pages whose keys lie before every window.
  void drop_unseen_pages() {
    for (size_t s = 0; s < tables_.size(); ++s) {
      PageTable& table = tables_[s];
      const auto dead = [&] {
        return table.tokens() > kPageTokens &&
               table.positions[kPageTokens - 1] <= query_positions_[s].front() - shape_.window;
      };
      while (dead()) {
        table.pages.erase(table.pages.begin());
        table.positions.erase(table.positions.begin(), table.positions.begin() + kPageTokens);
        table.dropped += kPageTokens;
      }
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

constexpr DType kPageTypes[] = {DType::kF32, DType::kBF16, DType::kI8};

}  // namespace tessera::testing
