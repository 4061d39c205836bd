#include <fmt/format.h>

#include <algorithm>

#include "kernels/tile_int8_matmul/tile_int8_matmul.h"
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

  double share(const LinearArgs& args) const override { return shares_.part_of(args.outputs); }

  // Packed rows and, behind them, the panels of a call that asks for some outputs.
  int64_t scratch_bytes(int64_t rows) const override {
    return packed_bytes(rows) + static_cast<int64_t>(pattern_.panels.size() * sizeof(TilePanel));
  }

  void apply(const LinearArgs& args, const Team::Member& member) const override {
    const std::span<const TilePanel> panels = panels_of(args);
    multiply(args, panels, shares_.share(args.rows, panels, member));
  }

  void apply_alone(const LinearArgs& args) const override {
    const std::span<const TilePanel> panels = panels_of(args);
    multiply(args, panels, {{0, args.rows}, {0, static_cast<int64_t>(panels.size())}});
  }

 private:
  int64_t packed_bytes(int64_t rows) const {
    return tile_matmul::scratch_floats(std::min(rows, shape_.group_rows), shape_.inputs) *
           static_cast<int64_t>(sizeof(float));
  }

  std::span<const TilePanel> panels_of(const LinearArgs& args) const {
    if (args.outputs.is_all()) return pattern_.panels;
    auto* live =
        reinterpret_cast<TilePanel*>(static_cast<char*>(args.scratch) + packed_bytes(args.rows));
    size_t count = 0;
    shares_.for_each_live(args.outputs, [&](size_t i) { live[count++] = pattern_.panels[i]; });
    return {live, count};
  }

  void multiply(const LinearArgs& args, std::span<const TilePanel> panels,
                const TileShares::Share& share) const {
    if (share.rows.size() <= 0 || share.panels.size() <= 0) return;
    tile_matmul::Args product = shape_;
    take_rows(args, share.rows, product);
    product.panels = panels.data();
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

// Whether tiles are multiplied as integers.
bool runs_integers(const TileMatrix& tiles, Precision precision) {
  const bool stored = precision == Precision::kStored && tiles.is_quantized();
  return (stored || has_integer_rows(precision)) && tiles.inputs() <= tile_int8_matmul::kMaxInputs;
}

std::string keeps_floats(Precision precision) {
  return has_integer_rows(precision)
             ? fmt::format("tiles of more than {} inputs are not run in {}",
                           tile_int8_matmul::kMaxInputs, name(precision))
             : fmt::format("tiles keep their floats in {}", name(precision));
}

// Integers that are not multiplied as such become floats.
Status convert(Preparation& preparation, StoredMatrix& matrix) {
  const auto tiles = get<TileMatrix>(matrix);
  if (tiles.is_quantized() && !runs_integers(tiles, preparation.precision()))
    preparation.keep(pack_floats(tiles), matrix);
  return {};
}

bool joins(const StoredMatrix& a, const StoredMatrix& b) {
  const auto one = get<TileMatrix>(a), other = get<TileMatrix>(b);
  return one.is_quantized() == other.is_quantized() && reads_alike(one, other);
}

// Integers stay as they are.
Status write_out(Preparation& preparation, Run& run) {
  for (StoredMatrix& matrix : run.matrices) {
    if (const auto tiles = get<TileMatrix>(matrix); tiles.is_quantized()) {
      preparation.keep(pack_whole(tiles), matrix);
    } else {
      TESSERA_RETURN_IF_ERROR(preparation.write_out(matrix));
    }
  }
  return {};
}

// Finds the blocks of tiles and rounds these, or writes the matrices out where they would not gain.
Status choose(Preparation& preparation, Run& run) {
  const TileStack tiles = run.all_of<TileMatrix>();
  const Precision precision = preparation.precision();
  const bool integers = runs_integers(tiles.front(), precision);
  TilePattern pattern = find_blocks(tiles, block_shape(tiles, integers ? 8 : 1));
  preparation.decide({.multiplied = pattern.values(),
                      .block = pattern.shape,
                      .numbers = integers ? DType::kI8 : preparation.floats(run)},
                     run);
  if (run.choice.form == ProductForm::kDense) return write_out(preparation, run);
  if (!integers && is_quantized(precision)) {
    std::string& why = run.choice.why;
    why += (why.empty() ? "" : "; ") + keeps_floats(precision);
  }
  for (size_t i = 0; integers && i < tiles.size(); ++i) {
    if (tiles[i].is_quantized()) continue;
    TESSERA_ASSIGN_OR_RETURN(PackedMatrix packed, pack_quantized(tiles[i]));
    preparation.keep(std::move(packed), run.matrices[i]);
  }
  run.found = std::move(pattern);
  return {};
}

Result<std::unique_ptr<Linear>> prepare_tiles(const TileStack& stack, TileProduct product,
                                              const float* bias, Team& team) {
  auto tiles = std::make_unique<Tiles>(stack, std::move(product));
  TESSERA_RETURN_IF_ERROR(tiles->pack(stack, bias, team));
  return std::unique_ptr<Linear>(std::move(tiles));
}

Result<std::unique_ptr<Linear>> prepare(Preparation& preparation, Run& run, const float* bias) {
  const TileStack tiles = run.all_of<TileMatrix>();
  const bool integers = tiles.front().is_quantized();
  TileProduct product{std::any_cast<TilePattern>(std::move(run.found)),
                      integers ? DType::kI8 : preparation.floats(run), run.choice.tiles,
                      preparation.choices().l2_bytes};
  return (integers ? prepare_int8_tiles : prepare_tiles)(tiles, std::move(product), bias,
                                                         preparation.team());
}

}  // namespace

constinit const LinearFormat linear_formats::tiles = {
    .convert = convert,
    .joins = joins,
    .choose = choose,
    .prepare = prepare,
};

}  // namespace tessera
