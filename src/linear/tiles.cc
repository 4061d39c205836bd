#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <new>

#include "base/device.h"
#include "linear/formats.h"

namespace tessera {
namespace {

// Costs in units of one block times one row (eight cycles of the AVX-512 kernel), of which a
// register tile takes as many as its rows and one for the weights.
constexpr double kTileRows = 24;
constexpr double kLeastTileCost = 8;   // of a flat tile, whose sums wait for each other
constexpr double kReadFloats = 25;     // to read a block of f32 from beyond L2, at 5 bytes a cycle
constexpr double kPanelBlocks = 0.5;   // a panel's epilogue, in blocks
constexpr double kPackedLine = 0.375;  // to pack 16 inputs of a row
// From so many rows on all sums have the same order, so that only whole parts of so many are dealt.
constexpr int64_t kLeastRows = 8;

// Shares of kept values up to which 128 rows gain: half of BERT-base's four matrices takes 0.55
// (f32) and 0.51 (bf16) of the dense time on two threads of a Sapphire Rapids (linear_bench 15
// many), which is proportional to what is kept. One row takes 0.49, and so gains up to the whole;
// but above these shares it would gain a tenth at most, and a map is packed in one form.
constexpr double kGainBelowF32 = 0.9;
constexpr double kGainBelowBf16 = 0.95;
// Of blocks of 8 outputs, whose broadcasts are instructions of their own: half takes 0.74 (0.69).
// One row alone would gain above it too, up to 1.4 times.
constexpr double kGainBelowNarrow = 0.7;

struct Grid {
  int row_parts = 1;
  int panel_parts = 1;
};

class Tiles final : public Linear {
 public:
  Tiles(tile_matmul::Args shape, TilePattern pattern, LinearInfo info)
      : shape_(shape), pattern_(std::move(pattern)), info_(std::move(info)) {
    shape_.panels = pattern_.panels.data();
    shape_.blocks = pattern_.blocks.data();
  }

  Status pack(const TileStack& stack, const float* bias, Team& team) {
    const int64_t blocks = static_cast<int64_t>(pattern_.blocks.size());
    // Never empty, so that a matrix without any tile has an address too.
    const int64_t bytes =
        std::max<int64_t>(64, blocks * tile_matmul::block_bytes(pattern_, shape_.weight_type));
    values_ = host_device().allocate(static_cast<size_t>(bytes));
    if (values_.empty()) {
      return out_of_memory(fmt::format(
          "Packing a tile-pruned linear map needs {} bytes, which could not be had.", bytes));
    }
    if (bias != nullptr) bias_.assign(bias, bias + info_.outputs);
    shape_.values = values_.data();
    shape_.bias = bias != nullptr ? bias_.data() : nullptr;
    team.parallel_for(panels(), 1, [&](Range part) {
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
    const Grid grid = choose_grid(args.rows, member.size());
    const Range rows = slice(args.rows, 1, member.rank() / grid.panel_parts, grid.row_parts);
    const int part = member.rank() % grid.panel_parts;
    multiply(args, rows, {cut(part, grid.panel_parts), cut(part + 1, grid.panel_parts)});
  }

  void apply_alone(const LinearArgs& args) const override {
    multiply(args, {0, args.rows}, {0, panels()});
  }

 private:
  int64_t panels() const { return static_cast<int64_t>(pattern_.panels.size()); }

  double cost(int64_t rows, double blocks, double count) const {
    const double tiles = std::ceil(static_cast<double>(rows) / kTileRows);
    const double height = static_cast<double>(rows) / tiles;
    const double lines = static_cast<double>(tile_matmul::scratch_floats(1, shape_.inputs)) / 16;
    const double work = tiles * std::max(height + 1, kLeastTileCost);
    const double read = shape_.weight_type == DType::kF32 ? kReadFloats : kReadFloats / 2;
    return std::max(work, read) * blocks + work * kPanelBlocks * count +
           kPackedLine * static_cast<double>(rows) * lines;
  }

  // The grid whose members have least to do: to deal rows packs x once (128 rows on two threads: a
  // twentieth of the time at 90% pruned), to deal panels reads each weight once.
  Grid choose_grid(int64_t rows, int members) const {
    Grid best{1, members};
    double least = 0;
    for (int row_parts = 1; row_parts <= members; ++row_parts) {
      if (members % row_parts != 0 || (row_parts > 1 && rows / row_parts < kLeastRows)) continue;
      const double panel_parts = members / row_parts;
      const double load = cost((rows + row_parts - 1) / row_parts, work() / panel_parts,
                               static_cast<double>(panels()) / panel_parts);
      if (row_parts > 1 && load >= least) continue;
      best = {row_parts, members / row_parts};
      least = load;
    }
    return best;
  }

  // In blocks of 16 inputs.
  double work_of(int64_t blocks) const {
    return static_cast<double>(blocks) * pattern_.shape.inputs / 16;
  }
  double work() const { return work_of(static_cast<int64_t>(pattern_.blocks.size())); }

  // Where part `part` of the panels begins when they are dealt by equal work.
  int64_t cut(int part, int parts) const {
    if (part == parts) return panels();
    const double total = work() + kPanelBlocks * static_cast<double>(panels());
    const double target = total * part / parts;
    const auto begins_before = [&](const TilePanel& panel, double work) {
      return work_of(panel.begin) +
                 kPanelBlocks * static_cast<double>(&panel - pattern_.panels.data()) <
             work;
    };
    return std::lower_bound(pattern_.panels.begin(), pattern_.panels.end(), target, begins_before) -
           pattern_.panels.begin();
  }

  void multiply(const LinearArgs& args, Range rows, Range part) const {
    if (rows.size() <= 0 || part.size() <= 0) return;
    tile_matmul::Args product = shape_;
    take_rows(args, rows, product);
    product.scratch = static_cast<float*>(args.scratch);
    tile_matmul::kernels.run(product, {part.begin, part.end});
  }

  tile_matmul::Args shape_;
  TilePattern pattern_;
  LinearInfo info_;
  Buffer values_;
  std::vector<float> bias_;
};

double density(const TilePattern& pattern, int64_t inputs) {
  const auto row = static_cast<double>((inputs + pattern.shape.inputs - 1) / pattern.shape.inputs);
  return static_cast<double>(pattern.blocks.size()) /
         (row * static_cast<double>(pattern.panels.size()));
}

}  // namespace

std::string too_full(const TilePattern& pattern, int64_t inputs, int64_t outputs, DType stored) {
  if (!forced_kernel(tile_matmul::kernels.name()).empty()) return {};
  const double wide = stored == DType::kF32 ? kGainBelowF32 : kGainBelowBf16;
  const double limit = pattern.shape.outputs == 16 ? wide : kGainBelowNarrow;
  const double blocks =
      static_cast<double>(pattern.blocks.size()) * pattern.shape.inputs * pattern.shape.outputs;
  const double executed = blocks / (static_cast<double>(inputs) * static_cast<double>(outputs));
  if (executed <= limit) return {};
  return fmt::format("run dense: {:.0f}% of the values are kept, and tiles gain below {:.0f}%",
                     100 * executed, 100 * limit);
}

Result<std::unique_ptr<Linear>> prepare_tiles(const TileStack& stack, TilePattern pattern,
                                              const float* bias, DType stored, Team& team) {
  tile_matmul::Args shape;
  shape.inputs = stack.front().inputs();
  shape.shape = pattern.shape;
  shape.weight_type = stored;
  shape.group_rows = tile_matmul::group_rows(shape.inputs);
  LinearInfo info;
  const TileShape tile = stack.front().tile;
  info.format = fmt::format("tiles {}x{} {}, {:.0f}% pruned", tile.rows, tile.cols,
                            stored == DType::kF32 ? "f32" : "bf16",
                            100 * (1 - density(pattern, shape.inputs)));
  info.inputs = shape.inputs;
  for (const TileMatrix& matrix : stack) info.outputs += matrix.outputs();
  info.flops_per_row = 2 * static_cast<int64_t>(pattern.blocks.size()) * pattern.shape.inputs *
                       pattern.shape.outputs;
  info.dense_flops_per_row = 2 * info.inputs * info.outputs;
  auto tiles = std::make_unique<Tiles>(shape, std::move(pattern), std::move(info));
  TESSERA_RETURN_IF_ERROR(tiles->pack(stack, bias, team));
  return std::unique_ptr<Linear>(std::move(tiles));
}

}  // namespace tessera
