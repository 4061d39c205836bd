#include <fmt/format.h>

#include <algorithm>

#include "kernels/tile_int8_matmul/tile_int8_matmul.h"
#include "linear/formats.h"
#include "linear/tile_shares.h"
#include "linear/u8_rows.h"

namespace tessera {
namespace {

// Integers sum up alike in any order.
constexpr int64_t kLeastRows = 1;

class Int8Tiles final : public Linear {
 public:
  Int8Tiles(const TileStack& stack, TileProduct product)
      : pattern_(std::move(product.pattern)),
        shares_(pattern_, stack.front().inputs(), product.costs, kLeastRows),
        info_(tile_info(stack, pattern_, "int8")) {
    shape_.inputs = info_.inputs;
    shape_.shape = pattern_.shape;
    shape_.panels = pattern_.panels.data();
    shape_.blocks = pattern_.blocks.data();
    shape_.group_rows = tile_int8_matmul::group_rows(shape_.inputs, product.l2_bytes);
  }

  Status pack(const TileStack& stack, const float* bias, Team& team) {
    const auto panels = static_cast<int64_t>(pattern_.panels.size());
    // Never empty, so that a matrix without any tile has an address too.
    const int64_t bytes = std::max<int64_t>(64, pattern_.values());
    TESSERA_ASSIGN_OR_RETURN(values_, allocate_packed(bytes));
    TESSERA_ASSIGN_OR_RETURN(sums_, allocate_packed(panels * 16 * int64_t{sizeof(int32_t)}));
    for (const TileMatrix& matrix : stack)
      scales_.insert(scales_.end(), matrix.scales, matrix.scales + matrix.outputs());
    if (const float* scales = stack.front().input_scales; scales != nullptr) {
      multipliers_.assign(scales, scales + shape_.inputs);
      for (float& scale : multipliers_) scale = 1 / scale;
    }
    if (bias != nullptr) bias_.assign(bias, bias + info_.outputs);
    shape_.values = values_.as<int8_t>();
    shape_.sums = sums_.as<int32_t>();
    shape_.scales = scales_.data();
    shape_.bias = bias != nullptr ? bias_.data() : nullptr;
    team.parallel_for(panels, 1, [&](Range part) {
      tile_int8_matmul::pack(stack, pattern_, values_.as<int8_t>(), sums_.as<int32_t>(),
                             {part.begin, part.end});
    });
    info_.bytes = bytes + static_cast<int64_t>(sums_.size_bytes()) +
                  static_cast<int64_t>((scales_.size() + bias_.size() + multipliers_.size()) * 4 +
                                       pattern_.blocks.size() * sizeof(int32_t) +
                                       pattern_.panels.size() * sizeof(TilePanel));
    return {};
  }

  LinearInfo info() const override {
    LinearInfo info = info_;
    info.kernel = fmt::format("tile_int8_matmul:{}", tile_int8_matmul::kernels.select(shape_).name);
    info.why = tile_int8_matmul::kernels.why(shape_);
    return info;
  }

  double share(const LinearArgs& args) const override { return shares_.part_of(args.outputs); }

  // Packed rows and, behind them, the panels and their sums of a call that asks for some outputs.
  int64_t scratch_bytes(int64_t rows) const override {
    return packed_bytes(rows) + list_bytes() + panels() * kPanelSums * int64_t{sizeof(int32_t)};
  }

  int64_t converted_bytes(int64_t rows) const override {
    return u8_rows_layout(rows, shape_.inputs).bytes;
  }

  void convert_rows(const LinearArgs& args, Range part, void* target) const override {
    quantize_rows(args, part, {shape_.inputs, multipliers_.empty() ? nullptr : multipliers_.data()},
                  target);
  }

  void apply(const LinearArgs& args, const Team::Member& member) const override {
    const Live live = live_panels(args);
    multiply(args, live, shares_.share(args.rows, live.panels, member));
  }

  void apply_alone(const LinearArgs& args) const override {
    const Live live = live_panels(args);
    multiply(args, live, {{0, args.rows}, {0, static_cast<int64_t>(live.panels.size())}});
  }

 private:
  static constexpr int64_t kPanelSums = 16;
  static constexpr int64_t aligned(int64_t bytes) { return (bytes + 63) / 64 * 64; }

  // The panels that a call asks for and their sums.
  struct Live {
    std::span<const TilePanel> panels;
    const int32_t* sums = nullptr;
  };

  int64_t panels() const { return static_cast<int64_t>(pattern_.panels.size()); }
  int64_t packed_bytes(int64_t rows) const {
    return aligned(
        tile_int8_matmul::scratch_bytes(std::min(rows, shape_.group_rows), shape_.inputs));
  }
  int64_t list_bytes() const { return aligned(panels() * int64_t{sizeof(TilePanel)}); }

  Live live_panels(const LinearArgs& args) const {
    if (args.outputs.is_all()) return {pattern_.panels, shape_.sums};
    char* room = static_cast<char*>(args.scratch) + packed_bytes(args.rows);
    auto* live = reinterpret_cast<TilePanel*>(room);
    auto* sums = reinterpret_cast<int32_t*>(room + list_bytes());
    size_t count = 0;
    shares_.for_each_live(args.outputs, [&](size_t i) {
      const int32_t* of_panel = shape_.sums + static_cast<int64_t>(i) * kPanelSums;
      std::copy_n(of_panel, kPanelSums, sums + static_cast<int64_t>(count) * kPanelSums);
      live[count++] = pattern_.panels[i];
    });
    return {{live, count}, sums};
  }

  void multiply(const LinearArgs& args, const Live& live, const TileShares::Share& share) const {
    if (share.rows.size() <= 0 || share.panels.size() <= 0) return;
    tile_int8_matmul::Args product = shape_;
    take_results(args, share.rows, product);
    product.panels = live.panels.data();
    product.sums = live.sums;
    product.x = u8_rows_part(args, share.rows, shape_.inputs);
    product.scratch = args.scratch;
    tile_int8_matmul::kernels.run(product, {share.panels.begin, share.panels.end});
  }

  TilePattern pattern_;
  TileShares shares_;
  LinearInfo info_;
  tile_int8_matmul::Args shape_;
  Buffer values_, sums_;
  std::vector<float> scales_, multipliers_, bias_;
};

}  // namespace

Result<std::unique_ptr<Linear>> prepare_int8_tiles(const TileStack& stack, TileProduct product,
                                                   const float* bias, Team& team) {
  auto tiles = std::make_unique<Int8Tiles>(stack, std::move(product));
  TESSERA_RETURN_IF_ERROR(tiles->pack(stack, bias, team));
  return std::unique_ptr<Linear>(std::move(tiles));
}

}  // namespace tessera
