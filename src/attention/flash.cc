#include <algorithm>

#include "attention/blocks.h"
#include "attention/methods.h"

namespace tessera::attention {
namespace {

// Scores of a step: 96 rows against 4 pages, 96 KiB beside the pages in a second-level cache.
// Between 48 and 192 rows and 2 and 8 pages speed varies by less than 5% (n = 128 .. 4096, sizes 32
// .. 128). Fewer rows, as in decoding, take longer steps, so that streaming pages is interrupted
// less.
constexpr int32_t kRows = 96;
constexpr int32_t kStepPages = 4;

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
    return {.workspace_bytes =
                BlockRun::workspace_bytes(shape, kRows, int64_t{kRows} * kStepPages * kPageTokens),
            .flops = average_flops(shape, max_queries, max_keys),
            .score_bytes = 0};
  }

  void run(const AttentionArgs& args, const Team::Member& member, void* workspace) const override {
    const Kernels kernels;
    const int32_t max_rows = rows_for_team(args, kRows, member.size());
    BlockRun run(args, kernels, max_rows, workspace);
    Dealer(args, max_rows, member.size()).deal(member, [&](Block block) {
      if (args.shape.outputs == HeadOutputs::kConcatenated) {
        run_head(args, block, run);
        run.finish();
        column_mass(args, block, run);
        return;
      }
      run.start_sum(block);
      for (block.head = 0; block.head < args.shape.query_heads; ++block.head) {
        run_head(args, block, run);
        run.add_to_sum();
        column_mass(args, block, run);
      }
      run.finish_sum();
    });
  }

 private:
  // Of the sequence, not of the block or the batch: a row's sums are the same whatever it is
  // computed with.
  static int32_t step_pages(const AttentionArgs& args, const Block& block) {
    const int32_t rows = std::min(kRows, block.sequence->queries * group_size(args.shape));
    return kRows * kStepPages / rows;
  }

  // Steps end at multiples of their pages, wherever the block begins.
  static int32_t step_end(const BlockRun& run, int32_t page, int32_t step) {
    return std::min((page / step + 1) * step, run.last_page());
  }

  static void run_head(const AttentionArgs& args, const Block& block, BlockRun& run) {
    const int32_t step = step_pages(args, block);
    run.start(block, step * kPageTokens);
    for (int32_t page = run.first_page(); page < run.last_page();) {
      const int32_t end = step_end(run, page, step);
      run.scores(page, end);
      run.softmax(page, end);
      run.values(page, end);
      page = end;
    }
  }

  // The maximum is final now, so that another softmax gives the probabilities but for their sum.
  static void column_mass(const AttentionArgs& args, const Block& block, BlockRun& run) {
    if (!run.wants_column_mass()) return;
    const int32_t step = step_pages(args, block);
    run.settle();
    for (int32_t page = run.first_page(); page < run.last_page();) {
      const int32_t end = step_end(run, page, step);
      run.scores(page, end);
      run.softmax(page, end);
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
