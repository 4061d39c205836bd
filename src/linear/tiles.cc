#include <fmt/format.h>

#include <algorithm>

#include "kernels/bf16_matmul/bf16_matmul.h"
#include "kernels/tile_int8_matmul/tile_int8_matmul.h"
#include "kernels/tile_matmul/tile_matmul.h"
#include "linear/formats.h"
#include "linear/tile_shares.h"

namespace tessera {
namespace {

// In units of eight cycles of the AVX-512 kernel.
constexpr TileCosts kCosts{
    .least_tile = 8,
    .read = 25,  // of f32, at 5 bytes a cycle
    .panel = 0.5,
    .packed_line = 0.375,
    .least_rows = 8,  // from which on all sums have the same order
};

TileCosts costs(DType stored) {
  TileCosts costs = kCosts;
  if (stored != DType::kF32) costs.read /= 2;
  return costs;
}

// Shares of kept values up to which 128 rows gain, of blocks of 16 outputs and of 8, whose
// broadcasts are instructions of their own. What tiles take is proportional to the share
// (BERT-base's four matrices on two threads of a Sapphire Rapids, linear_bench 15 many and int8).
// One row takes what it reads, and so gains up to the whole; but above these shares it would gain a
// tenth at most beside dense floats, and a map is packed in one form.
struct GainBelow {
  double wide, narrow;
};
// Half takes 0.55 (f32; 0.74 narrow) and 0.51 (bf16; 0.69) of the dense time,
constexpr GainBelow kF32{0.9, 0.7}, kBf16{0.95, 0.7};
// 0.70 to 0.81 of dense int8's,
constexpr GainBelow kInt8{0.65, 0.65};
// and with AMX, which has no tiles, 2.6 times dense bf16's and 0.94 to 1.25 times dense int8's (1.9
// narrow).
constexpr GainBelow kAmxBf16{0.2, 0.15}, kAmxInt8{0.4, 0.25};
// A CPU that multiplies bf16 at twice the speed of f32 takes half of the dense time: not measured.
constexpr GainBelow kPairs{0.45, 0.35};

GainBelow gain_below(DType stored, Precision precision) {
  const bool amx = available(Isa::kAmx);
  if (stored == DType::kI8) return amx ? kAmxInt8 : kInt8;
  if (precision == Precision::kBF16 && bf16_matmul::refuse_cpu() == nullptr)
    return amx ? kAmxBf16 : kPairs;
  return stored == DType::kF32 ? kF32 : kBf16;
}

class Tiles final : public Linear {
 public:
  Tiles(tile_matmul::Args shape, TilePattern pattern, LinearInfo info)
      : shape_(shape),
        pattern_(std::move(pattern)),
        shares_(pattern_, shape.inputs, costs(shape.weight_type)),
        info_(std::move(info)) {
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

// Why tile-pruned matrices of this pattern would gain nothing from the tile-sparse product of
// values stored so (f32, bf16, int8) where dense ones are of a precision; empty where they gain, or
// where TESSERA_KERNEL names the kernel to take.
std::string too_full(const TilePattern& pattern, int64_t inputs, int64_t outputs, DType stored,
                     Precision precision) {
  const char* family =
      stored == DType::kI8 ? tile_int8_matmul::kernels.name() : tile_matmul::kernels.name();
  if (!forced_kernel(family).empty()) return {};
  const GainBelow below = gain_below(stored, precision);
  const double limit = pattern.shape.outputs == 16 ? below.wide : below.narrow;
  const double executed = static_cast<double>(pattern.values()) /
                          (static_cast<double>(inputs) * static_cast<double>(outputs));
  if (executed <= limit) return {};
  return fmt::format("run dense: {:.0f}% of the values are kept, and tiles gain below {:.0f}%",
                     100 * executed, 100 * limit);
}

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
  run.instead = too_full(pattern, tiles.front().inputs(), run.outputs(),
                         integers ? DType::kI8 : preparation.floats(run), precision);
  if (!run.instead.empty()) return write_out(preparation, run);
  if (!integers && is_quantized(precision)) run.instead = keeps_floats(precision);
  for (size_t i = 0; integers && i < tiles.size(); ++i) {
    if (tiles[i].is_quantized()) continue;
    TESSERA_ASSIGN_OR_RETURN(PackedMatrix packed, pack_quantized(tiles[i]));
    preparation.keep(std::move(packed), run.matrices[i]);
  }
  run.found = std::move(pattern);
  return {};
}

// One product of a stack of tile-pruned matrices; pattern: its blocks.
Result<std::unique_ptr<Linear>> prepare_tiles(const TileStack& stack, TilePattern pattern,
                                              const float* bias, DType stored, Team& team) {
  tile_matmul::Args shape;
  shape.inputs = stack.front().inputs();
  shape.shape = pattern.shape;
  shape.weight_type = stored;
  shape.group_rows = tile_matmul::group_rows(shape.inputs);
  LinearInfo info = tile_info(stack, pattern, stored == DType::kF32 ? "f32" : "bf16");
  auto tiles = std::make_unique<Tiles>(shape, std::move(pattern), std::move(info));
  TESSERA_RETURN_IF_ERROR(tiles->pack(stack, bias, team));
  return std::unique_ptr<Linear>(std::move(tiles));
}

Result<std::unique_ptr<Linear>> prepare(Preparation& preparation, Run& run, const float* bias) {
  const TileStack tiles = run.all_of<TileMatrix>();
  auto pattern = std::any_cast<TilePattern>(std::move(run.found));
  if (tiles.front().is_quantized())
    return prepare_int8_tiles(tiles, std::move(pattern), bias, preparation.team());
  return prepare_tiles(tiles, std::move(pattern), bias, preparation.floats(run),
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
