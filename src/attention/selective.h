#pragma once

#include <cstdint>

#include "attention/blocks.h"
#include "attention/method.h"

namespace tessera::attention {

// The only query of a sequence, by its rules or AttentionShape's: for the query heads of one KV
// head
//   scores by the upper plane of the keys -> softmax -> where max P < the threshold, the lower
//   plane is added to the scores and the softmax taken again -> some values are chosen -> their sum
// Whole score rows are kept, so that the choice is exact and nothing is read twice from memory.
// Every method runs such sequences so; the others are its own.
class SelectiveRun {
 public:
  // workspace: workspace_bytes for at least as many keys as any sequence of the batch has.
  SelectiveRun(const AttentionArgs& args, const Kernels& kernels, void* workspace);
  // 0 where the shape does not select.
  static int64_t workspace_bytes(const AttentionShape& shape, int32_t max_keys);

  // A KV head of a sequence, or the sum of all heads.
  void run(const Block& block);

 private:
  // Query heads whose scores are computed together, of a KV head.
  static constexpr int32_t kMaxRows = 8;
  struct Tile {
    int32_t kv_head = 0;
    int32_t first_head = 0;
    int32_t rows = 0;
  };
  enum class Plane { kOnly, kUpper, kLower };

  bool lives(const Tile& tile, int32_t row) const {
    return sequence_->lives(tile.first_head + row);
  }
  void leave_out(const Tile& tile, int32_t row) const;
  void run_kv_head(int32_t kv_head);
  void run_tile(const Tile& tile);
  void load_queries(const Tile& tile);
  // Of rows [first, end) of the tile.
  void score(const Tile& tile, Range rows, Plane plane);
  void softmax(Range rows);
  void refetch(const Tile& tile);
  int32_t choose(int32_t row);
  void read_values(const Tile& tile, int32_t row);
  void write_row(const Tile& tile, int32_t row) const;
  void count(const Tile& tile, int32_t row);
  void count_values(int32_t head);

  int32_t keys() const { return seen_.end - seen_.begin; }
  int32_t pages() const { return last_page_ - first_page_; }
  // Of the row, from the first key of the first page.
  float* scores(int32_t row) const { return scores_ + row * stride_; }
  int32_t first_place() const { return seen_.begin - first_page_ * kPageTokens; }
  bool sums_heads() const { return args_->shape.outputs == HeadOutputs::kSummed; }
  int32_t value_head(const Tile& tile, int32_t row) const {
    return sums_heads() ? tile.first_head + row : tile.kv_head;
  }

  const AttentionArgs* args_;
  const Kernels* kernels_;
  const AttentionSequence* sequence_ = nullptr;
  KeyRange seen_;
  int32_t first_page_ = 0, last_page_ = 0;
  int64_t stride_ = 0;  // of scores
  bool any_refetched_ = false;

  float* query_ = nullptr;   // [kMaxRows, d_k], scaled
  float* offset_ = nullptr;  // [kMaxRows], what stands for the lower plane
  float* scores_ = nullptr;  // [kMaxRows, stride_]; behind the softmax, relative probabilities
  float* upper_scores_ = nullptr;  // as many, where a lower plane may be added
  float* maximum_ = nullptr;       // [kMaxRows], as of attention_softmax
  float* sum_ = nullptr;
  float* rescale_ = nullptr;
  int32_t* begin_ = nullptr;
  int32_t* end_ = nullptr;
  const float** bias_ = nullptr;
  int32_t* places_ = nullptr;  // of the values that a row reads
  int32_t* scratch_ = nullptr;
  int32_t count_ = 0;
  bool* refetched_ = nullptr;   // [kMaxRows]
  uint8_t* is_read_ = nullptr;  // of each key: whether any query head of the KV head read its value
  float* output_ = nullptr;     // [d_v]
  float* total_ = nullptr;      // [d_v], of the heads so far, where they are summed
};

}  // namespace tessera::attention
