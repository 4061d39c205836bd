#pragma once

#include <cstdint>
#include <limits>

#include "attention/method.h"
#include "kernels/attention_product/attention_product.h"
#include "kernels/attention_softmax/attention_softmax.h"
#include "kernels/key_plane/key_plane.h"
#include "kernels/rows_to_f32/rows_to_f32.h"
#include "kernels/topk/topk.h"
#include "kernels/value_rows/value_rows.h"

// What the blocked methods share. A block is a run of consecutive rows of one head of one sequence.
// Where outputs are concatenated it is a KV head, with row
//   r = query * group + head within the group
// so that one pass over the keys and values serves all query heads of the group. Where they are
// summed it is a query head with values of its own, and the group is 1.
namespace tessera::attention {

// Refuses shapes outside the contract of method.h.
Status check_shape(std::string_view method, const AttentionShape& shape);

// Floating-point operations of one query row, all heads, on average over the last `queries` of
// `keys` positions.
double average_flops(const AttentionShape& shape, int32_t queries, int32_t keys);

// Blocks' heads, and the query heads of each.
int32_t block_heads(const AttentionShape& shape);
int32_t group_size(const AttentionShape& shape);

// Whether any query head of a block's head is alive.
bool lives(const AttentionShape& shape, const AttentionSequence& sequence, int32_t block_head);

// Writes what is 0 for heads that are dead, a part of it by each member: their outputs and
// magnitudes, and the column masses of blocks that nobody visits.
void clear_dead_heads(const AttentionArgs& args, const Team::Member& member);

// The sum of their magnitudes.
float magnitude(const float* values, int32_t count);

// An odd number of cache lines between rows of scores: powers of two would put all rows into the
// same few cache sets.
constexpr int32_t kScorePadding = 16;

struct KeyRange {
  int32_t begin = 0;
  int32_t end = 0;
};

// The keys that a query sees. Both ends ascend with the query. Positions of a sequence are
// distinct, and ascend with the key; but of a single query without a window, which stands at the
// last key and with it behind all others, they may come in any order.
class Visibility {
 public:
  Visibility(const AttentionShape& shape, const AttentionSequence& sequence);
  KeyRange operator()(int32_t query) const;

 private:
  int32_t keys_before(int64_t position) const;

  const AttentionShape* shape_;
  const AttentionSequence* sequence_;
  const int32_t* positions_;
  int32_t keys_;
  bool contiguous_;
};

// The memory where the partial outputs of a head's ranges of keys meet.
struct Meeting {
  float* partials = nullptr;  // a partial output of each range, BlockRun::partial_floats apart
  int32_t* arrived = nullptr;
  int32_t ranges = 1;
};

struct Block {
  const AttentionSequence* sequence = nullptr;
  int32_t head = 0;
  int32_t first_row = 0;
  int32_t rows = 0;
  // The outputs to compute, of kSummed; all else.
  int32_t first_col = 0;
  int32_t cols = 0;
  // The keys to read, of a head that is split over them; all else.
  KeyRange keys = {0, std::numeric_limits<int32_t>::max()};
  int32_t range = 0;  // which of the meeting's
  Meeting meeting = {};

  bool is_split() const { return meeting.ranges > 1; }
};

// The rows that a block has at most, of a batch for a team of so many: max_rows, or fewer where the
// heads are summed, so that every member has some.
int32_t rows_for_team(const AttentionArgs& args, int32_t max_rows, int members);

// How heads are cut into blocks.
struct Cut {
  int32_t max_rows = 1;
  // A head whose rows are one block is split over its keys, at the multiples of so many, where it
  // sees more than one such range; 0: never. A multiple of kPageTokens.
  int32_t range_keys = 0;
};

// What a sequence of so many queries and keys needs of AttentionArgs::partials.
int64_t partial_floats(const AttentionShape& shape, const Cut& cut, int32_t queries, int32_t keys);

// Calls visit(block) for the blocks of this member: every sequence and head is cut into blocks, and
// each member gets a consecutive run of about the same cost. The cuts do not depend on the team.
// Where column masses are wanted a member gets whole heads, so that their sums have one order.
// Dead heads have no blocks. Summed heads are one member's, in their order: visit gets head 0 and
// goes through those that live. Where there are too few rows for the team, members have a part of
// the columns each, unless magnitudes are wanted, which are sums over all. A sequence that selects
// has one block a head, of all its rows, keys and columns.
class Dealer {
 public:
  Dealer(const AttentionArgs& args, const Cut& cut, int members);

  template <typename Visit>
  void deal(const Team::Member& member, Visit visit) const {
    const int64_t total = total_cost();
    int64_t passed = 0;
    Meeting meeting{.partials = args_->partials, .arrived = args_->arrived};
    for (const AttentionSequence& sequence : args_->sequences) {
      const Visibility visibility(args_->shape, sequence);
      const KeyRange ranges = ranges_of(sequence, visibility);
      const int64_t head_cost = this->head_cost(sequence, visibility);
      meeting.ranges = ranges.end - ranges.begin;
      for (int32_t head = 0; head < heads_; ++head, meeting = next(meeting, sequence)) {
        if (!deals(sequence, head)) continue;
        // The middle of a block decides whose it is, so that shares differ by one block at most.
        const auto owner = [&](int64_t cost) {
          return (2 * passed + cost) * member.size() / (2 * total);
        };
        const int64_t head_owner = owner(head_cost);
        for (Block whole = first(sequence, head); whole.rows > 0; whole = next(whole)) {
          whole.meeting = meeting;
          for (int32_t part = 0; part < parts_ * meeting.ranges; ++part) {
            const Block block = parts_ > 1 ? columns(whole, part) : keys(whole, ranges, part);
            const int64_t cost = heads_at_once(sequence) * block_cost(block, visibility);
            if ((whole_heads_ ? head_owner : owner(cost)) == member.rank()) visit(block);
            passed += cost;
          }
        }
      }
    }
  }

 private:
  bool deals(const AttentionSequence& sequence, int32_t head) const {
    return heads_ == 1 || lives(args_->shape, sequence, head);
  }
  int64_t live_heads(const AttentionSequence& sequence) const;
  // That a visit goes through.
  int64_t heads_at_once(const AttentionSequence& sequence) const {
    return args_->shape.outputs == HeadOutputs::kSummed ? live_heads(sequence) : 1;
  }
  Block first(const AttentionSequence& sequence, int32_t head) const;
  Block next(const Block& block) const;
  Block columns(Block block, int32_t part) const;
  Block keys(Block block, KeyRange ranges, int32_t part) const;
  KeyRange ranges_of(const AttentionSequence& sequence, const Visibility& visibility) const;
  Meeting next(Meeting meeting, const AttentionSequence& sequence) const;
  int64_t block_cost(const Block& block, const Visibility& visibility) const;
  int64_t head_cost(const AttentionSequence& sequence, const Visibility& visibility) const;
  int64_t total_cost() const;

  const AttentionArgs* args_;
  Cut cut_;
  int32_t heads_;      // that are dealt
  int32_t parts_ = 1;  // of the columns
  bool whole_heads_ = false;
};

// The kernels of one run, chosen once.
struct Kernels {
  Kernels();
  void (*product)(const attention_product::Args&, Exec) noexcept;
  void (*softmax)(const attention_softmax::Args&, Exec) noexcept;
  void (*to_f32)(const rows_to_f32::Args&, Exec) noexcept;
  void (*key_plane)(const key_plane::Args&, Exec) noexcept;
  void (*value_rows)(const value_rows::Args&, Exec) noexcept;
  void (*topk)(const topk::Args&, Exec) noexcept;
};

// Of a row behind its last softmax, in natural units; -infinity where it saw nothing.
float log_sum_exp(float maximum, float sum);

// The computation of one block: start, then for each run of pages scores, softmax, values, then
// finish.
class BlockRun {
 public:
  // workspace: workspace_bytes for at least max_rows and the scores of any block, its rows times
  // its score_keys.
  BlockRun(const AttentionArgs& args, const Kernels& kernels, int32_t max_rows, void* workspace);
  static int64_t workspace_bytes(const AttentionShape& shape, int32_t max_rows, int64_t scores);

  // Loads the scaled queries and finds the pages they see: [first_page, last_page). score_keys: the
  // most keys of a run of pages, a multiple of kPageTokens.
  void start(const Block& block, int32_t score_keys);
  int32_t first_page() const { return first_page_; }
  int32_t last_page() const { return last_page_; }

  void scores(int32_t page_begin, int32_t page_end);
  // Turns the scores of these pages into probabilities relative to the running maximum.
  void softmax(int32_t page_begin, int32_t page_end);
  // Adds their values to the outputs.
  void values(int32_t page_begin, int32_t page_end);

  // Writes outputs and log-sum-exp of the block's rows.
  void finish();

  // Takes the place of finish for a block that is split over its keys: leaves its part at the
  // meeting. True for the last of the head's blocks to come, which then goes on with `merge` and
  // finish.
  bool leave_partial() const;
  // Becomes the run of all the head's keys behind their last softmax, of partial results
  //   (m_i, l_i, O_i):  m = max_i m_i, w_i = 2^(m_i - m), l = sum_i w_i l_i, O = sum_i w_i O_i
  // in the order of the keys, whoever computed them (split-KV decoding, Dao et al. 2023).
  void merge(const Block& block, int32_t score_keys);
  static int64_t partial_floats(const AttentionShape& shape, int32_t rows);

  // For summed heads: start and finish of the block, and after each head, in place of finish, its
  // part of the sum.
  void start_sum(const Block& block);
  void add_to_sum();
  void finish_sum();

  bool wants_column_mass() const { return block_.sequence->column_mass != nullptr; }
  // After the last softmax: keeps the rows' sums, by which column_mass divides.
  void settle();
  // Adds the probabilities of these pages, relative to the final maximum, to the column masses.
  void column_mass(int32_t page_begin, int32_t page_end);

 private:
  // A part of a page and the rows that see it: rows [row_begin, row_end), keys [key_begin, key_end)
  // of the page.
  struct Part {
    int32_t row_begin = 0, row_end = 0, key_begin = 0, key_end = 0;
  };
  // Calls visit(part) for parts of the page that hold, for every row of the block, all keys that it
  // sees.
  template <typename Visit>
  void for_each_part(int32_t page, Visit visit) const;
  // What a product reads of a page: the page itself where it holds floats or the rows are few, else
  // as much of it as the block sees, widened.
  struct Panel {
    const std::byte* data = nullptr;  // of key 0
    DType dtype = DType::kF32;
    const float* scales = nullptr;  // of the keys
    int64_t stride = 0;

    const std::byte* at(int64_t number) const;
  };
  struct Columns {
    int32_t first = 0;
    int32_t count = 0;
  };
  // A page of the pages [begin, end) of a step.
  struct Step {
    int32_t page = 0, begin = 0, end = 0;
  };
  void add_values(const Step& step, Columns columns);
  Panel keys_of(int32_t page) const;
  Panel values_of(int32_t page, Columns columns) const;
  KeyRange seen_of(int32_t page) const;
  bool widens() const;
  int32_t kv_head() const;
  // The matrix of a page that is read next, to be fetched meanwhile.
  struct Ahead {
    const std::byte* data = nullptr;
    int64_t bytes = 0;
  };
  Ahead keys_ahead(int32_t page) const;
  Ahead values_ahead(int32_t page) const;
  const float* bias_row(int32_t query, int32_t head) const;
  void write_log_sum_exp(int32_t row) const;
  void write_magnitude(int32_t row, float magnitude) const;
  // Of a row of the block.
  int32_t query_of(int32_t row) const { return (block_.first_row + row) / group_; }
  int32_t head_of(int32_t row) const {
    return block_.head * group_ + (block_.first_row + row) % group_;
  }

  const AttentionArgs* args_;
  const Kernels* kernels_;
  int32_t group_;
  int64_t score_stride_ = 0;
  Block block_;
  int32_t first_page_ = 0;
  int32_t last_page_ = 0;

  float* query_ = nullptr;    // [rows, d_k], scaled
  float* scores_ = nullptr;   // [rows, score_stride_]
  float* wide_ = nullptr;     // a page's matrix as floats, where it holds narrower numbers
  float* output_ = nullptr;   // [rows, cols], not yet divided by the sums
  float* total_ = nullptr;    // [rows, cols], of the heads so far
  float* maximum_ = nullptr;  // [rows], as of attention_softmax
  float* sum_ = nullptr;
  float* rescale_ = nullptr;
  float* share_ = nullptr;    // [group, rows]: 1 / sum of the rows of a head, 0 for other heads
  int32_t* begin_ = nullptr;  // [rows], the keys that a row sees
  int32_t* end_ = nullptr;
  const float** bias_ = nullptr;
};

}  // namespace tessera::attention
