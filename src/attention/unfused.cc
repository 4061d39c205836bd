#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "attention/blocks.h"
#include "attention/methods.h"
#include "attention/widen.h"
#include "kernels/rows_to_f32/rows_to_f32.h"

namespace tessera::attention {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// One query head of one sequence.
struct Head {
  const AttentionArgs& args;
  const AttentionSequence& sequence;
  int32_t head;
  int32_t kv_head;
  double* scores;  // [queries, keys]
  double* sum;     // [queries, d_v] of the heads so far, where they are summed; else null
  float* wide;     // keys, then values of every page as floats, where pages hold narrower numbers

  const float* query(int32_t q) const {
    return args.query + (sequence.first_row + q) * args.query_stride +
           int64_t{head} * args.shape.pages.d_k;
  }
  float* output(int32_t q) const {
    return args.output + (sequence.first_row + q) * args.output_stride +
           int64_t{head} * args.shape.pages.d_v;
  }
  float* magnitude(int32_t q) const {
    if (args.magnitudes == nullptr) return nullptr;
    return args.magnitudes + (sequence.first_row + q) * args.shape.query_heads + head;
  }
  int32_t value_head() const { return sum != nullptr ? head : kv_head; }
  int64_t pages() const { return pages_for(sequence.keys->tokens()); }
  // [d_k][kPageTokens] of the page that holds the key, and [kPageTokens][d_v].
  const float* keys(int32_t key) const {
    const PageShape& shape = args.shape.pages;
    const int32_t page = key / kPageTokens;
    if (is_wide()) return wide + int64_t{page} * kPageTokens * shape.d_k;
    return floats(page, shape.keys_at(kv_head));
  }
  const float* values(int32_t key) const {
    const PageShape& shape = args.shape.pages;
    const int32_t page = key / kPageTokens;
    if (is_wide()) return wide + kPageTokens * (pages() * shape.d_k + int64_t{page} * shape.d_v);
    return floats(page, shape.values_at(value_head()));
  }
  const float* floats(int32_t page, int64_t offset) const {
    return reinterpret_cast<const float*>(sequence.keys->pages[page] + offset);
  }
  bool is_wide() const { return args.shape.pages.dtype != DType::kF32; }
  double* row(int32_t q) const { return scores + int64_t{q} * sequence.keys->tokens(); }
};

bool sees(const AttentionShape& shape, int64_t query_position, int64_t key_position) {
  if (shape.mask == Mask::kCausal && key_position > query_position) return false;
  return shape.window == 0 || query_position - key_position < shape.window;
}

// Makes floats of narrower numbers.
void widen_pages(const Head& h) {
  const PageShape& shape = h.args.shape.pages;
  if (shape.packs()) {
    for (int32_t page = 0; page < h.pages(); ++page) {
      const std::byte* base = h.sequence.keys->pages[page];
      const int32_t key = page * kPageTokens;
      widen_keys({shape, base, h.kv_head}, {0, kPageTokens}, const_cast<float*>(h.keys(key)));
      widen_values({shape, base, h.value_head()}, {0, kPageTokens}, {0, shape.d_v},
                   const_cast<float*>(h.values(key)));
    }
    return;
  }
  const bool has_scales = shape.dtype == DType::kI8;
  for (int32_t page = 0; page < h.pages(); ++page) {
    const std::byte* base = h.sequence.keys->pages[page];
    const int32_t key = page * kPageTokens;
    rows_to_f32::ref(
        {.dtype = shape.dtype,
         .x = base + shape.keys_at(h.kv_head),
         .x_stride = kPageTokens,
         .cols = kPageTokens,
         .col_scale = has_scales ? h.floats(page, shape.key_scales_at(h.kv_head)) : nullptr,
         .y = const_cast<float*>(h.keys(key)),
         .y_stride = kPageTokens},
        {0, shape.d_k});
    rows_to_f32::ref(
        {.dtype = shape.dtype,
         .x = base + shape.values_at(h.value_head()),
         .x_stride = shape.d_v,
         .cols = shape.d_v,
         .row_scale = has_scales ? h.floats(page, shape.value_scales_at(h.value_head())) : nullptr,
         .y = const_cast<float*>(h.values(key)),
         .y_stride = shape.d_v},
        {0, kPageTokens});
  }
}

bool sees(const Head& h, int32_t q, int32_t key) {
  const int32_t position =
      h.sequence.query_positions != nullptr ? h.sequence.query_positions[q] : 0;
  return sees(h.args.shape, position, h.sequence.keys->positions[key]);
}

void write_scores(const Head& h, int32_t q, PlanesRead planes) {
  const PageShape& pages = h.args.shape.pages;
  const int32_t keys = h.sequence.keys->tokens();
  const float* query = h.query(q);
  for (int32_t j = 0; j < keys; ++j) {
    h.row(q)[j] = -kInfinity;
    if (!sees(h, q, j)) continue;
    const float* key = h.keys(j) + j % kPageTokens;
    const PagedHead head{pages, h.sequence.keys->pages[j / kPageTokens], h.kv_head};
    double sum = 0;
    for (int32_t d = 0; d < pages.d_k; ++d) {
      sum +=
          query[d] * (planes == PlanesRead::kBoth ? double{key[d * kPageTokens]}
                                                  : key_element(head, planes, j % kPageTokens, d));
    }
    sum *= h.args.shape.scale;
    if (h.sequence.score_bias != nullptr) {
      sum += h.sequence.score_bias[(int64_t{h.head} * h.sequence.queries + q) * keys + j];
    }
    h.row(q)[j] = sum;
  }
}

// Returns the log-sum-exp of the row and leaves probabilities in it.
double softmax(double* row, int32_t keys) {
  double maximum = -kInfinity, sum = 0;
  for (int32_t j = 0; j < keys; ++j)
    maximum = std::isnan(row[j]) ? row[j] : std::max(maximum, row[j]);
  for (int32_t j = 0; j < keys; ++j) {
    row[j] = maximum == -kInfinity ? 0 : std::exp(row[j] - maximum);
    sum += row[j];
  }
  if (sum == 0) return -kInfinity;
  for (int32_t j = 0; j < keys; ++j) row[j] /= sum;
  return maximum + std::log(sum);
}

void write_output(const Head& h, int32_t q) {
  const PageShape& pages = h.args.shape.pages;
  double magnitude = 0;
  for (int32_t d = 0; d < pages.d_v; ++d) {
    double sum = 0;
    for (int32_t j = 0; j < h.sequence.keys->tokens(); ++j) {
      const double p = h.row(q)[j];
      // What is masked has no say, be it infinite.
      if (p == 0) continue;
      sum += p * h.values(j)[int64_t{j % kPageTokens} * pages.d_v + d];
    }
    magnitude += std::abs(sum);
    if (h.sum != nullptr) {
      h.sum[int64_t{q} * pages.d_v + d] += sum;
    } else {
      h.output(q)[d] = static_cast<float>(sum);
    }
  }
  if (float* to = h.magnitude(q); to != nullptr) *to = static_cast<float>(magnitude);
}

void write_column_mass(const Head& h) {
  const int32_t keys = h.sequence.keys->tokens();
  for (int32_t j = 0; j < keys; ++j) {
    double sum = 0;
    for (int32_t q = 0; q < h.sequence.queries; ++q) sum += h.row(q)[j];
    h.sequence.column_mass[int64_t{h.head} * keys + j] = static_cast<float>(sum);
  }
}

void write_log_sum_exp(const Head& h, int32_t q, double log_sum_exp) {
  if (h.args.log_sum_exp == nullptr) return;
  const int64_t row = h.sequence.first_row + q;
  h.args.log_sum_exp[row * h.args.shape.query_heads + h.head] = static_cast<float>(log_sum_exp);
}

// What the query heads of a KV head read of it.
struct KvReads {
  std::vector<char> values;  // of each key: whether any query head reads its value
  bool refetches = false;
};

// Takes away the probabilities of the values that are not read, and returns how many are.
int32_t choose_values(const Head& h, std::vector<int32_t> seen, KvReads& reads) {
  const ValueRule& rule = values_of(h.args.shape, h.sequence);
  double* row = h.row(0);
  const auto is_larger = [&](int32_t a, int32_t b) { return row[a] > row[b]; };
  std::stable_sort(seen.begin(), seen.end(), is_larger);
  auto left = seen.begin() + rule.most_of(static_cast<int32_t>(seen.size()));
  if (rule.kind == ValueRule::Kind::kAbove) {
    left = std::find_if(seen.begin(), seen.end(),
                        [&](int32_t j) { return row[j] < rule.threshold * row[seen[0]]; });
  }
  std::for_each(left, seen.end(), [&](int32_t j) { row[j] = 0; });
  std::for_each(seen.begin(), left, [&](int32_t j) { reads.values[static_cast<size_t>(j)] = 1; });
  return static_cast<int32_t>(left - seen.begin());
}

// The only query of a sequence.
void run_selecting(const Head& h, KvReads& reads) {
  const AttentionShape& shape = h.args.shape;
  const int32_t keys = h.sequence.keys->tokens();
  std::vector<int32_t> seen;
  for (int32_t j = 0; j < keys; ++j) {
    if (sees(h, 0, j)) seen.push_back(j);
  }
  const bool has_lower = shape.pages.lower_bits() > 0;
  write_scores(h, 0, has_lower ? PlanesRead::kUpper : PlanesRead::kBoth);
  double log_sum_exp = softmax(h.row(0), keys);
  const auto count = static_cast<int32_t>(seen.size());
  const bool refetches =
      has_lower && count > 0 &&
      *std::max_element(h.row(0), h.row(0) + keys) < refetch_of(shape, h.sequence).threshold(count);
  if (refetches) {
    write_scores(h, 0, PlanesRead::kBoth);
    log_sum_exp = softmax(h.row(0), keys);
  }
  write_log_sum_exp(h, 0, log_sum_exp);
  if (h.sequence.column_mass != nullptr) write_column_mass(h);
  const int32_t values = choose_values(h, seen, reads);
  write_output(h, 0);
  reads.refetches = reads.refetches || refetches;
  if (h.sequence.reads == nullptr) return;
  h.sequence.reads[h.head] +=
      numbers_read(shape, {.keys = count, .values = values, .refetched = refetches});
}

// A dead head.
void leave_out(const Head& h) {
  const int32_t queries = h.sequence.queries, keys = h.sequence.keys->tokens();
  for (int32_t q = 0; q < queries; ++q) {
    if (h.sum == nullptr) std::fill_n(h.output(q), h.args.shape.pages.d_v, 0.0f);
    if (float* to = h.magnitude(q); to != nullptr) *to = 0;
  }
  if (h.sequence.column_mass != nullptr && queries > 0)
    std::fill_n(h.sequence.column_mass + int64_t{h.head} * keys, keys, 0.0f);
}

void run_head(const Head& h) {
  const int32_t queries = h.sequence.queries, keys = h.sequence.keys->tokens();
  for (int32_t q = 0; q < queries; ++q) write_scores(h, q, PlanesRead::kBoth);
  for (int32_t q = 0; q < queries; ++q) write_log_sum_exp(h, q, softmax(h.row(q), keys));
  for (int32_t q = 0; q < queries; ++q) write_output(h, q);
  if (h.sequence.column_mass != nullptr && queries > 0) write_column_mass(h);
}

void count_values(const Head& h, KvReads& reads) {
  const auto values = std::count(reads.values.begin(), reads.values.end(), 1);
  h.sequence.reads[h.head].bytes += value_bytes_read(h.args.shape, static_cast<int32_t>(values));
  std::fill(reads.values.begin(), reads.values.end(), 0);
}

// The query heads of a KV head.
void run_kv_head(Head h) {
  const int32_t group = h.args.shape.query_heads / h.args.shape.pages.kv_heads;
  const int32_t first = h.kv_head * group;
  const bool selects = tessera::selects(h.args.shape, h.sequence);
  const bool counts = selects && h.sequence.reads != nullptr;
  KvReads reads;
  if (selects) reads.values.resize(static_cast<size_t>(h.sequence.keys->tokens()));
  for (h.head = first; h.head < first + group; ++h.head) {
    if (!h.sequence.lives(h.head)) {
      leave_out(h);
      continue;
    }
    if (h.is_wide()) widen_pages(h);
    if (selects) {
      run_selecting(h, reads);
    } else {
      run_head(h);
    }
    if (counts && h.sum != nullptr) count_values(h, reads);
  }
  if (!counts || !h.sequence.any_lives(first, group)) return;
  h.head = first;
  if (h.sum == nullptr) count_values(h, reads);
  const PlanesRead planes = reads.refetches ? PlanesRead::kBoth : PlanesRead::kUpper;
  const KeyRange seen = Visibility(h.args.shape, h.sequence)(0);
  h.sequence.reads[first].bytes += key_bytes_read(h.args.shape, seen.end - seen.begin, planes);
}

// All query heads of a sequence, added up.
void run_summed(Head h) {
  const int64_t d_v = h.args.shape.pages.d_v, queries = h.sequence.queries;
  std::fill_n(h.sum, queries * d_v, 0.0);
  for (h.kv_head = 0; h.kv_head < h.args.shape.pages.kv_heads; ++h.kv_head) run_kv_head(h);
  for (int64_t q = 0; q < queries; ++q) {
    float* output = h.args.output + (h.sequence.first_row + q) * h.args.output_stride;
    for (int64_t d = 0; d < d_v; ++d) output[d] = static_cast<float>(h.sum[q * d_v + d]);
  }
}

class Unfused final : public AttentionMethod {
 public:
  std::string_view name() const override { return "unfused"; }
  std::string_view summary() const override {
    return "scores of a head written whole, plain softmax in double precision; the oracle of the "
           "others";
  }
  Status check(const AttentionShape& shape) const override { return check_shape(name(), shape); }

  AttentionCost cost(const AttentionShape& shape, int32_t max_queries,
                     int32_t max_keys) const override {
    const int64_t row_bytes = int64_t{max_keys} * int64_t{sizeof(double)};
    constexpr double kPasses =
        5;  // written; read for the maximum; read and written for the exponentials; read
    const int64_t sum_bytes = shape.outputs == HeadOutputs::kSummed
                                  ? int64_t{max_queries} * shape.pages.d_v * int64_t{sizeof(double)}
                                  : 0;
    const int64_t wide_bytes = shape.pages.dtype == DType::kF32
                                   ? 0
                                   : int64_t{pages_for(max_keys)} * kPageTokens *
                                         (shape.pages.d_k + shape.pages.d_v) *
                                         int64_t{sizeof(float)};
    return {
        .workspace_bytes = std::max<int64_t>(max_queries * row_bytes + sum_bytes + wide_bytes, 64),
        .flops = average_flops(shape, max_queries, max_keys),
        .score_bytes = kPasses * static_cast<double>(row_bytes) * shape.query_heads};
  }

  void run(const AttentionArgs& args, const Team::Member& member, void* workspace) const override {
    const AttentionShape& shape = args.shape;
    const bool summed = shape.outputs == HeadOutputs::kSummed;
    const int32_t heads = summed ? 1 : shape.pages.kv_heads;
    const Range mine = member.slice(static_cast<int64_t>(args.sequences.size()) * heads);
    for (int64_t i = mine.begin; i < mine.end; ++i) {
      const auto head = static_cast<int32_t>(i % heads);
      Head h{.args = args,
             .sequence = args.sequences[static_cast<size_t>(i / heads)],
             .head = 0,
             .kv_head = head,
             .scores = static_cast<double*>(workspace),
             .sum = nullptr,
             .wide = nullptr};
      double* behind = h.scores + int64_t{h.sequence.queries} * h.sequence.keys->tokens();
      h.wide = reinterpret_cast<float*>(
          behind + (summed ? int64_t{h.sequence.queries} * shape.pages.d_v : 0));
      if (summed) {
        h.sum = behind;
        run_summed(h);
      } else {
        run_kv_head(h);
      }
    }
  }
};

}  // namespace

const AttentionMethod& unfused() {
  static const Unfused method;
  return method;
}

}  // namespace tessera::attention
