#include <algorithm>

#include "attention/blocks.h"
#include "attention/methods.h"
#include "attention/selective.h"

namespace tessera::attention {
namespace {

constexpr int32_t kMaxRows = 96;
constexpr int32_t kMinRows = 6;  // a register tile of the products
// The score rows of a block stay in a second-level cache (1 MiB and more) beside the pages that
// pass through it.
constexpr int64_t kScores = 512 * 1024 / sizeof(float);

int32_t padded(int32_t keys) { return std::max(pages_for(keys), 1) * kPageTokens; }

int32_t rows_for(int32_t max_keys) {
  const auto rows = static_cast<int32_t>(std::min<int64_t>(kScores / padded(max_keys), kMaxRows));
  return std::max(rows / kMinRows * kMinRows, kMinRows);
}

class OnTheFly final : public AttentionMethod {
 public:
  std::string_view name() const override { return "on_the_fly"; }
  std::string_view summary() const override {
    return "whole score rows of a block of queries stay in the cache, one softmax (E.T., Chen et "
           "al. 2021)";
  }
  Status check(const AttentionShape& shape) const override { return check_shape(name(), shape); }

  AttentionCost cost(const AttentionShape& shape, int32_t max_queries,
                     int32_t max_keys) const override {
    // Enough for any batch of fewer keys as well, whose blocks have more rows.
    const int64_t row = padded(max_keys);
    const int64_t scores = std::min(std::max(kScores, kMinRows * row), kMaxRows * row);
    const int64_t spill =
        kMinRows * row > kScores ? 2 * int64_t{sizeof(float)} * max_keys * shape.query_heads : 0;
    return {.workspace_bytes = std::max(BlockRun::workspace_bytes(shape, kMaxRows, scores),
                                        SelectiveRun::workspace_bytes(shape, max_keys)),
            .flops = average_flops(shape, max_queries, max_keys),
            .score_bytes = static_cast<double>(spill)};
  }

  void run(const AttentionArgs& args, const Team::Member& member, void* workspace) const override {
    clear_dead_heads(args, member);
    int32_t max_keys = 0;
    for (const AttentionSequence& sequence : args.sequences)
      max_keys = std::max(max_keys, sequence.keys->tokens());
    const int32_t rows = rows_for_team(args, rows_for(max_keys), member.size());
    const Kernels kernels;
    BlockRun run(args, kernels, rows, workspace);
    Dealer(args, {.max_rows = rows}, member.size()).deal(member, [&](Block block) {
      if (selects(args.shape, *block.sequence))
        return SelectiveRun(args, kernels, workspace).run(block);
      if (args.shape.outputs == HeadOutputs::kConcatenated) {
        run_head(block, padded(max_keys), run);
        run.finish();
        return;
      }
      run.start_sum(block);
      for (block.head = 0; block.head < args.shape.query_heads; ++block.head) {
        if (!block.sequence->lives(block.head)) continue;
        run_head(block, padded(max_keys), run);
        run.add_to_sum();
      }
      run.finish_sum();
    });
  }

 private:
  static void run_head(const Block& block, int32_t score_keys, BlockRun& run) {
    run.start(block, score_keys);
    run.scores(run.first_page(), run.last_page());
    run.softmax(run.first_page(), run.last_page());
    run.values(run.first_page(), run.last_page());
    if (!run.wants_column_mass()) return;
    run.settle();
    run.column_mass(run.first_page(), run.last_page());
  }
};

}  // namespace

const AttentionMethod& on_the_fly() {
  static const OnTheFly method;
  return method;
}

}  // namespace tessera::attention
