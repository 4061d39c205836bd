#include <fmt/format.h>

#include <algorithm>

#include "kernels/tile_matmul/tile_matmul.h"
#include "linear/formats.h"
#include "linear/tile_shares.h"

namespace tessera {
namespace {

// From so many rows on all sums have the same order.
constexpr int64_t kLeastRows = 8;

class Tiles final : public Linear {
 public:
  Tiles(const TileStack& stack, TileProduct product)
      : pattern_(std::move(product.pattern)),
        shares_(pattern_, stack.front().inputs(), product.costs, kLeastRows),
        info_(tile_info(stack, pattern_, product.numbers == DType::kF32 ? "f32" : "bf16")) {
    shape_.inputs = info_.inputs;
    shape_.shape = pattern_.shape;
    shape_.weight_type = product.numbers;
    shape_.group_rows = tile_matmul::group_rows(shape_.inputs, product.l2_bytes);
    shape_.panels = pattern_.panels.data();
    shape_.blocks = pattern_.blocks.data();
  }

  Status pack(const TileStack& stack, const float* bias, Team& team) {
    const int64_t blocks = static_cast<int64_t>(pattern_.blocks.size());
    // Never empty, so that a matrix without any tile has an address too.
    const int64_t bytes =
        std::max<int64_t>(64, blocks * tile_matmul::block_bytes(pattern_, shape_.weight_type));
    TESSERA_ASSIGN_OR_RETURN(values_, allocate_packed(bytes));
    if (bias != nullptr) bias_.assign(bias, bias + info_.outputs);
    shape_.values = values_.data();
    shape_.bias = bias != nullptr ? bias_.data() : nullptr;
    team.parallel_for(static_cast<int64_t>(pattern_.panels.size()), 1, [&](Range part) {
      tile_matmul::pack(stack, pattern_, shape_.weight_type, values_.data(),
                        {part.begin, part.end});
    });
    info_.bytes = bytes + static_cast<int64_t>(bias_.size() * sizeof(float) +
                                               pattern_.blocks.size() * sizeof(int32_t) +
                                               pattern_.panels.size() * sizeof(TilePanel));
    return {};
  }

  LinearInfo info() const override {
    LinearInfo info = info_;
    info.kernel = fmt::format("tile_matmul:{}", tile_matmul::kernels.select(shape_).name);
    info.why = tile_matmul::kernels.why(shape_);
    return info;
  }

  int64_t scratch_bytes(int64_t rows) const override {
    return tile_matmul::scratch_floats(std::min(rows, shape_.group_rows), shape_.inputs) *
           static_cast<int64_t>(sizeof(float));
  }

  void apply(const LinearArgs& args, const Team::Member& member) const override {
    multiply(args, shares_.share(args.rows, member));
  }

  void apply_alone(const LinearArgs& args) const override {
    multiply(args, shares_.whole(args.rows));
  }

 private:
  void multiply(const LinearArgs& args, const TileShares::Share& share) const {
    if (share.rows.size() <= 0 || share.panels.size() <= 0) return;
    tile_matmul::Args product = shape_;
    take_rows(args, share.rows, product);
    product.scratch = static_cast<float*>(args.scratch);
    tile_matmul::kernels.run(product, {share.panels.begin, share.panels.end});
  }

  tile_matmul::Args shape_;
  TilePattern pattern_;
  TileShares shares_;
  LinearInfo info_;
  Buffer values_;
  std::vector<float> bias_;
};

}  // namespace

Result<std::unique_ptr<Linear>> prepare_tiles(const TileStack& stack, TileProduct product,
                                              const float* bias, Team& team) {
  auto tiles = std::make_unique<Tiles>(stack, std::move(product));
  TESSERA_RETURN_IF_ERROR(tiles->pack(stack, bias, team));
  return std::unique_ptr<Linear>(std::move(tiles));
}

}  // namespace tessera
