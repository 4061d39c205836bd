#include "attention/selective.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "attention/carver.h"

namespace tessera::attention {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Scores of any range of so many keys, wherever in its first page it begins.
int64_t padded(int32_t keys) { return (pages_for(keys) + 1) * int64_t{kPageTokens}; }

key_plane::Integers integers_of(const IntegerBits& bits) {
  return bits.upper == 4 ? key_plane::Integers::kInt4 : key_plane::Integers::kInt8;
}

value_rows::Numbers numbers_of(const PageShape& shape) {
  switch (shape.dtype) {
    case DType::kBF16:
      return value_rows::Numbers::kBF16;
    case DType::kI8:
      return shape.bits.value == 4 ? value_rows::Numbers::kInt4 : value_rows::Numbers::kInt8;
    default:
      return value_rows::Numbers::kF32;
  }
}

}  // namespace

SelectiveRun::SelectiveRun(const AttentionArgs& args, const Kernels& kernels, void* workspace)
    : args_(&args), kernels_(&kernels) {
  int32_t max_keys = 0;
  for (const AttentionSequence& sequence : args.sequences)
    max_keys = std::max(max_keys, sequence.keys->tokens());
  const PageShape& shape = args.shape.pages;
  const int64_t most = padded(max_keys);
  stride_ = most + kScorePadding;
  Carver carver(workspace);
  query_ = carver.take<float>(int64_t{kMaxRows} * shape.d_k);
  offset_ = carver.take<float>(kMaxRows);
  scores_ = carver.take<float>(kMaxRows * stride_);
  if (shape.lower_bits() > 0) upper_scores_ = carver.take<float>(kMaxRows * stride_);
  maximum_ = carver.take<float>(kMaxRows);
  sum_ = carver.take<float>(kMaxRows);
  rescale_ = carver.take<float>(kMaxRows);
  begin_ = carver.take<int32_t>(kMaxRows);
  end_ = carver.take<int32_t>(kMaxRows);
  bias_ = carver.take<const float*>(kMaxRows);
  places_ = carver.take<int32_t>(most);
  scratch_ = carver.take<int32_t>(topk::scratch_size(most));
  refetched_ = carver.take<bool>(kMaxRows);
  is_read_ = carver.take<uint8_t>(most);
  output_ = carver.take<float>(shape.d_v);
  total_ = carver.take<float>(shape.d_v);
}

int64_t SelectiveRun::workspace_bytes(const AttentionShape& shape, int32_t max_keys) {
  if (!shape.selects()) return 0;
  constexpr int64_t kPieces = 17, kLine = 64;
  const int64_t most = padded(max_keys), word = sizeof(float);
  const int64_t score_rows = kMaxRows * (shape.pages.lower_bits() > 0 ? 2 : 1);
  const int64_t words = kMaxRows * int64_t{shape.pages.d_k} + score_rows * (most + kScorePadding) +
                        most + topk::scratch_size(most) + 2 * int64_t{shape.pages.d_v} +
                        8 * kMaxRows;
  return words * word + most + kMaxRows * int64_t{sizeof(float*)} + kPieces * kLine;
}

void SelectiveRun::run(const Block& block) {
  sequence_ = block.sequence;
  seen_ = Visibility(args_->shape, *sequence_)(0);
  first_page_ = seen_.begin / kPageTokens;
  last_page_ = std::max(first_page_, pages_for(seen_.end));
  if (!sums_heads()) return run_kv_head(block.head);
  const int32_t d_v = args_->shape.pages.d_v, kv_heads = args_->shape.pages.kv_heads;
  const int32_t group = args_->shape.query_heads / kv_heads;
  std::fill_n(total_, d_v, 0.0f);
  for (int32_t head = 0; head < kv_heads; ++head) {
    if (sequence_->any_lives(head * group, group)) run_kv_head(head);
  }
  std::copy_n(total_, d_v, args_->output + sequence_->first_row * args_->output_stride);
}

void SelectiveRun::run_kv_head(int32_t kv_head) {
  const int32_t group = args_->shape.query_heads / args_->shape.pages.kv_heads;
  const int32_t first = kv_head * group;
  any_refetched_ = false;
  if (sequence_->reads != nullptr) std::fill_n(is_read_, pages() * kPageTokens, uint8_t{0});
  for (int32_t row = 0; row < group; row += kMaxRows)
    run_tile({kv_head, first + row, std::min(kMaxRows, group - row)});
  if (sequence_->reads == nullptr) return;
  const PlanesRead planes = any_refetched_ ? PlanesRead::kBoth : PlanesRead::kUpper;
  sequence_->reads[first].bytes += key_bytes_read(args_->shape, keys(), planes);
  if (!sums_heads()) count_values(first);
}

void SelectiveRun::run_tile(const Tile& tile) {
  const PageShape& shape = args_->shape.pages;
  const bool is_one_plane = shape.lower_bits() == 0;
  load_queries(tile);
  const Range all{0, tile.rows};
  score(tile, all, is_one_plane ? Plane::kOnly : Plane::kUpper);
  if (is_one_plane) {
    softmax(all);
  } else {
    refetch(tile);
  }
  for (int32_t row = 0; row < tile.rows; ++row) {
    if (!lives(tile, row)) {
      leave_out(tile, row);
      continue;
    }
    read_values(tile, row);
    write_row(tile, row);
    if (sequence_->reads != nullptr) count(tile, row);
  }
}

void SelectiveRun::load_queries(const Tile& tile) {
  const int32_t d_k = args_->shape.pages.d_k;
  const double middle = args_->shape.pages.has_scales() ? args_->shape.pages.bits.middle() : 0;
  const float scale = args_->shape.scale * attention_softmax::kLog2E;
  for (int32_t row = 0; row < tile.rows; ++row) {
    const int32_t head = tile.first_head + row;
    const float* from =
        args_->query + sequence_->first_row * args_->query_stride + int64_t{head} * d_k;
    float* to = query_ + int64_t{row} * d_k;
    double sum = 0;
    for (int32_t d = 0; d < d_k; ++d) {
      to[d] = lives(tile, row) ? from[d] * scale : 0;
      sum += to[d];
    }
    offset_[row] = static_cast<float>(middle * sum);
    begin_[row] = seen_.begin;
    end_[row] = seen_.end;
    refetched_[row] = false;
    if (sequence_->score_bias != nullptr)
      bias_[row] = sequence_->score_bias + int64_t{head} * sequence_->keys->tokens();
  }
}

void SelectiveRun::score(const Tile& tile, Range rows, Plane plane) {
  const PageShape& shape = args_->shape.pages;
  const int64_t matrix =
      plane == Plane::kLower ? shape.lower_keys_at(tile.kv_head) : shape.keys_at(tile.kv_head);
  for (int32_t page = first_page_; page < last_page_; ++page) {
    const std::byte* base = sequence_->keys->pages[page];
    const std::byte* next =
        page + 1 < last_page_ ? sequence_->keys->pages[page + 1] + matrix : nullptr;
    float* scores = scores_ + (page - first_page_) * kPageTokens;
    if (!shape.has_scales()) {
      kernels_->product({.a = query_,
                         .a_stride = shape.d_k,
                         .depth = shape.d_k,
                         .b = base + matrix,
                         .b_dtype = shape.dtype,
                         .b_stride = kPageTokens,
                         .cols = kPageTokens,
                         .start = attention_product::Start::kZero,
                         .c = scores,
                         .c_stride = stride_,
                         .next = next,
                         .next_bytes = kPageTokens * shape.number_bytes()},
                        {rows.begin, rows.end});
      continue;
    }
    // The lower plane takes the place of its middle.
    float offsets[kMaxRows];
    for (int64_t row = rows.begin; row < rows.end; ++row)
      offsets[row] = plane == Plane::kLower ? -offset_[row] : offset_[row];
    kernels_->key_plane(
        {.a = query_,
         .a_stride = shape.d_k,
         .depth = shape.d_k,
         .integers = plane == Plane::kLower ? key_plane::Integers::kUint4 : integers_of(shape.bits),
         .b = base + matrix,
         .scale = reinterpret_cast<const float*>(base + shape.key_scales_at(tile.kv_head)),
         .factor = plane == Plane::kLower ? 1.0f : static_cast<float>(1 << shape.bits.lower),
         .offset = offsets,
         .start = plane == Plane::kLower ? key_plane::Start::kAdd : key_plane::Start::kZero,
         .c = scores,
         .c_stride = stride_,
         .next = next},
        {rows.begin, rows.end});
  }
}

void SelectiveRun::softmax(Range rows) {
  std::fill(maximum_ + rows.begin, maximum_ + rows.end, -kInfinity);
  std::fill(sum_ + rows.begin, sum_ + rows.end, 0.0f);
  kernels_->softmax({.scores = scores_,
                     .scores_stride = stride_,
                     .begin = begin_,
                     .end = end_,
                     .first_key = first_page_ * kPageTokens,
                     .keys = pages() * kPageTokens,
                     .bias = sequence_->score_bias != nullptr ? bias_ : nullptr,
                     .maximum = maximum_,
                     .sum = sum_,
                     .rescale = rescale_},
                    {rows.begin, rows.end});
}

// The largest probability of a row is the reciprocal of its sum, which is relative to the maximum.
void SelectiveRun::refetch(const Tile& tile) {
  const double threshold = keys() > 0 ? refetch_of(args_->shape, *sequence_).threshold(keys()) : 0;
  const Range all{0, tile.rows};
  if (threshold > 1) {
    std::fill_n(refetched_, tile.rows, true);
    score(tile, all, Plane::kLower);
    softmax(all);
  } else {
    const int64_t places = int64_t{pages()} * kPageTokens;
    if (threshold > 0) {
      for (int32_t row = 0; row < tile.rows; ++row)
        std::copy_n(scores(row), places, upper_scores_ + row * stride_);
    }
    softmax(all);
    for (int32_t row = 0; row < tile.rows; ++row) {
      refetched_[row] = lives(tile, row) && sum_[row] > 0 && threshold * sum_[row] > 1;
      if (!refetched_[row]) continue;
      std::copy_n(upper_scores_ + row * stride_, places, scores(row));
      score(tile, {row, row + 1}, Plane::kLower);
      softmax({row, row + 1});
    }
  }
  any_refetched_ = any_refetched_ || std::count(refetched_, refetched_ + tile.rows, true) > 0;
}

// A dead head beside others that share its keys. What the outputs of dead heads are, and the masses
// of those that nobody visits, is written elsewhere.
void SelectiveRun::leave_out(const Tile& tile, int32_t row) const {
  if (sequence_->column_mass == nullptr || sums_heads()) return;
  const int64_t all = sequence_->keys->tokens();
  std::fill_n(sequence_->column_mass + (tile.first_head + row) * all, all, 0.0f);
}

// Puts the places of the values that the row reads into places_, and returns their number.
int32_t SelectiveRun::choose(int32_t row) {
  const ValueRule& rule = values_of(args_->shape, *sequence_);
  const float* probabilities = scores(row) + first_place();
  const int32_t n = keys();
  switch (rule.kind) {
    case ValueRule::Kind::kAll:
      std::iota(places_, places_ + n, first_place());
      return n;
    case ValueRule::Kind::kLargest: {
      const int32_t count = rule.most_of(n);
      kernels_->topk(
          {.x = probabilities, .n = n, .k = count, .indices = places_, .scratch = scratch_},
          {0, 1});
      for (int32_t i = 0; i < count; ++i) places_[i] += first_place();
      return count;
    }
    case ValueRule::Kind::kAbove: {
      int32_t count = 0;
      // Without a branch that nobody could foresee.
      for (int32_t j = 0; j < n; ++j) {
        places_[count] = first_place() + j;
        count += probabilities[j] >= rule.threshold ? 1 : 0;
      }
      return count;
    }
  }
  return 0;
}

void SelectiveRun::read_values(const Tile& tile, int32_t row) {
  const PageShape& shape = args_->shape.pages;
  const int32_t head = value_head(tile, row);
  count_ = choose(row);
  kernels_->value_rows({.weights = scores(row),
                        .places = places_,
                        .counts = &count_,
                        .pages = sequence_->keys->pages.data() + first_page_,
                        .rows_at = shape.values_at(head),
                        .scales_at = shape.value_scales_at(head),
                        .numbers = numbers_of(shape),
                        .cols = shape.d_v,
                        .y = output_},
                       {0, 1});
}

void SelectiveRun::write_row(const Tile& tile, int32_t row) const {
  const AttentionShape& shape = args_->shape;
  const int32_t head = tile.first_head + row, d_v = shape.pages.d_v;
  const float factor = sum_[row] == 0 ? 0 : 1 / sum_[row];
  if (sums_heads()) {
    for (int32_t d = 0; d < d_v; ++d) total_[d] += output_[d] * factor;
  } else {
    float* to = args_->output + sequence_->first_row * args_->output_stride + int64_t{head} * d_v;
    for (int32_t d = 0; d < d_v; ++d) to[d] = output_[d] * factor;
  }
  if (args_->magnitudes != nullptr) {
    args_->magnitudes[sequence_->first_row * shape.query_heads + head] =
        magnitude(output_, d_v) * factor;
  }
  if (args_->log_sum_exp != nullptr) {
    args_->log_sum_exp[sequence_->first_row * shape.query_heads + head] =
        log_sum_exp(maximum_[row], sum_[row]);
  }
  if (sequence_->column_mass == nullptr) return;
  const int64_t all = sequence_->keys->tokens();
  float* mass = sequence_->column_mass + head * all;
  std::fill_n(mass, all, 0.0f);
  const float* probabilities = scores(row) + first_place();
  for (int32_t j = 0; j < keys(); ++j) mass[seen_.begin + j] = probabilities[j] * factor;
}

void SelectiveRun::count(const Tile& tile, int32_t row) {
  const int32_t head = tile.first_head + row;
  sequence_->reads[head] +=
      numbers_read(args_->shape, {.keys = keys(), .values = count_, .refetched = refetched_[row]});
  for (int32_t i = 0; i < count_; ++i) is_read_[places_[i]] = 1;
  if (sums_heads()) count_values(head);
}

// The values that were read since they were counted last.
void SelectiveRun::count_values(int32_t head) {
  const int64_t places = int64_t{pages()} * kPageTokens;
  const auto values = static_cast<int32_t>(std::count(is_read_, is_read_ + places, uint8_t{1}));
  sequence_->reads[head].bytes += value_bytes_read(args_->shape, values);
  std::fill_n(is_read_, places, uint8_t{0});
}

}  // namespace tessera::attention
