#include "attention/blocks.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace tessera::attention {
namespace {

constexpr int32_t kMaxHeadSize = 256;
constexpr int32_t kMaxSummedSize = 65536;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// An odd number of cache lines between rows of scores: powers of two would put all rows into the
// same few cache sets.
constexpr int32_t kScorePadding = 16;

// Rows at the edge of what they see, where each needs another part of a page, are taken in groups
// of this many: two register tiles of the products, so that little is computed to be thrown away.
constexpr int32_t kEdgeRows = 12;

// A register tile of the products: 6 rows, 64 columns.
constexpr int32_t kTileRows = 6;
constexpr int32_t kPanel = 64;

int64_t aligned(int64_t size_bytes) { return (size_bytes + 63) / 64 * 64; }

// Hands out pieces of a workspace.
class Carver {
 public:
  explicit Carver(void* memory) : next_(static_cast<std::byte*>(memory)) {}

  template <typename T>
  T* take(int64_t count) {
    T* piece = reinterpret_cast<T*>(next_);
    next_ += aligned(count * static_cast<int64_t>(sizeof(T)));
    return piece;
  }

 private:
  std::byte* next_;
};

}  // namespace

namespace {

Status check_size(std::string_view method, int32_t size, int32_t most) {
  if (size >= 1 && size <= most) return {};
  return Status(
      StatusCode::kUnsupported,
      fmt::format("attention {}: expected head sizes from 1 to {}, found {}", method, most, size));
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
  if (shape_->mask == Mask::kCausal) range.end = keys_before(position + 1);
  if (shape_->window > 0)
    range.begin = std::min(range.end, keys_before(position - shape_->window + 1));
  return range;
}

int32_t block_heads(const AttentionShape& shape) {
  return shape.outputs == HeadOutputs::kSummed ? shape.query_heads : shape.pages.kv_heads;
}

int32_t group_size(const AttentionShape& shape) { return shape.query_heads / block_heads(shape); }

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

Dealer::Dealer(const AttentionArgs& args, int32_t max_rows, int members)
    : args_(&args), max_rows_(max_rows), heads_(block_heads(args.shape)) {
  int64_t blocks = 0;
  for (const AttentionSequence& sequence : args.sequences) {
    whole_heads_ = whole_heads_ || sequence.column_mass != nullptr;
    blocks += (sequence.queries + max_rows - 1) / max_rows;
  }
  if (args.shape.outputs != HeadOutputs::kSummed) return;
  heads_ = 1;
  // Every part computes the scores again, so that only few blocks are worth cutting.
  const int32_t panels = (args.shape.pages.d_v + kPanel - 1) / kPanel;
  if (!whole_heads_ && blocks < members) parts_ = std::min<int32_t>(members, panels);
}

Block Dealer::first(const AttentionSequence& sequence, int32_t head) const {
  return next({.sequence = &sequence, .head = head, .cols = args_->shape.pages.d_v});
}

Block Dealer::next(const Block& block) const {
  const int32_t rows = block.sequence->queries * group_size(args_->shape);
  Block next = block;
  next.first_row = block.first_row + block.rows;
  next.rows = std::min(max_rows_, rows - next.first_row);
  return next;
}

// In whole panels, like the products' tiles.
Block Dealer::columns(Block block, int32_t part) const {
  const int32_t cols = args_->shape.pages.d_v, panels = (cols + kPanel - 1) / kPanel;
  block.first_col = panels * part / parts_ * kPanel;
  block.cols = std::min(panels * (part + 1) / parts_ * kPanel, cols) - block.first_col;
  return block;
}

int64_t Dealer::block_cost(const Block& block, const Visibility& visibility) const {
  const int32_t group = group_size(args_->shape);
  const KeyRange first = visibility(block.first_row / group);
  const KeyRange last = visibility((block.first_row + block.rows - 1) / group);
  // A page's worth of work more for the loading and storing of the block.
  return int64_t{block.rows} * (std::max(0, last.end - first.begin) + kPageTokens);
}

int64_t Dealer::head_cost(const AttentionSequence& sequence, const Visibility& visibility) const {
  int64_t cost = 0;
  for (Block block = first(sequence, 0); block.rows > 0; block = next(block))
    cost += block_cost(block, visibility);
  return cost * parts_;
}

int64_t Dealer::total_cost() const {
  int64_t total = 0;
  for (const AttentionSequence& sequence : args_->sequences)
    total += head_cost(sequence, Visibility(args_->shape, sequence));
  return std::max<int64_t>(total * heads_, 1);
}

Kernels::Kernels()
    : product(attention_product::kernels.select({}).run),
      softmax(attention_softmax::kernels.select({}).run) {}

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
  scores_ = carver.take<float>(0);
}

int64_t BlockRun::workspace_bytes(const AttentionShape& shape, int32_t max_rows, int64_t scores) {
  constexpr int64_t kPieces = 11;
  const int64_t outputs =
      (shape.outputs == HeadOutputs::kSummed ? 2 : 1) * int64_t{shape.pages.d_v};
  const int64_t row_words = shape.pages.d_k + outputs + kScorePadding + 5 + group_size(shape);
  const int64_t word = sizeof(float), pointer = sizeof(float*);
  return aligned(max_rows * (row_words * word + pointer) + scores * word) + kPieces * 64;
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
    const int32_t query = (block.first_row + r) / group_, member = (block.first_row + r) % group_;
    const int32_t head = block.head * group_ + member;
    if (r == 0 || member == 0) range = visibility(query);
    begin_[r] = range.begin;
    end_[r] = range.end;
    if (sequence.score_bias != nullptr) bias_[r] = bias_row(query, head);
    const float* from =
        args_->query + (sequence.first_row + query) * args_->query_stride + int64_t{head} * d_k;
    float* to = query_ + int64_t{r} * d_k;
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

void BlockRun::scores(int32_t page_begin, int32_t page_end) {
  constexpr int32_t kWidth = 16;  // whole vectors, as the softmax reads them
  const PageShape& shape = args_->shape.pages;
  const int32_t kv_head = block_.head / (block_heads(args_->shape) / shape.kv_heads);
  for (int32_t page = page_begin; page < page_end; ++page) {
    const float* keys = block_.sequence->keys->pages[page] + shape.keys_at(kv_head);
    float* scores = scores_ + (page - page_begin) * kPageTokens;
    for_each_part(page, [&](const Part& part) {
      const int32_t begin = part.key_begin / kWidth * kWidth;
      const int32_t end = (part.key_end + kWidth - 1) / kWidth * kWidth;
      kernels_->product({.a = query_,
                         .a_stride = shape.d_k,
                         .depth = shape.d_k,
                         .b = keys + begin,
                         .b_stride = kPageTokens,
                         .cols = end - begin,
                         .start = attention_product::Start::kZero,
                         .c = scores + begin,
                         .c_stride = score_stride_},
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
  const PageShape& shape = args_->shape.pages;
  for (int32_t page = page_begin; page < page_end; ++page) {
    const float* values =
        block_.sequence->keys->pages[page] + shape.values_at(block_.head) + block_.first_col;
    const float* scores = scores_ + (page - page_begin) * kPageTokens;
    // A row with outputs from earlier pages sees the first of these pages too, if it sees any.
    const bool rescales = page == page_begin && page != first_page_;
    for_each_part(page, [&](const Part& part) {
      kernels_->product(
          {.a = scores + part.key_begin,
           .a_stride = score_stride_,
           .depth = part.key_end - part.key_begin,
           .b = values + int64_t{part.key_begin} * shape.d_v,
           .b_stride = shape.d_v,
           .cols = block_.cols,
           .start = rescales ? attention_product::Start::kScale : attention_product::Start::kAdd,
           .factor = rescale_,
           .c = output_,
           .c_stride = block_.cols},
          {part.row_begin, part.row_end});
    });
  }
}

void BlockRun::write_log_sum_exp(int32_t r) const {
  if (args_->log_sum_exp == nullptr) return;
  const int32_t query = (block_.first_row + r) / group_;
  const int32_t head = block_.head * group_ + (block_.first_row + r) % group_;
  const double logarithm =
      (static_cast<double>(maximum_[r]) + std::log2(sum_[r])) * attention_softmax::kLn2;
  const int64_t row = block_.sequence->first_row + query;
  args_->log_sum_exp[row * args_->shape.query_heads + head] =
      sum_[r] == 0 ? -kInfinity : static_cast<float>(logarithm);
}

void BlockRun::finish() {
  const int32_t d_v = block_.cols;
  for (int32_t r = 0; r < block_.rows; ++r) {
    const int32_t query = (block_.first_row + r) / group_;
    const int32_t head = block_.head * group_ + (block_.first_row + r) % group_;
    const int64_t row = block_.sequence->first_row + query;
    const float* from = output_ + int64_t{r} * d_v;
    float* to = args_->output + row * args_->output_stride + int64_t{head} * d_v;
    if (sum_[r] == 0) {
      std::fill_n(to, d_v, 0.0f);
    } else {
      const float factor = 1 / sum_[r];
      for (int32_t d = 0; d < d_v; ++d) to[d] = from[d] * factor;
    }
    write_log_sum_exp(r);
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
    const int32_t head = (block_.first_row + r) % group_;
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
