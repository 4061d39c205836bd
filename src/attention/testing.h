#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <utility>
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
  // Of each sequence, [query_heads]; none: all live.
  std::vector<std::vector<uint8_t>> live_heads = {};
  std::vector<ReadRules> rules = {};  // of each sequence; none: the shape's
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
  std::vector<CacheReads> reads = {};   // [sequences, query_heads], of those that select
  std::vector<float> magnitudes = {};
};

enum class ColumnMass { kNo, kYes };

// What a float may be off by: see Batch::exact.
struct Exact {
  std::vector<double> values, values_slack, log_sum_exp, log_sum_exp_slack;
  std::vector<double> column_mass, column_mass_slack;
  std::vector<CacheReads> reads;
  // Whether no rounding can change which queries refetch, or how many values are read.
  bool is_clear = true;
  std::vector<double> magnitudes, magnitudes_slack;
};

// A batch with random data, its pages filled by append_to_pages.
class Batch {
 public:
  explicit Batch(const Case& c)
      : shape_(c.shape), live_heads_(c.live_heads), rules_(c.rules), generator_(c.seed) {
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
    output.reads.resize(sequences.size() * static_cast<size_t>(shape_.query_heads));
    for (size_t s = 0; s < sequences.size(); ++s)
      sequences[s].reads = output.reads.data() + s * static_cast<size_t>(shape_.query_heads);
    if (mass == ColumnMass::kYes) {
      output.magnitudes.assign(output.log_sum_exp.size(), -7.0f);
      output.column_mass.assign(static_cast<size_t>(mass_begin(sequences.size())), -7.0f);
      for (size_t s = 0; s < sequences.size(); ++s)
        sequences[s].column_mass = output.column_mass.data() + mass_begin(s);
    }
    int32_t most_queries = 0, most_keys = 0;
    for (size_t s = 0; s < tables_.size(); ++s) {
      most_queries = std::max(most_queries, sequences_[s].queries);
      most_keys = std::max(most_keys, keys(s));
    }
    AttentionShape may_select = shape_;
    if (!rules_.empty()) may_select.values.kind = ValueRule::Kind::kLargest;
    const AttentionCost cost = method.cost(may_select, most_queries, most_keys);
    std::vector<float> partials(sequences.size() * static_cast<size_t>(cost.partial_floats),
                                std::nanf(""));
    std::vector<int32_t> arrived(cost.partial_floats > 0
                                     ? sequences.size() * static_cast<size_t>(shape_.pages.kv_heads)
                                     : 0);
    const AttentionArgs args{
        .shape = shape_,
        .sequences = sequences,
        .query = query.data(),
        .query_stride = query_stride_,
        .output = output.values.data(),
        .output_stride = output_stride_,
        .log_sum_exp = output.log_sum_exp.data(),
        .magnitudes = mass == ColumnMass::kYes ? output.magnitudes.data() : nullptr,
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
    if (shape.packs()) {
      const KeyParts parts = key_parts(s, j, head, d);
      return parts.scale * static_cast<float>(parts.upper * (1 << shape.bits.lower) + parts.lower);
    }
    return cached(page(s, j), shape.keys_at(head), d * kPageTokens + j % kPageTokens,
                  shape.key_scales_at(head) + j % kPageTokens * 4);
  }
  float cached_value(size_t s, int32_t j, int32_t head, int32_t d) const {
    const PageShape& shape = shape_.pages;
    if (shape.packs()) {
      const int32_t token = j % kPageTokens;
      const std::byte* values = page(s, j) + shape.values_at(head);
      const int integer =
          shape.bits.value == 4
              ? signed_nibble(nibble(values + token * ((shape.d_v + 1) / 2), d, shape.d_v, 1))
              : static_cast<int8_t>(values[token * shape.d_v + d]);
      return scale_at(page(s, j), shape.value_scales_at(head), token) * static_cast<float>(integer);
    }
    return cached(page(s, j), shape.values_at(head), j % kPageTokens * shape.d_v + d,
                  shape.value_scales_at(head) + j % kPageTokens * 4);
  }

  // What stands for a key's element.
  struct KeyParts {
    float scale = 0;
    int upper = 0;
    int lower = 0;
  };
  KeyParts key_parts(size_t s, int32_t j, int32_t head, int32_t d) const {
    const PageShape& shape = shape_.pages;
    const int32_t token = j % kPageTokens;
    const std::byte* upper = page(s, j) + shape.keys_at(head) + token;
    const std::byte* lower = page(s, j) + shape.lower_keys_at(head) + token;
    KeyParts parts{.scale = scale_at(page(s, j), shape.key_scales_at(head), token)};
    parts.upper = shape.bits.upper == 4 ? signed_nibble(nibble(upper, d, shape.d_k, kPageTokens))
                                        : static_cast<int8_t>(upper[d * kPageTokens]);
    if (shape.bits.lower > 0) parts.lower = nibble(lower, d, shape.d_k, kPageTokens);
    return parts;
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
    read_values_.clear();
    exact.reads.resize(tables_.size() * static_cast<size_t>(shape_.query_heads));
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

  bool selects(size_t s) const { return tessera::selects(shape_, sequences_[s]); }

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
  int64_t query_stride() const { return query_stride_; }
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

  // Element d of so many packed ones, whose bytes lie `stride` apart.
  static int nibble(const std::byte* first, int32_t d, int32_t width, int64_t stride) {
    const int32_t half = (width + 1) / 2;
    const auto byte = std::to_integer<int>(first[(d < half ? d : d - half) * stride]);
    return d < half ? byte % 16 : byte / 16;
  }
  static int signed_nibble(int bits) { return bits < 8 ? bits : bits - 16; }
  static float scale_at(const std::byte* page, int64_t scales, int32_t token) {
    return reinterpret_cast<const float*>(page + scales)[token];
  }

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
                            .score_bias = bias_[s].empty() ? nullptr : bias_[s].data(),
                            .live_heads = live_heads_.empty() ? nullptr : live_heads_[s].data(),
                            .rules = rules_.empty() ? nullptr : &rules_[s]});
    }
  }

  bool sees(int32_t query_position, int32_t key_position) const {
    if (shape_.mask == Mask::kCausal && key_position > query_position) return false;
    return shape_.window <= 0 || key_position > query_position - shape_.window;
  }

  // Outputs, magnitude and masses are 0, and the log-sum-exp is as it was.
  void exact_dead_row(int64_t row, int32_t h, Exact& exact) const {
    const bool summed = shape_.outputs == HeadOutputs::kSummed;
    const int64_t first = row * output_stride_ + (summed ? 0 : int64_t{h} * shape_.pages.d_v);
    if (!summed || h == 0) std::fill_n(exact.values.begin() + first, shape_.pages.d_v, 0.0);
    exact.magnitudes.push_back(0);
    exact.magnitudes_slack.push_back(0);
    exact.log_sum_exp.push_back(-7);
    exact.log_sum_exp_slack.push_back(0);
  }

  // The scores of a query head with every key, and what they may be off by.
  struct Scores {
    std::vector<double> scores;
    double maximum = -kInfinity;
    double slack = 0;
    int32_t seen = 0;

    // The probabilities.
    std::vector<double> softmax() const {
      std::vector<double> p;
      for (double score : scores) p.push_back(score == -kInfinity ? 0 : std::exp(score - maximum));
      const double total = std::accumulate(p.begin(), p.end(), 0.0);
      for (double& each : p) each = total > 0 ? each / total : 0;
      return p;
    }
  };

  // An element of a key by these planes, and the sum of the magnitudes of what it is computed of.
  std::pair<double, double> element(size_t s, int32_t j, int32_t g, int32_t d,
                                    PlanesRead planes) const {
    const PageShape& pages = shape_.pages;
    const double key = cached_key(s, j, g, d);
    if (pages.lower_bits() == 0) return {key, std::abs(key)};
    const KeyParts parts = key_parts(s, j, g, d);
    const double weight = 1 << pages.bits.lower, middle = (weight - 1) / 2, scale = parts.scale;
    const double size = scale * (weight * std::abs(parts.upper) + middle);
    if (planes == PlanesRead::kUpper) return {scale * (weight * parts.upper + middle), size};
    return {key, size + scale * parts.lower};
  }

  Scores scores_of(size_t s, int32_t q, int32_t h, PlanesRead planes) const {
    const PageShape& pages = shape_.pages;
    const int32_t g = h / (shape_.query_heads / pages.kv_heads), n = keys(s);
    const float* x = query.data() + (first_rows_[s] + q) * query_stride_ + int64_t{h} * pages.d_k;
    Scores row{std::vector<double>(static_cast<size_t>(n), -kInfinity)};
    double largest = 0;
    for (int32_t j = 0; j < n; ++j) {
      if (!sees(query_positions_[s][q], positions_[s][j])) continue;
      ++row.seen;
      double sum = 0, mass = 0;
      for (int32_t d = 0; d < pages.d_k; ++d) {
        const auto [key, size] = element(s, j, g, d, planes);
        sum += x[d] * key;
        mass += std::abs(x[d]) * size;
      }
      row.scores[j] = sum * shape_.scale;
      mass *= shape_.scale;
      if (!bias_[s].empty()) {
        const double bias = bias_[s][(int64_t{h} * sequences_[s].queries + q) * n + j];
        row.scores[j] += bias;
        if (bias != -kInfinity) mass += std::abs(bias);
      }
      largest = std::max(largest, mass);
      row.maximum = std::max(row.maximum, row.scores[j]);
    }
    const auto nonzero = pages.d_k - std::count(x, x + pages.d_k, 0.0f);
    const auto terms = static_cast<double>(nonzero * (pages.lower_bits() > 0 ? 2 : 1));
    row.slack = (terms + 6) * kEpsilon * largest;
    return row;
  }

  // The scores that a query head ends with.
  Scores final_scores(size_t s, int32_t q, int32_t h, Exact& exact) const {
    if (!selects(s)) return scores_of(s, q, h, PlanesRead::kBoth);
    CacheReads& reads = exact.reads[s * static_cast<size_t>(shape_.query_heads) + h];
    Scores row = scores_of(s, q, h, PlanesRead::kUpper);
    const double threshold =
        row.seen > 0 ? refetch_of(shape_, sequences_[s]).threshold(row.seen) : 0;
    const std::vector<double> p = row.softmax();
    const double most = p.empty() ? 0 : *std::max_element(p.begin(), p.end());
    const bool refetches = shape_.pages.lower_bits() > 0 && row.seen > 0 && most < threshold;
    if (threshold > 0 && threshold <= 1 &&
        std::abs(most - threshold) <= (2 * row.slack + keys(s) * kEpsilon) * most)
      exact.is_clear = false;
    reads.queries = 1;
    reads.refetched = refetches ? 1 : 0;
    return refetches ? scores_of(s, q, h, PlanesRead::kBoth) : row;
  }

  // Takes away the probabilities of values that are not read. Returns the most that those may
  // weigh of which a rounding by `slack`, relatively, decides.
  double drop_values(size_t s, int32_t h, const Scores& row, double slack, std::vector<double>& p,
                     Exact& exact) const {
    const ValueRule& rule = values_of(shape_, sequences_[s]);
    std::vector<double> seen;
    for (size_t j = 0; j < p.size(); ++j) {
      if (sees(query_positions_[s][0], positions_[s][j])) seen.push_back(p[j]);
    }
    std::sort(seen.begin(), seen.end(), std::greater<>());
    double least = 0;
    if (rule.kind == ValueRule::Kind::kLargest && !seen.empty()) {
      const double share = rule.count > 0 ? rule.count : std::floor(rule.share * row.seen + 1e-9);
      least = seen[static_cast<size_t>(std::clamp<double>(share, 1, row.seen)) - 1];
    } else if (rule.kind == ValueRule::Kind::kAbove && !seen.empty()) {
      least = rule.threshold * seen[0];
    }
    double doubtful = 0;
    int64_t values = 0, doubts = 0;
    std::vector<char>& is_read =
        read_values_[shape_.outputs == HeadOutputs::kSummed ? std::pair{s, h}
                                                            : std::pair{s, h / group()}];
    is_read.resize(p.size());
    for (size_t j = 0; j < p.size(); ++j) {
      if (!sees(query_positions_[s][0], positions_[s][j])) continue;
      const bool is_doubtful = least > 0 && std::abs(p[j] - least) <= 2 * slack * least;
      doubts += is_doubtful ? 1 : 0;
      if (is_doubtful) doubtful += p[j];
      if (p[j] >= least) {
        ++values;
        is_read[j] = 1;
      } else {
        p[j] = 0;
      }
    }
    // The last one that is kept is its own limit, which the rounding of both moves alike. Of equal
    // ones, such as those that a bias bars, only some are kept.
    const int64_t own = rule.kind == ValueRule::Kind::kLargest ? 1 : 0;
    if (doubts > own || (own == 1 && least == 0)) exact.is_clear = false;
    CacheReads& reads = exact.reads[s * static_cast<size_t>(shape_.query_heads) + h];
    const PageShape& pages = shape_.pages;
    const bool has_integers = pages.dtype == DType::kI8;
    const int number_bits = pages.dtype == DType::kF32 ? 32 : 16;
    const int upper = has_integers ? pages.bits.upper : number_bits;
    const int lower = has_integers && reads.refetched > 0 ? pages.bits.lower : 0;
    reads.key_numbers = int64_t{row.seen} * pages.d_k;
    reads.key_bits = reads.key_numbers * (upper + lower);
    reads.value_numbers = values * pages.d_v;
    reads.value_bits = reads.value_numbers * (has_integers ? pages.bits.value : number_bits);
    return doubts > own ? doubtful : 0;
  }

  // What a token has of so many numbers of so many bits in a matrix: 6 bits take a byte.
  int64_t stored_bytes(int32_t width, int32_t bits) const {
    switch (shape_.pages.dtype) {
      case DType::kF32:
        return 4 * width;
      case DType::kBF16:
        return 2 * width;
      default:
        return bits == 0 ? 0 : bits == 4 ? (width + 1) / 2 : width;
    }
  }

  // Behind the last query head of a KV head: the bytes that its query heads read together.
  void count_bytes(size_t s, int32_t g, int32_t seen, Exact& exact) const {
    const PageShape& pages = shape_.pages;
    const bool has_integers = pages.dtype == DType::kI8;
    const int64_t scale = has_integers ? 4 : 0;
    const auto reads = exact.reads.begin() + static_cast<int64_t>(s) * shape_.query_heads;
    const int32_t first = g * group();
    bool refetched = false;
    for (int32_t h = first; h < first + group(); ++h) {
      refetched = refetched || reads[h].refetched > 0;
      const auto found = read_values_.find({s, h});
      if (shape_.outputs != HeadOutputs::kSummed || found == read_values_.end()) continue;
      reads[h].bytes += std::count(found->second.begin(), found->second.end(), 1) *
                        (stored_bytes(pages.d_v, pages.bits.value) + scale);
    }
    reads[first].bytes += seen * (stored_bytes(pages.d_k, pages.bits.upper) + scale);
    if (refetched && has_integers)
      reads[first].bytes += seen * stored_bytes(pages.d_k, pages.bits.lower);
    if (shape_.outputs == HeadOutputs::kSummed) return;
    const std::vector<char>& values = read_values_[{s, g}];
    reads[first].bytes += std::count(values.begin(), values.end(), 1) *
                          (stored_bytes(pages.d_v, pages.bits.value) + scale);
  }

  int32_t group() const { return shape_.query_heads / shape_.pages.kv_heads; }

  void exact_row(size_t s, int32_t q, int32_t h, Exact& exact) const {
    if (!sequences_[s].lives(h)) return exact_dead_row(first_rows_[s] + q, h, exact);
    const PageShape& pages = shape_.pages;
    const int32_t g = h / group(), n = keys(s);
    const int64_t row = first_rows_[s] + q;
    const bool summed = shape_.outputs == HeadOutputs::kSummed;
    const int32_t value_head = summed ? h : g;
    const Scores scores = final_scores(s, q, h, exact);
    std::vector<double> p = scores.softmax();
    const double total = std::accumulate(p.begin(), p.end(), 0.0);
    const double sum_slack = (n + 32) * kEpsilon, p_slack = 2 * scores.slack + sum_slack;
    for (int32_t j = 0; total > 0 && j < n; ++j) {
      const auto at = static_cast<size_t>(mass_begin(s) + int64_t{h} * n + j);
      exact.column_mass[at] += p[j];
      exact.column_mass_slack[at] += p[j] * (p_slack + (sequences_[s].queries + 2) * kEpsilon);
    }
    double doubtful = 0;
    if (selects(s)) {
      doubtful = drop_values(s, h, scores, p_slack, p, exact);
      if ((h + 1) % group() == 0) count_bytes(s, g, scores.seen, exact);
    }
    std::vector<double> sums(static_cast<size_t>(pages.d_v));
    double value_size = 0;
    for (int32_t j = 0; j < n; ++j) {
      if (scores.scores[j] == -kInfinity) continue;
      for (int32_t d = 0; d < pages.d_v; ++d) {
        const double y = cached_value(s, j, value_head, d);
        sums[d] += p[j] * y;
        value_size = std::max(value_size, std::abs(y));
      }
    }
    double magnitude = 0;
    for (int32_t d = 0; d < pages.d_v; ++d) {
      const int64_t first = row * output_stride_ + (summed ? 0 : int64_t{h} * pages.d_v);
      const size_t at = static_cast<size_t>(first + d);
      if (!summed || h == 0) exact.values[at] = 0;
      exact.values[at] += sums[d];
      magnitude += std::abs(sums[d]);
      // Where heads are added up, each is rounded with at most all of them.
      const double heads_slack = summed ? (shape_.query_heads + 1) * kEpsilon : 0;
      exact.values_slack[at] += (p_slack + heads_slack + doubtful) * value_size;
    }
    double sum = 0;
    for (double score : scores.scores)
      sum += score == -kInfinity ? 0 : std::exp(score - scores.maximum);
    exact.log_sum_exp.push_back(sum > 0 ? scores.maximum + std::log(sum) : -kInfinity);
    exact.log_sum_exp_slack.push_back(p_slack + kEpsilon * std::abs(scores.maximum));
    exact.magnitudes.push_back(magnitude);
    exact.magnitudes_slack.push_back(pages.d_v * (p_slack + doubtful + kEpsilon) * value_size +
                                     pages.d_v * kEpsilon * magnitude);
  }

  AttentionShape shape_;
  std::vector<std::vector<uint8_t>> live_heads_;
  std::vector<ReadRules> rules_;
  std::mt19937 generator_;
  int64_t query_stride_ = 0, output_stride_ = 0;
  std::vector<int32_t> first_rows_, first_keys_;
  std::vector<std::vector<int32_t>> positions_, query_positions_;
  std::vector<std::vector<float>> bias_;
  std::vector<std::unique_ptr<std::vector<std::byte>>> storage_;
  std::vector<PageTable> tables_;
  std::vector<AttentionSequence> sequences_;
  // Of a sequence and a head of values: which keys' values any query head reads.
  mutable std::map<std::pair<size_t, int32_t>, std::vector<char>> read_values_;
};

// What pages hold.
struct PageType {
  DType dtype = DType::kF32;
  IntegerBits bits = {};
};
inline std::string to_string(const PageType& type) {
  if (type.dtype != DType::kI8) return std::string(name(type.dtype));
  return "keys of " + std::to_string(type.bits.upper) + " + " + std::to_string(type.bits.lower) +
         " bits, values of " + std::to_string(type.bits.value);
}
inline AttentionShape in_pages(const PageType& type, AttentionShape shape) {
  shape.pages.dtype = type.dtype;
  shape.pages.bits = type.bits;
  return shape;
}

// Integers of every number of bits, packed in keys, in values, in both or in neither.
constexpr PageType kIntegerTypes[] = {{DType::kI8, {8, 4, 8}}, {DType::kI8, {6, 4, 6}},
                                      {DType::kI8, {4, 4, 8}}, {DType::kI8, {6, 0, 4}},
                                      {DType::kI8, {4, 0, 4}}, {DType::kI8, {6, 0, 6}}};
constexpr DType kPageTypes[] = {DType::kF32, DType::kBF16, DType::kI8};

}  // namespace tessera::testing
