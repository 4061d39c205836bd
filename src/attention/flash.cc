#include <algorithm>

#include "attention/blocks.h"
#include "attention/methods.h"
#include "attention/selective.h"

namespace tessera::attention {
namespace {

// Scores of a step: 96 rows against 4 pages, 96 KiB beside the pages in a second-level cache.
// Between 48 and 192 rows and 2 and 8 pages speed varies by less than 5% (n = 128 .. 4096, sizes 32
// .. 128). Fewer rows, as in decoding, take longer steps, so that streaming pages is interrupted
// less.
constexpr int32_t kRows = 96;
constexpr int32_t kStepPages = 4;
// Few rows against many keys, as in decoding, are one head's work for several members, a range of
// keys each: 16 pieces of work in 4096 keys, whatever the team. A piece costs a microsecond more,
// some percent of it.
Cut cut_of(const AttentionShape& shape, int32_t max_rows) {
  constexpr int32_t kKeysPerHead = 256, kLeastKeys = 512, kMostKeys = 4096;
  const int32_t keys = std::min(block_heads(shape), kMostKeys / kKeysPerHead) * kKeysPerHead;
  return {.max_rows = max_rows, .range_keys = std::max(keys, kLeastKeys)};
}

class Flash final : public AttentionMethod {
 public:
  std::string_view name() const override { return "flash"; }
  std::string_view summary() const override {
    return "online softmax over pages of keys, scores never leave the cache (FlashAttention, Dao "
           "et al. 2022)";
  }
  Status check(const AttentionShape& shape) const override { return check_shape(name(), shape); }

  AttentionCost cost(const AttentionShape& shape, int32_t max_queries,
                     int32_t max_keys) const override {
    constexpr int64_t kScores = int64_t{kRows} * kStepPages * kPageTokens;
    return {.workspace_bytes = std::max(BlockRun::workspace_bytes(shape, kRows, kScores),
                                        SelectiveRun::workspace_bytes(shape, max_keys)),
            .partial_floats = partial_floats(shape, cut_of(shape, kRows), max_queries, max_keys),
            .flops = average_flops(shape, max_queries, max_keys),
            .score_bytes = 0};
  }

  void run(const AttentionArgs& args, const Team::Member& member, void* workspace) const override {
    clear_dead_heads(args, member);
    const Kernels kernels;
    const Cut cut = cut_of(args.shape, rows_for_team(args, kRows, member.size()));
    BlockRun run(args, kernels, cut.max_rows, workspace);
    Dealer(args, cut, member.size()).deal(member, [&](Block block) {
      if (selects(args.shape, *block.sequence))
        return SelectiveRun(args, kernels, workspace).run(block);
      if (args.shape.outputs == HeadOutputs::kConcatenated) {
        run_head(args, block, run);
        if (block.is_split()) {
          if (!run.leave_partial()) return;
          run.merge(block, score_keys(args, block));
        }
        run.finish();
        column_mass(args, block, run);
        return;
      }
      run.start_sum(block);
      for (block.head = 0; block.head < args.shape.query_heads; ++block.head) {
        if (!block.sequence->lives(block.head)) continue;
        run_head(args, block, run);
        run.add_to_sum();
        column_mass(args, block, run);
      }
      run.finish_sum();
    });
  }

 private:
  // The step depends on the sequence, not on the block or the batch, so that a row's sums are the
  // same whatever it is computed with.
  static int32_t step_pages(const AttentionArgs& args, const Block& block) {
    const int32_t rows = std::min(kRows, block.sequence->queries * group_size(args.shape));
    return kRows * kStepPages / rows;
  }

  static int32_t score_keys(const AttentionArgs& args, const Block& block) {
    return step_pages(args, block) * kPageTokens;
  }

  // Steps end at multiples of their pages, wherever the block begins and however many are dropped.
  static int32_t step_end(const BlockRun& run, const Block& block, int32_t page, int32_t step) {
    const int32_t dropped = block.sequence->keys->dropped / kPageTokens;
    return std::min(((page + dropped) / step + 1) * step - dropped, run.last_page());
  }

  static void run_head(const AttentionArgs& args, const Block& block, BlockRun& run) {
    const int32_t step = step_pages(args, block);
    run.start(block, score_keys(args, block));
    for (int32_t page = run.first_page(); page < run.last_page();) {
      const int32_t end = step_end(run, block, page, step);
      run.scores(page, end);
      run.softmax(page, end);
      run.values(page, end);
      page = end;
    }
  }

  // The maximum is final now, so that another softmax gives the probabilities but for their sum. Of
  // keys that were a single step they are there still.
  static void column_mass(const AttentionArgs& args, const Block& block, BlockRun& run) {
    if (!run.wants_column_mass()) return;
    const int32_t step = step_pages(args, block);
    run.settle();
    for (int32_t page = run.first_page(); page < run.last_page();) {
      const int32_t end = step_end(run, block, page, step);
      const bool is_only = page == run.first_page() && end == run.last_page();
      if (!is_only || block.is_split()) {
        run.scores(page, end);
        run.softmax(page, end);
      }
      run.column_mass(page, end);
      page = end;
    }
  }
};

}  // namespace

const AttentionMethod& flash() {
  static const Flash method;
  return method;
}

}  // namespace tessera::attention
