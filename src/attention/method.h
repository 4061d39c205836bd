#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "attention/cache_reads.h"
#include "base/status.h"
#include "base/team.h"
#include "formats/cache_pages.h"

namespace tessera {

enum class Mask { kNone, kCausal };

// Whether the outputs of the query heads stand one after another, or are added up: values that are
// multiplied by the output matrix already (E.T.'s pre-computed linear transformation).
enum class HeadOutputs { kConcatenated, kSummed };

// Which values a query reads (local value pruning, SpAtten, section III.C). What is left out has no
// part in the output; the probabilities of the others stay as they are.
struct ValueRule {
  enum class Kind {
    kAll,
    // Those of the most_of(keys) largest probabilities, of equal ones the first.
    kLargest,
    // Those whose probability is at least `threshold` times the largest one of the query
    // (skip-softmax, BLASST): as every score is known by then, its final maximum takes the place
    // of a running one, beside which no fewer would be read.
    kAbove,
  };
  Kind kind = Kind::kAll;
  double share = 1;   // of kLargest, of the keys that the query sees
  int32_t count = 0;  // of kLargest: above 0, this many in place of a share
  float threshold = 0;

  // At least one, and rounded down; a product that is whole but for its rounding is whole.
  int32_t most_of(int32_t keys) const {
    if (kind != Kind::kLargest) return keys;
    constexpr double kSlack = 1e-9;
    const int32_t wanted = count > 0 ? count : static_cast<int32_t>(share * keys + kSlack);
    return std::min(keys, std::max(wanted, 1));
  }
};

// When a query reads the lower plane of the keys too: where its largest probability by the upper
// plane is below
//   below + below_times_keys / keys that it sees
// 0: never; above 1: always, and the upper plane is not asked first.
struct Refetch {
  double below = 0;
  double below_times_keys = 0;

  double threshold(int32_t keys) const { return below + below_times_keys / keys; }
};

// How a query reads that is the only one of its sequence, as in generation.
struct ReadRules {
  ValueRule values = {};
  Refetch refetch = {};
};

// What does not depend on the data of one call.
struct AttentionShape {
  int32_t query_heads = 0;
  // query_heads is a multiple of kv_heads, both head sizes 1..256, a value head each KV head; with
  // kSummed a value head each query head, and d_v 1..65536.
  PageShape pages;
  float scale = 1;  // usually 1 / sqrt(d_k)
  Mask mask = Mask::kNone;
  int32_t window = 0;  // > 0: a key is seen if query position - key position < window
  HeadOutputs outputs = HeadOutputs::kConcatenated;
  // Of the only query of a sequence that has no rules of its own. Several queries read every plane
  // of every key and every value.
  ValueRule values = {};
  Refetch refetch = {};

  // Whether a query alone reads its pages otherwise than several do.
  bool selects() const { return values.kind != ValueRule::Kind::kAll || pages.packs(); }
  // The width of a row of queries, keys and values.
  int64_t qkv_width() const { return query_width() + pages.key_width() + pages.value_width(); }
  int64_t query_width() const { return int64_t{query_heads} * pages.d_k; }
  int64_t output_width() const {
    return outputs == HeadOutputs::kSummed ? pages.d_v : int64_t{query_heads} * pages.d_v;
  }
};

// One sequence of a batch. Query i stands at query_positions[i] and sees every key (kNone) or those
// at positions
// <= its own (kCausal), within the window. A query that sees no key gets 0 and a log-sum-exp of
// -infinity.
struct AttentionSequence {
  int64_t first_row = 0;  // its first row in query and output
  int32_t queries = 0;
  const int32_t* query_positions = nullptr;
  const PageTable* keys = nullptr;
  // Added to the scaled scores when not null: [query_heads][queries][keys].
  const float* score_bias = nullptr;
  // Where not null, [query_heads][keys]: what each key was attended to in all, sum over the queries
  // of the probabilities softmax_j (SpAtten's token importance). Exact, not an estimate; not
  // written where there are no queries. A method that keeps whole score rows reads them once more
  // for it, flash computes the scores a second time from its log-sum-exp.
  float* column_mass = nullptr;
  // Where not null, [query_heads]: what the query of a sequence that has but one reads is added,
  // the bytes of a KV head with its first query head.
  CacheReads* reads = nullptr;
  // Where not null, [query_heads]: 0 for heads that are dead. Nothing of these is read, nor of KV
  // heads all of whose query heads are; their outputs, masses and magnitudes are 0.
  const uint8_t* live_heads = nullptr;
  // Where not null, in place of AttentionShape::values and refetch.
  const ReadRules* rules = nullptr;

  bool lives(int32_t query_head) const {
    return live_heads == nullptr || live_heads[query_head] != 0;
  }
  bool any_lives(int32_t first_head, int32_t heads) const {
    for (int32_t head = first_head; head < first_head + heads; ++head)
      if (lives(head)) return true;
    return false;
  }
};

inline const ValueRule& values_of(const AttentionShape& shape, const AttentionSequence& sequence) {
  return sequence.rules != nullptr ? sequence.rules->values : shape.values;
}
inline const Refetch& refetch_of(const AttentionShape& shape, const AttentionSequence& sequence) {
  return sequence.rules != nullptr ? sequence.rules->refetch : shape.refetch;
}
// Whether the sequence's query reads its pages as these say.
inline bool selects(const AttentionShape& shape, const AttentionSequence& sequence) {
  const bool leaves_out = values_of(shape, sequence).kind != ValueRule::Kind::kAll;
  return sequence.queries == 1 && (leaves_out || shape.pages.packs());
}

// Grouped-query attention over a ragged batch: for query head h, with KV head g = h / (query_heads
// / kv_heads),
//   output[row, h, :] = sum_j softmax_j(scale * q[row, h, :] . k[j, g, :] + bias)  v[j, g, :]
// or, with HeadOutputs::kSummed, over the heads in their order,
//   output[row, :] = sum_h sum_j softmax_j(scale * q[row, h, :] . k[j, g, :] + bias)  v[j, h, :]
// Keys and values are what the pages' numbers stand for, sums f32 or wider. Where a query selects,
// the sum leaves out values, and the scores are of the keys' upper plane unless it reads the lower
// one; column masses and log-sum-exp are of all probabilities.
// query: rows of query_heads * d_k floats, query_stride apart. output: rows of query_heads * d_v
// (d_v), output_stride apart. log_sum_exp: null, or [rows, query_heads], of the scores including
// scale and bias; not written for dead heads. magnitudes: null, or [rows, query_heads]: what each
// head gives, sum over its d_v outputs (kSummed: its part of them) of their magnitudes.
struct AttentionArgs {
  AttentionShape shape;
  std::span<const AttentionSequence> sequences;
  const float* query = nullptr;
  int64_t query_stride = 0;
  float* output = nullptr;
  int64_t output_stride = 0;
  float* log_sum_exp = nullptr;
  float* magnitudes = nullptr;
  // Memory of the team, for heads whose keys several members share (AttentionCost::partial_floats):
  // so many floats a sequence, and [sequences, kv_heads] counters that are 0 before and after a
  // run.
  float* partials = nullptr;
  int32_t* arrived = nullptr;
};

// What a method needs and costs for a batch of `queries` rows against `keys` keys per sequence,
// none of which has rules of its own where the shape does not select.
struct AttentionCost {
  int64_t workspace_bytes = 0;  // per member of the team
  int64_t partial_floats = 0;   // per sequence, for the team
  double flops = 0;             // per query row, all heads
  double score_bytes = 0;       // scores that go through memory beyond the caches, per query row
};

class AttentionMethod {
 public:
  virtual ~AttentionMethod() = default;
  virtual std::string_view name() const = 0;
  virtual std::string_view summary() const = 0;  // one sentence with its source
  virtual Status check(const AttentionShape& shape) const = 0;
  // max_queries and max_keys are the largest of any sequence in the batch, keys as
  // PageTable::appended counts them.
  virtual AttentionCost cost(const AttentionShape& shape, int32_t max_queries,
                             int32_t max_keys) const = 0;
  // Does this member's part. workspace: cost().workspace_bytes of this member alone, aligned to 64
  // bytes. No barrier inside. The result does not depend on the size of the team.
  virtual void run(const AttentionArgs& args, const Team::Member& member,
                   void* workspace) const = 0;
};

// Every method, the oracle (unfused) last; find returns null for an unknown name.
std::span<const AttentionMethod* const> attention_methods();
const AttentionMethod* find_attention_method(std::string_view name);

// Writes new keys and values, those of `rows` of the batch, into the pages of each sequence,
// rounded to nearest even where pages hold narrower numbers (formats/cache_pages.h): kBF16 by at
// most 2^-9 |x|, kI8 of b bits by (1/2 + 2^(b-23)) s. A number of kI8 that is not finite makes all
// of its token and head NaN. Positions are not read, so that somebody may enter them at the same
// time. Calls for different rows may run at the same time, and all together write every row and the
// zeros behind the last. key and value: rows of PageShape::key_width (value_width) floats, heads
// one after another, *_stride apart; sequence s has rows first_rows[s] .. first_rows[s + 1].
struct AppendArgs {
  PageShape shape;
  std::span<PageTable* const> tables;
  const int32_t* first_tokens = nullptr;  // [tables]: tokens that each has before these
  const int32_t* first_rows = nullptr;
  const float* key = nullptr;
  int64_t key_stride = 0;
  const float* value = nullptr;
  int64_t value_stride = 0;
};
void append_to_pages(const AppendArgs& args, Range rows);

}  // namespace tessera
