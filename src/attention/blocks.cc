#include "attention/blocks.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

#include "attention/carver.h"
#include "attention/widen.h"

namespace tessera::attention {
namespace {

constexpr int32_t kMaxHeadSize = 256;
constexpr int32_t kMaxSummedSize = 65536;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Rows at the edge of what they see, where each needs another part of a page, are taken in groups
// of this many: two register tiles of the products, so that little is computed to be thrown away.
constexpr int32_t kEdgeRows = 12;

// A register tile of the products: 6 rows, 64 columns.
constexpr int32_t kTileRows = 6;
constexpr int32_t kPanel = 64;

// Columns of values that are widened at a time, so that a page's stay in L1 or L2 however wide they
// are.
constexpr int32_t kWideColumns = 256;

int64_t aligned(int64_t size_bytes) { return (size_bytes + 63) / 64 * 64; }

Status check_size(std::string_view method, int32_t size, int32_t most) {
  if (size >= 1 && size <= most) return {};
  return Status(
      StatusCode::kUnsupported,
      fmt::format("attention {}: expected head sizes from 1 to {}, found {}", method, most, size));
}

Status check_bits(std::string_view method, const PageShape& pages) {
  const IntegerBits& bits = pages.bits;
  const auto is_plane = [](int32_t each) { return each == 4 || each == 6 || each == 8; };
  const bool has_planes = is_plane(bits.upper) && (bits.lower == 0 || bits.lower == 4);
  if (!pages.has_scales() || (has_planes && is_plane(bits.value))) return {};
  return Status(StatusCode::kUnsupported,
                fmt::format("attention {}: expected keys of 4, 6 or 8 bits and of 0 or 4 lower "
                            "ones, and values of 4, 6 or 8 bits, found {} + {} and {}",
                            method, bits.upper, bits.lower, bits.value));
}

}  // namespace

Status check_shape(std::string_view method, const AttentionShape& shape) {
  const PageShape& pages = shape.pages;
  const bool summed = shape.outputs == HeadOutputs::kSummed;
  TESSERA_RETURN_IF_ERROR(check_size(method, pages.d_k, kMaxHeadSize));
  TESSERA_RETURN_IF_ERROR(check_size(method, pages.d_v, summed ? kMaxSummedSize : kMaxHeadSize));
  if (pages.kv_heads < 1 || shape.query_heads < 1 || shape.query_heads % pages.kv_heads != 0) {
    return Status(
        StatusCode::kUnsupported,
        fmt::format("attention {}: expected query heads in a multiple of the {} KV heads, found {}",
                    method, pages.kv_heads, shape.query_heads));
  }
  const int32_t wanted = summed ? shape.query_heads : pages.kv_heads;
  const int32_t found = pages.value_heads == 0 ? pages.kv_heads : pages.value_heads;
  if (found != wanted) {
    return Status(
        StatusCode::kUnsupported,
        fmt::format("attention {}: expected {} heads of values, found {}", method, wanted, found));
  }
  TESSERA_RETURN_IF_ERROR(check_bits(method, pages));
  if (shape.window < 0) {
    return Status(StatusCode::kUnsupported,
                  fmt::format("attention {}: expected a window of 0 (none) or more, found {}",
                              method, shape.window));
  }
  return Status();
}

double average_flops(const AttentionShape& shape, int32_t queries, int32_t keys) {
  double seen = keys;
  // The last of the queries sees every key, the first queries - 1 fewer.
  if (shape.mask == Mask::kCausal) seen = std::max(0.5 * keys, keys - 0.5 * (queries - 1));
  if (shape.mask == Mask::kCausal && shape.window > 0) seen = std::min<double>(seen, shape.window);
  return 2.0 * seen * (shape.pages.d_k + shape.pages.d_v) * shape.query_heads;
}

Visibility::Visibility(const AttentionShape& shape, const AttentionSequence& sequence)
    : shape_(&shape),
      sequence_(&sequence),
      positions_(sequence.keys->positions.data()),
      keys_(sequence.keys->tokens()),
      contiguous_(keys_ > 0 && int64_t{positions_[keys_ - 1]} - positions_[0] == keys_ - 1) {}

int32_t Visibility::keys_before(int64_t position) const {
  if (contiguous_)
    return static_cast<int32_t>(std::clamp<int64_t>(position - positions_[0], 0, keys_));
  const auto before = [](int32_t key, int64_t limit) { return key < limit; };
  return static_cast<int32_t>(std::lower_bound(positions_, positions_ + keys_, position, before) -
                              positions_);
}

KeyRange Visibility::operator()(int32_t query) const {
  KeyRange range{0, keys_};
  if (shape_->mask == Mask::kNone && shape_->window == 0) return range;
  const int64_t position = sequence_->query_positions[query];
  const bool is_newest = keys_ > 0 && position == positions_[keys_ - 1];
  if (shape_->mask == Mask::kCausal && !is_newest) range.end = keys_before(position + 1);
  if (shape_->window > 0)
    range.begin = std::min(range.end, keys_before(position - shape_->window + 1));
  return range;
}

int32_t block_heads(const AttentionShape& shape) {
  return shape.outputs == HeadOutputs::kSummed ? shape.query_heads : shape.pages.kv_heads;
}

int32_t group_size(const AttentionShape& shape) { return shape.query_heads / block_heads(shape); }

bool lives(const AttentionShape& shape, const AttentionSequence& sequence, int32_t block_head) {
  const int32_t group = group_size(shape);
  return sequence.any_lives(block_head * group, group);
}

namespace {

void clear_head(const AttentionArgs& args, const AttentionSequence& sequence, int32_t head,
                Range queries) {
  const AttentionShape& shape = args.shape;
  for (int64_t q = queries.begin; q < queries.end; ++q) {
    const int64_t row = sequence.first_row + q;
    if (shape.outputs == HeadOutputs::kConcatenated) {
      const int64_t d_v = shape.pages.d_v;
      std::fill_n(args.output + row * args.output_stride + head * d_v, d_v, 0.0f);
    }
    if (args.magnitudes != nullptr) args.magnitudes[row * shape.query_heads + head] = 0;
  }
}

}  // namespace

void clear_dead_heads(const AttentionArgs& args, const Team::Member& member) {
  const int32_t group = group_size(args.shape), blocks = block_heads(args.shape);
  int32_t next = 0;  // whose masses come next, so that members have about as many
  for (const AttentionSequence& sequence : args.sequences) {
    if (sequence.live_heads == nullptr || sequence.queries == 0) continue;
    for (int32_t head = 0; head < args.shape.query_heads; ++head) {
      if (!sequence.lives(head)) clear_head(args, sequence, head, member.slice(sequence.queries));
    }
    if (sequence.column_mass == nullptr) continue;
    const int64_t keys = int64_t{group} * sequence.keys->tokens();
    for (int32_t block = 0; block < blocks; ++block) {
      if (lives(args.shape, sequence, block) || next++ % member.size() != member.rank()) continue;
      std::fill_n(sequence.column_mass + block * keys, keys, 0.0f);
    }
  }
}

float magnitude(const float* values, int32_t count) {
  constexpr int32_t kSums = 16;  // side by side, as vectors add them
  float sums[kSums] = {};
  int32_t i = 0;
  for (; i + kSums <= count; i += kSums) {
    for (int32_t k = 0; k < kSums; ++k) sums[k] += std::abs(values[i + k]);
  }
  float sum = 0;
  for (; i < count; ++i) sum += std::abs(values[i]);
  for (const float part : sums) sum += part;
  return sum;
}

namespace {

int64_t query_rows(const AttentionArgs& args) {
  int64_t rows = 0;
  for (const AttentionSequence& sequence : args.sequences) rows += sequence.queries;
  return rows;
}

}  // namespace

int32_t rows_for_team(const AttentionArgs& args, int32_t max_rows, int members) {
  if (args.shape.outputs != HeadOutputs::kSummed) return max_rows;
  // Causal rows cost unlike amounts, which smaller blocks even out.
  const int64_t blocks = int64_t{members} * (args.shape.mask == Mask::kCausal ? 4 : 1);
  const int64_t rows = (query_rows(args) + blocks - 1) / blocks;
  const int64_t tiles = (rows + kTileRows - 1) / kTileRows * kTileRows;
  return static_cast<int32_t>(std::clamp<int64_t>(tiles, kTileRows, max_rows));
}

int64_t partial_floats(const AttentionShape& shape, const Cut& cut, int32_t queries, int32_t keys) {
  if (shape.outputs == HeadOutputs::kSummed || cut.range_keys == 0 || keys <= cut.range_keys)
    return 0;
  const int64_t ranges = (int64_t{keys} + cut.range_keys - 1) / cut.range_keys;
  const int64_t rows = std::min<int64_t>(int64_t{queries} * group_size(shape), cut.max_rows);
  return block_heads(shape) * ranges * BlockRun::partial_floats(shape, static_cast<int32_t>(rows));
}

Dealer::Dealer(const AttentionArgs& args, const Cut& cut, int members)
    : args_(&args), cut_(cut), heads_(block_heads(args.shape)) {
  int64_t blocks = 0;
  bool is_whole = args.shape.selects() || args.magnitudes != nullptr;
  for (const AttentionSequence& sequence : args.sequences) {
    is_whole = is_whole || selects(args.shape, sequence);
    whole_heads_ = whole_heads_ || sequence.column_mass != nullptr;
    blocks += (sequence.queries + cut.max_rows - 1) / cut.max_rows;
  }
  if (args.shape.outputs != HeadOutputs::kSummed) return;
  heads_ = 1;
  // Every part computes the scores again, so that only few blocks are worth cutting.
  const int32_t panels = (args.shape.pages.d_v + kPanel - 1) / kPanel;
  if (!whole_heads_ && !is_whole && blocks < members) parts_ = std::min<int32_t>(members, panels);
}

Block Dealer::first(const AttentionSequence& sequence, int32_t head) const {
  return next({.sequence = &sequence, .head = head, .cols = args_->shape.pages.d_v});
}

Block Dealer::next(const Block& block) const {
  const int32_t rows = block.sequence->queries * group_size(args_->shape);
  Block next = block;
  next.first_row = block.first_row + block.rows;
  next.rows = std::min(selects(args_->shape, *block.sequence) ? rows : cut_.max_rows,
                       rows - next.first_row);
  return next;
}

// In whole panels, like the products' tiles.
Block Dealer::columns(Block block, int32_t part) const {
  const int32_t cols = args_->shape.pages.d_v, panels = (cols + kPanel - 1) / kPanel;
  block.first_col = panels * part / parts_ * kPanel;
  block.cols = std::min(panels * (part + 1) / parts_ * kPanel, cols) - block.first_col;
  return block;
}

// The ranges of keys, counted from key 0, that a head is split into; one where it is not.
KeyRange Dealer::ranges_of(const AttentionSequence& sequence, const Visibility& visibility) const {
  constexpr KeyRange kWhole{0, 1};
  const int32_t rows = sequence.queries * group_size(args_->shape);
  if (args_->shape.outputs == HeadOutputs::kSummed || cut_.range_keys == 0) return kWhole;
  if (selects(args_->shape, sequence)) return kWhole;
  if (rows == 0 || rows > cut_.max_rows) return kWhole;
  const KeyRange seen{visibility(0).begin, visibility(sequence.queries - 1).end};
  const int32_t dropped = sequence.keys->dropped;
  const KeyRange ranges{(dropped + seen.begin) / cut_.range_keys,
                        (dropped + seen.end + cut_.range_keys - 1) / cut_.range_keys};
  return ranges.end - ranges.begin > 1 ? ranges : kWhole;
}

Block Dealer::keys(Block block, KeyRange ranges, int32_t part) const {
  if (!block.is_split()) return block;
  block.range = part;
  const int32_t begin = (ranges.begin + part) * cut_.range_keys - block.sequence->keys->dropped;
  block.keys = {std::max(begin, 0), begin + cut_.range_keys};
  return block;
}

// The meeting of the next head.
Meeting Dealer::next(Meeting meeting, const AttentionSequence& sequence) const {
  if (meeting.ranges == 1) return meeting;
  meeting.partials +=
      meeting.ranges *
      BlockRun::partial_floats(args_->shape, sequence.queries * group_size(args_->shape));
  ++meeting.arrived;
  return meeting;
}

int64_t Dealer::block_cost(const Block& block, const Visibility& visibility) const {
  const int32_t group = group_size(args_->shape);
  const int32_t first = visibility(block.first_row / group).begin;
  const int32_t end = visibility((block.first_row + block.rows - 1) / group).end;
  const int32_t keys = std::min(end, block.keys.end) - std::max(first, block.keys.begin);
  // A page's worth of work more for the loading and storing of the block.
  return int64_t{block.rows} * (std::max(0, keys) + kPageTokens);
}

int64_t Dealer::head_cost(const AttentionSequence& sequence, const Visibility& visibility) const {
  const KeyRange ranges = ranges_of(sequence, visibility);
  int64_t cost = 0;
  for (Block block = first(sequence, 0); block.rows > 0; block = next(block)) {
    block.meeting.ranges = ranges.end - ranges.begin;
    for (int32_t part = 0; part < block.meeting.ranges; ++part)
      cost += block_cost(keys(block, ranges, part), visibility);
  }
  return cost * parts_;
}

int64_t Dealer::live_heads(const AttentionSequence& sequence) const {
  const int32_t heads = block_heads(args_->shape);
  if (sequence.live_heads == nullptr) return heads;
  int64_t count = 0;
  for (int32_t head = 0; head < heads; ++head) count += lives(args_->shape, sequence, head);
  return count;
}

int64_t Dealer::total_cost() const {
  int64_t total = 0;
  for (const AttentionSequence& sequence : args_->sequences)
    total += live_heads(sequence) * head_cost(sequence, Visibility(args_->shape, sequence));
  return std::max<int64_t>(total, 1);
}

Kernels::Kernels()
    : product(attention_product::kernels.select({}).run),
      softmax(attention_softmax::kernels.select({}).run),
      to_f32(rows_to_f32::kernels.select({}).run),
      key_plane(key_plane::kernels.select({}).run),
      value_rows(value_rows::kernels.select({}).run),
      topk(topk::kernels.select({}).run) {}

namespace {

int64_t wide_floats(const PageShape& shape) {
  if (shape.dtype == DType::kF32) return 0;
  return int64_t{kPageTokens} * std::max(shape.d_k, std::min(shape.d_v, kWideColumns));
}

}  // namespace

BlockRun::BlockRun(const AttentionArgs& args, const Kernels& kernels, int32_t max_rows,
                   void* workspace)
    : args_(&args), kernels_(&kernels), group_(group_size(args.shape)) {
  Carver carver(workspace);
  query_ = carver.take<float>(int64_t{max_rows} * args.shape.pages.d_k);
  output_ = carver.take<float>(int64_t{max_rows} * args.shape.pages.d_v);
  if (args.shape.outputs == HeadOutputs::kSummed)
    total_ = carver.take<float>(int64_t{max_rows} * args.shape.pages.d_v);
  maximum_ = carver.take<float>(max_rows);
  sum_ = carver.take<float>(max_rows);
  rescale_ = carver.take<float>(max_rows);
  share_ = carver.take<float>(int64_t{max_rows} * group_);
  begin_ = carver.take<int32_t>(max_rows);
  end_ = carver.take<int32_t>(max_rows);
  bias_ = carver.take<const float*>(max_rows);
  wide_ = carver.take<float>(wide_floats(args.shape.pages));
  scores_ = carver.take<float>(0);
}

int64_t BlockRun::workspace_bytes(const AttentionShape& shape, int32_t max_rows, int64_t scores) {
  constexpr int64_t kPieces = 12;
  const int64_t outputs =
      (shape.outputs == HeadOutputs::kSummed ? 2 : 1) * int64_t{shape.pages.d_v};
  const int64_t row_words = shape.pages.d_k + outputs + kScorePadding + 5 + group_size(shape);
  const int64_t word = sizeof(float), pointer = sizeof(float*);
  return aligned(max_rows * (row_words * word + pointer) +
                 (scores + wide_floats(shape.pages)) * word) +
         kPieces * 64;
}

const float* BlockRun::bias_row(int32_t query, int32_t head) const {
  const AttentionSequence& sequence = *block_.sequence;
  return sequence.score_bias + (int64_t{head} * sequence.queries + query) * sequence.keys->tokens();
}

void BlockRun::start(const Block& block, int32_t score_keys) {
  block_ = block;
  score_stride_ = score_keys + kScorePadding;
  const AttentionShape& shape = args_->shape;
  const AttentionSequence& sequence = *block.sequence;
  const Visibility visibility(shape, sequence);
  const int32_t d_k = shape.pages.d_k;
  // Scores in units of ln 2 make every exponential a power of two.
  const float scale = shape.scale * attention_softmax::kLog2E;
  KeyRange range;
  for (int32_t r = 0; r < block.rows; ++r) {
    const int32_t query = query_of(r), head = head_of(r);
    if (r == 0 || head == block.head * group_) range = visibility(query);
    begin_[r] = std::clamp(range.begin, block.keys.begin, block.keys.end);
    end_[r] = std::clamp(range.end, block.keys.begin, block.keys.end);
    if (sequence.score_bias != nullptr) bias_[r] = bias_row(query, head);
    const float* from =
        args_->query + (sequence.first_row + query) * args_->query_stride + int64_t{head} * d_k;
    float* to = query_ + int64_t{r} * d_k;
    if (!sequence.lives(head)) {
      // Beside others that live, whose products it must not spoil.
      std::fill_n(to, d_k, 0.0f);
      continue;
    }
    for (int32_t d = 0; d < d_k; ++d) to[d] = from[d] * scale;
  }
  std::fill_n(maximum_, block.rows, -kInfinity);
  std::fill_n(sum_, block.rows, 0.0f);
  std::fill_n(output_, int64_t{block.rows} * block.cols, 0.0f);
  if (sequence.column_mass != nullptr && block.first_row == 0) {
    const int64_t keys = sequence.keys->tokens();
    std::fill_n(sequence.column_mass + block.head * group_ * keys, group_ * keys, 0.0f);
  }
  first_page_ = begin_[0] / kPageTokens;
  last_page_ = std::max(first_page_, pages_for(end_[block.rows - 1]));
}

template <typename Visit>
void BlockRun::for_each_part(int32_t page, Visit visit) const {
  const int32_t key = page * kPageTokens;
  const auto sees_all = [&](int32_t row) {
    return begin_[row] <= key && end_[row] >= key + kPageTokens;
  };
  const int32_t group = sees_all(0) && sees_all(block_.rows - 1) ? block_.rows : kEdgeRows;
  for (int32_t first = 0; first < block_.rows; first += group) {
    Part part{.row_begin = first, .row_end = std::min(first + group, block_.rows)};
    while (part.row_begin < part.row_end && end_[part.row_begin] <= key) ++part.row_begin;
    while (part.row_end > part.row_begin && begin_[part.row_end - 1] >= key + kPageTokens)
      --part.row_end;
    if (part.row_begin == part.row_end) continue;
    part.key_begin = std::max(begin_[part.row_begin] - key, 0);
    part.key_end = std::min(end_[part.row_end - 1] - key, kPageTokens);
    if (part.key_begin < part.key_end) visit(part);
  }
}

namespace {

constexpr int32_t kWidth = 16;  // whole vectors of scores, as the softmax reads them

int32_t rounded_down(int32_t keys) { return keys / kWidth * kWidth; }
int32_t rounded_up(int32_t keys) { return rounded_down(keys + kWidth - 1); }

int64_t number_bytes(DType dtype) { return PageShape{.dtype = dtype}.number_bytes(); }

// The scales at an offset of a page.
const float* scales_of(const PageShape& shape, const std::byte* page, int64_t offset) {
  return shape.dtype == DType::kI8 ? reinterpret_cast<const float*>(page + offset) : nullptr;
}

}  // namespace

const std::byte* BlockRun::Panel::at(int64_t number) const {
  return data + number * number_bytes(dtype);
}

// A product of more rows than a register tile's would widen every number again and again, and none
// takes packed ones.
bool BlockRun::widens() const {
  const PageShape& shape = args_->shape.pages;
  return shape.dtype != DType::kF32 && (block_.rows > kTileRows || shape.packs());
}

// The keys of a page that any row sees: both ends ascend with the row.
KeyRange BlockRun::seen_of(int32_t page) const {
  const int32_t key = page * kPageTokens;
  return {std::max(begin_[0] - key, 0), std::min(end_[block_.rows - 1] - key, kPageTokens)};
}

int32_t BlockRun::kv_head() const {
  return block_.head / (block_heads(args_->shape) / args_->shape.pages.kv_heads);
}

// With few rows reading pages from memory is what takes the time, and it goes on while a product
// runs: without, decoding behind 16384 tokens with heads of 64 takes 1.0 to 1.5 times as long in
// f32, 1.5 to 1.8 times in int8 (attention_bench, one core of Sapphire Rapids).
constexpr int32_t kFetchingRows = 32;

BlockRun::Ahead BlockRun::keys_ahead(int32_t page) const {
  const PageShape& shape = args_->shape.pages;
  if (block_.rows > kFetchingRows || shape.packs()) return {};
  return {block_.sequence->keys->pages[page] + shape.keys_at(kv_head()),
          kPageTokens * shape.d_k * shape.number_bytes()};
}

BlockRun::Ahead BlockRun::values_ahead(int32_t page) const {
  const PageShape& shape = args_->shape.pages;
  if (block_.rows > kFetchingRows || block_.cols < shape.d_v || shape.packs()) return {};
  return {block_.sequence->keys->pages[page] + shape.values_at(block_.head),
          kPageTokens * shape.d_v * shape.number_bytes()};
}

BlockRun::Panel BlockRun::keys_of(int32_t page) const {
  const PageShape& shape = args_->shape.pages;
  const int32_t kv_head = this->kv_head();
  const std::byte* base = block_.sequence->keys->pages[page];
  const Panel keys{.data = base + shape.keys_at(kv_head),
                   .dtype = shape.dtype,
                   .scales = scales_of(shape, base, shape.key_scales_at(kv_head)),
                   .stride = kPageTokens};
  if (!widens()) return keys;
  const KeyRange seen = seen_of(page);
  const int32_t begin = rounded_down(seen.begin), end = rounded_up(seen.end);
  if (shape.packs()) {
    widen_keys({shape, base, kv_head}, {begin, end}, wide_);
    return {.data = reinterpret_cast<const std::byte*>(wide_), .stride = kPageTokens};
  }
  kernels_->to_f32({.dtype = shape.dtype,
                    .x = keys.at(begin),
                    .x_stride = kPageTokens,
                    .cols = end - begin,
                    .col_scale = keys.scales != nullptr ? keys.scales + begin : nullptr,
                    .y = wide_ + begin,
                    .y_stride = kPageTokens},
                   {0, shape.d_k});
  return {.data = reinterpret_cast<const std::byte*>(wide_), .stride = kPageTokens};
}

BlockRun::Panel BlockRun::values_of(int32_t page, Columns columns) const {
  const PageShape& shape = args_->shape.pages;
  const std::byte* base = block_.sequence->keys->pages[page];
  if (shape.packs()) {
    const KeyRange seen = seen_of(page);
    widen_values({shape, base, block_.head}, {seen.begin, seen.end},
                 {columns.first, columns.first + columns.count}, wide_);
    return {.data = reinterpret_cast<const std::byte*>(wide_), .stride = columns.count};
  }
  const Panel values{
      .data = base + shape.values_at(block_.head) + columns.first * shape.number_bytes(),
      .dtype = shape.dtype,
      .scales = scales_of(shape, base, shape.value_scales_at(block_.head)),
      .stride = shape.d_v};
  if (!widens()) return values;
  const KeyRange seen = seen_of(page);
  kernels_->to_f32({.dtype = shape.dtype,
                    .x = values.data,
                    .x_stride = values.stride,
                    .cols = columns.count,
                    .row_scale = values.scales,
                    .y = wide_,
                    .y_stride = columns.count},
                   {seen.begin, seen.end});
  return {.data = reinterpret_cast<const std::byte*>(wide_), .stride = columns.count};
}

void BlockRun::scores(int32_t page_begin, int32_t page_end) {
  const PageShape& shape = args_->shape.pages;
  for (int32_t page = page_begin; page < page_end; ++page) {
    const Panel keys = keys_of(page);
    // Behind the last keys come the values of these pages.
    const Ahead ahead = page + 1 < page_end ? keys_ahead(page + 1) : values_ahead(page_begin);
    float* scores = scores_ + (page - page_begin) * kPageTokens;
    for_each_part(page, [&](const Part& part) {
      const int32_t begin = rounded_down(part.key_begin), end = rounded_up(part.key_end);
      kernels_->product({.a = query_,
                         .a_stride = shape.d_k,
                         .depth = shape.d_k,
                         .b = keys.at(begin),
                         .b_dtype = keys.dtype,
                         .b_col_scale = keys.scales != nullptr ? keys.scales + begin : nullptr,
                         .b_stride = keys.stride,
                         .cols = end - begin,
                         .start = attention_product::Start::kZero,
                         .c = scores + begin,
                         .c_stride = score_stride_,
                         .next = ahead.data,
                         .next_bytes = ahead.bytes / shape.d_k},
                        {part.row_begin, part.row_end});
    });
  }
}

void BlockRun::softmax(int32_t page_begin, int32_t page_end) {
  kernels_->softmax({.scores = scores_,
                     .scores_stride = score_stride_,
                     .begin = begin_,
                     .end = end_,
                     .first_key = page_begin * kPageTokens,
                     .keys = (page_end - page_begin) * kPageTokens,
                     .bias = block_.sequence->score_bias != nullptr ? bias_ : nullptr,
                     .maximum = maximum_,
                     .sum = sum_,
                     .rescale = rescale_},
                    {0, block_.rows});
}

void BlockRun::values(int32_t page_begin, int32_t page_end) {
  const int32_t step = widens() ? kWideColumns : block_.cols;
  for (int32_t page = page_begin; page < page_end; ++page) {
    for (int32_t col = 0; col < block_.cols; col += step)
      add_values({page, page_begin, page_end}, {col, std::min(step, block_.cols - col)});
  }
}

// Adds the values of one page to some of the block's columns.
void BlockRun::add_values(const Step& step, Columns columns) {
  using attention_product::Start;
  const int32_t page = step.page;
  const Panel values = values_of(page, {block_.first_col + columns.first, columns.count});
  const float* scores = scores_ + (page - step.begin) * kPageTokens;
  const Ahead ahead = page + 1 < step.end ? values_ahead(page + 1) : Ahead();
  // A row with outputs from earlier pages sees the first of these pages too, if it sees any.
  const bool rescales = page == step.begin && page != first_page_;
  for_each_part(page, [&](const Part& part) {
    kernels_->product(
        {.a = scores + part.key_begin,
         .a_stride = score_stride_,
         .depth = part.key_end - part.key_begin,
         .b = values.at(part.key_begin * values.stride),
         .b_dtype = values.dtype,
         .b_row_scale = values.scales != nullptr ? values.scales + part.key_begin : nullptr,
         .b_stride = values.stride,
         .cols = columns.count,
         .start = rescales ? Start::kScale : Start::kAdd,
         .factor = rescale_,
         .c = output_ + columns.first,
         .c_stride = block_.cols,
         .next = ahead.data,
         .next_bytes = ahead.bytes / kPageTokens},
        {part.row_begin, part.row_end});
  });
}

float log_sum_exp(float maximum, float sum) {
  if (sum == 0) return -kInfinity;
  const double logarithm = static_cast<double>(maximum) + std::log2(sum);
  return static_cast<float>(logarithm * attention_softmax::kLn2);
}

void BlockRun::write_magnitude(int32_t r, float magnitude) const {
  if (args_->magnitudes == nullptr) return;
  const int64_t row = block_.sequence->first_row + query_of(r);
  args_->magnitudes[row * args_->shape.query_heads + head_of(r)] = magnitude;
}

void BlockRun::write_log_sum_exp(int32_t r) const {
  if (args_->log_sum_exp == nullptr) return;
  const int64_t row = block_.sequence->first_row + query_of(r);
  args_->log_sum_exp[row * args_->shape.query_heads + head_of(r)] =
      log_sum_exp(maximum_[r], sum_[r]);
}

void BlockRun::finish() {
  const int32_t d_v = block_.cols;
  for (int32_t r = 0; r < block_.rows; ++r) {
    const int32_t head = head_of(r);
    if (!block_.sequence->lives(head)) continue;
    const int64_t row = block_.sequence->first_row + query_of(r);
    const float* from = output_ + int64_t{r} * d_v;
    float* to = args_->output + row * args_->output_stride + int64_t{head} * d_v;
    if (sum_[r] == 0) {
      std::fill_n(to, d_v, 0.0f);
    } else {
      const float factor = 1 / sum_[r];
      for (int32_t d = 0; d < d_v; ++d) to[d] = from[d] * factor;
    }
    if (args_->magnitudes != nullptr) write_magnitude(r, magnitude(to, d_v));
    write_log_sum_exp(r);
  }
}

// Maxima, sums and outputs of the rows, one after another, in whole cache lines.
int64_t BlockRun::partial_floats(const AttentionShape& shape, int32_t rows) {
  constexpr int64_t kLine = 16;
  return (int64_t{rows} * (shape.pages.d_v + 2) + kLine - 1) / kLine * kLine;
}

bool BlockRun::leave_partial() const {
  const int32_t rows = block_.rows;
  float* to = block_.meeting.partials + block_.range * partial_floats(args_->shape, rows);
  std::copy_n(maximum_, rows, to);
  std::copy_n(sum_, rows, to + rows);
  std::copy_n(output_, int64_t{rows} * block_.cols, to + int64_t{2} * rows);
  // What each member wrote before it came is seen by the last.
  std::atomic_ref<int32_t> arrived(*block_.meeting.arrived);
  if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 < block_.meeting.ranges) return false;
  arrived.store(0, std::memory_order_relaxed);
  return true;
}

void BlockRun::merge(const Block& block, int32_t score_keys) {
  Block whole = block;
  whole.keys = Block().keys;
  start(whole, score_keys);
  const int32_t rows = whole.rows;
  const int64_t stride = partial_floats(args_->shape, rows);
  for (int32_t r = 0; r < rows; ++r) {
    const float* first = whole.meeting.partials + r;
    for (int32_t i = 0; i < whole.meeting.ranges; ++i)
      maximum_[r] = std::max(maximum_[r], first[i * stride]);
    float* to = output_ + int64_t{r} * whole.cols;
    for (int32_t i = 0; i < whole.meeting.ranges; ++i) {
      const float* maximum = first + i * stride;
      // Nothing seen, which may be so in every range; NaN stays NaN.
      if (*maximum == -kInfinity) continue;
      const float weight = std::exp2(*maximum - maximum_[r]);
      const float* from = maximum - r + int64_t{2} * rows + int64_t{r} * whole.cols;
      sum_[r] += weight * maximum[rows];
      for (int32_t d = 0; d < whole.cols; ++d) to[d] += weight * from[d];
    }
  }
}

void BlockRun::start_sum(const Block& block) {
  std::fill_n(total_, int64_t{block.rows} * block.cols, 0.0f);
}

void BlockRun::add_to_sum() {
  for (int32_t r = 0; r < block_.rows; ++r) {
    const float factor = sum_[r] == 0 ? 0 : 1 / sum_[r];
    const float* from = output_ + int64_t{r} * block_.cols;
    float* to = total_ + int64_t{r} * block_.cols;
    for (int32_t d = 0; d < block_.cols; ++d) to[d] += from[d] * factor;
    if (args_->magnitudes != nullptr) write_magnitude(r, magnitude(from, block_.cols) * factor);
    // Once, by whoever has the first columns.
    if (block_.first_col == 0) write_log_sum_exp(r);
  }
}

void BlockRun::finish_sum() {
  for (int32_t r = 0; r < block_.rows; ++r) {
    const int64_t row = block_.sequence->first_row + block_.first_row + r;
    std::copy_n(total_ + int64_t{r} * block_.cols, block_.cols,
                args_->output + row * args_->output_stride + block_.first_col);
  }
}

void BlockRun::settle() {
  std::fill_n(share_, int64_t{group_} * block_.rows, 0.0f);
  for (int32_t r = 0; r < block_.rows; ++r) {
    if (!block_.sequence->lives(head_of(r))) continue;
    const int32_t head = head_of(r) - block_.head * group_;
    share_[int64_t{head} * block_.rows + r] = sum_[r] == 0 ? 0 : 1 / sum_[r];
  }
}

void BlockRun::column_mass(int32_t page_begin, int32_t page_end) {
  const int64_t keys = block_.sequence->keys->tokens();
  float* mass = block_.sequence->column_mass + block_.head * group_ * keys;
  for (int32_t page = page_begin; page < page_end; ++page) {
    const float* scores = scores_ + (page - page_begin) * kPageTokens;
    for_each_part(page, [&](const Part& part) {
      kernels_->product({.a = share_ + part.row_begin,
                         .a_stride = block_.rows,
                         .depth = part.row_end - part.row_begin,
                         .b = scores + part.row_begin * score_stride_ + part.key_begin,
                         .b_stride = score_stride_,
                         .cols = part.key_end - part.key_begin,
                         .start = attention_product::Start::kAdd,
                         .c = mass + int64_t{page} * kPageTokens + part.key_begin,
                         .c_stride = keys},
                        {0, group_});
    });
  }
}

}  // namespace tessera::attention
