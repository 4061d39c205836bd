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
    BlockRun run(args, kernels, kRows, workspace);
    const int32_t group = args.shape.query_heads / args.shape.pages.kv_heads;
    Dealer(args, kRows).deal(member, [&](const Block& block) {
      // Of the sequence, not of the block or the batch: a row's sums are the same whatever it is
      // computed with.
      const int32_t rows = std::min(kRows, block.sequence->queries * group);
      const int32_t step_pages = kRows * kStepPages / rows;
      run.start(block, step_pages * kPageTokens);
      for (int32_t page = run.first_page(); page < run.last_page(); page += step_pages) {
        const int32_t end = std::min(page + step_pages, run.last_page());
        run.scores(page, end);
        run.softmax(page, end);
        run.values(page, end);
      }
      run.finish();
      if (!run.wants_column_mass()) return;
      // The maximum is final now, so that another softmax gives the probabilities but for their
      // sum.
      run.settle();
      for (int32_t page = run.first_page(); page < run.last_page(); page += step_pages) {
        const int32_t end = std::min(page + step_pages, run.last_page());
        run.scores(page, end);
        run.softmax(page, end);
        run.column_mass(page, end);
      }
    });
  }
};

}  // namespace

const AttentionMethod& flash() {
  static const Flash method;
  return method;
}

}  // namespace tessera::attention
