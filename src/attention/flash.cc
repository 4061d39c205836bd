#include <algorithm>

#include "attention/blocks.h"
#include "attention/methods.h"

namespace tessera::attention {
namespace {

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
    BlockRun run(args, kernels, kRows, kStepPages * kPageTokens, workspace);
    Dealer(args, kRows).deal(member, [&](const Block& block) {
      run.start(block);
      for (int32_t page = run.first_page(); page < run.last_page(); page += kStepPages) {
        const int32_t end = std::min(page + kStepPages, run.last_page());
        run.scores(page, end);
        run.softmax(page, end);
        run.values(page, end);
      }
      run.finish();
    });
  }
};

}  // namespace

const AttentionMethod& flash() {
  static const Flash method;
  return method;
}

}  // namespace tessera::attention
