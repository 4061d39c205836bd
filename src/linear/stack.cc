#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <new>

#include "base/device.h"
#include "formats/packed.h"
#include "kernels/csr_matmul/csr_matmul.h"
#include "kernels/tile_int8_matmul/tile_int8_matmul.h"
#include "linear/formats.h"

namespace tessera {
namespace {

constexpr int64_t aligned(int64_t bytes) { return (bytes + 63) / 64 * 64; }

// A map of which more is known than why it has its kernel.
class Explained final : public Forwarding {
 public:
  Explained(std::unique_ptr<Linear> map, std::string why)
      : Forwarding(*map), map_(std::move(map)), why_(std::move(why)) {}

  LinearInfo info() const override {
    LinearInfo info = map_->info();
    info.why = why_ + "; " + info.why;
    return info;
  }

 private:
  std::unique_ptr<Linear> map_;
  std::string why_;
};

// Maps of the same inputs whose outputs are laid one after another.
class Stack final : public Linear {
 public:
  void add(std::unique_ptr<Linear> map) {
    const int64_t outputs = map->info().outputs;
    parts_.push_back({std::move(map), outputs_});
    outputs_ += outputs;
  }

  LinearInfo info() const override {
    LinearInfo all = parts_.front().map->info();
    for (size_t i = 1; i < parts_.size(); ++i) {
      const LinearInfo one = parts_[i].map->info();
      join(all.format, one.format);
      join(all.kernel, one.kernel);
      join(all.why, one.why);
      all.outputs += one.outputs;
      all.bytes += one.bytes;
      all.flops_per_row += one.flops_per_row;
      all.dense_flops_per_row += one.dense_flops_per_row;
    }
    return all;
  }
  int64_t scratch_bytes(int64_t rows) const override {
    int64_t most = 0;
    for (const Part& part : parts_) most = std::max(most, part.map->scratch_bytes(rows));
    return most;
  }
  int64_t converted_bytes(int64_t rows) const override {
    int64_t total = 0;
    for (const Part& part : parts_) total += aligned(part.map->converted_bytes(rows));
    return total;
  }
  void convert_rows(const LinearArgs& args, Range rows, void* target) const override {
    for_each_part(args, target, [&](const Linear& map, const LinearArgs& own, void* converted) {
      if (converted != nullptr) map.convert_rows(own, rows, converted);
    });
  }
  void apply(const LinearArgs& args, const Team::Member& member) const override {
    for_each_part(args, args.converted,
                  [&](const Linear& map, LinearArgs own, const void* converted) {
                    own.converted = converted;
                    map.apply(own, member);
                  });
  }
  void apply_alone(const LinearArgs& args) const override {
    for_each_part(args, args.converted,
                  [&](const Linear& map, LinearArgs own, const void* converted) {
                    own.converted = converted;
                    map.apply_alone(own);
                  });
  }

 private:
  struct Part {
    std::unique_ptr<Linear> map;
    int64_t output;
  };

  static void join(std::string& all, const std::string& one) {
    if (all != one) all += "; " + one;
  }
  static LinearArgs from(LinearArgs args, int64_t output) {
    args.y += output;
    if (args.residual != nullptr) args.residual += output;
    return args;
  }

  // Each part has converted rows of its own, one behind the other.
  template <typename Rows, typename Visit>
  void for_each_part(const LinearArgs& args, Rows* converted, Visit visit) const {
    using Byte = std::conditional_t<std::is_const_v<Rows>, const char, char>;
    auto* next = static_cast<Byte*>(converted);
    for (const Part& part : parts_) {
      const int64_t bytes = aligned(part.map->converted_bytes(args.rows));
      visit(*part.map, from(args, part.output), bytes > 0 ? static_cast<Rows*>(next) : nullptr);
      if (bytes > 0) next += bytes;
    }
  }

  std::vector<Part> parts_;
  int64_t outputs_ = 0;
};

// Matrices that become one map, in the form in which they are run.
struct Run {
  MatrixStack matrices;
  TilePattern pattern;  // of tiles
  FormChoice choice;    // its reason may be empty
};

template <typename Matrix>
bool holds(const Run& run) {
  return std::holds_alternative<Matrix>(run.matrices.front());
}

class Preparation {
 public:
  Preparation(const float* bias, const LinearChoices& choices, Team& team)
      : bias_(bias), choices_(choices), precision_(choices.precision), team_(team) {}

  Result<std::unique_ptr<Linear>> prepare(const MatrixStack& weights) {
    TESSERA_RETURN_IF_ERROR(find_runs(weights));
    auto stack = std::make_unique<Stack>();
    int64_t output = 0;
    for (Run& run : runs_) {
      TESSERA_ASSIGN_OR_RETURN(std::unique_ptr<Linear> map,
                               prepare_run(run, bias_ == nullptr ? nullptr : bias_ + output));
      if (!run.choice.why.empty())
        map = std::make_unique<Explained>(std::move(map), run.choice.why);
      if (runs_.size() == 1) return map;
      for (const StoredMatrix& matrix : run.matrices) output += outputs(matrix);
      stack->add(std::move(map));
    }
    return std::unique_ptr<Linear>(std::move(stack));
  }

 private:
  // Neighbours that one kernel takes, but each matrix of whole rows or columns alone.
  Status find_runs(const MatrixStack& weights) {
    MatrixStack converted;
    for (const StoredMatrix& matrix : weights) {
      converted.push_back(matrix);
      TESSERA_RETURN_IF_ERROR(convert(converted.back()));
    }
    for (size_t begin = 0, end = 0; begin < converted.size(); begin = end) {
      for (end = begin + 1; end < converted.size(); ++end) {
        if (!joins(converted[begin], converted[end])) break;
      }
      Run run;
      run.matrices.assign(converted.begin() + static_cast<std::ptrdiff_t>(begin),
                          converted.begin() + static_cast<std::ptrdiff_t>(end));
      TESSERA_RETURN_IF_ERROR(choose(run));
      // Where matrices were written out their neighbours may be of the same form now.
      if (!runs_.empty() && !holds<TileMatrix>(run) &&
          joins(runs_.back().matrices.front(), run.matrices.front())) {
        MatrixStack& before = runs_.back().matrices;
        before.insert(before.end(), run.matrices.begin(), run.matrices.end());
        if (runs_.back().choice.why.empty()) runs_.back().choice.why = run.choice.why;
      } else {
        runs_.push_back(std::move(run));
      }
    }
    return {};
  }

  // Whether two matrices may be one product.
  bool joins(const StoredMatrix& a, const StoredMatrix& b) const {
    if (a.index() != b.index() || std::holds_alternative<CompactMatrix>(a)) return false;
    if (float_type(precision_, dtype(a)) != float_type(precision_, dtype(b))) return false;
    if (const auto* one = std::get_if<TileMatrix>(&a)) {
      const auto& other = std::get<TileMatrix>(b);
      return one->is_quantized() == other.is_quantized() && reads_alike(*one, other);
    }
    const auto* one = std::get_if<QuantizedMatrix>(&a);
    const auto* other = std::get_if<QuantizedMatrix>(&b);
    return one == nullptr || (one->precision == other->precision && one->group == other->group &&
                              reads_alike(*one, *other));
  }

  template <typename Matrix>
  static bool reads_alike(const Matrix& a, const Matrix& b) {
    if (a.input_scales == nullptr || b.input_scales == nullptr)
      return a.input_scales == b.input_scales;
    return std::equal(a.input_scales, a.input_scales + a.inputs(), b.input_scales);
  }

  // Brings a dense or quantized matrix to the precision asked for, and integer tiles to floats.
  Status convert(StoredMatrix& matrix) {
    if (const auto* tiles = std::get_if<TileMatrix>(&matrix)) {
      if (tiles->is_quantized() && !runs_integers(*tiles)) keep(pack_floats(*tiles), matrix);
      return {};
    }
    if (const auto* quantized = std::get_if<QuantizedMatrix>(&matrix)) {
      if (precision_ == Precision::kStored || quantized->precision == precision_) return {};
      TESSERA_RETURN_IF_ERROR(write_out(matrix));
    }
    return round(matrix);
  }

  // A dense matrix to integers, where these are asked for.
  Status round(StoredMatrix& matrix) {
    const auto* dense = std::get_if<DenseView>(&matrix);
    if (dense == nullptr || !is_quantized(precision_)) return {};
    TESSERA_ASSIGN_OR_RETURN(PackedMatrix packed,
                             pack_quantized(*dense, precision_, default_group(precision_), &team_));
    keep(std::move(packed), matrix);
    return {};
  }

  void keep(PackedMatrix packed, StoredMatrix& matrix) {
    matrix = packed.matrix;
    packed_.push_back(std::move(packed));
  }

  // Whether tiles are multiplied as integers.
  bool runs_integers(const TileMatrix& tiles) const {
    const bool stored = precision_ == Precision::kStored && tiles.is_quantized();
    return (stored || has_integer_rows(precision_)) &&
           tiles.inputs() <= tile_int8_matmul::kMaxInputs;
  }

  // Brings a run to the form in which it is run.
  Status choose(Run& run) {
    if (holds<TileMatrix>(run)) return choose_tiles(run);
    if (holds<CsrMatrix>(run)) choose_single_weights(run);
    return run.choice.form == ProductForm::kDense ? write_out(run) : Status();
  }

  // Finds the blocks of tiles and rounds these, or writes the matrices out where they would not
  // gain.
  Status choose_tiles(Run& run) {
    const TileStack tiles = all_of<TileMatrix>(run);
    const bool integers = runs_integers(tiles.front());
    run.pattern = find_blocks(tiles, block_shape(tiles, integers ? 8 : 1));
    decide({.multiplied = run.pattern.values(),
            .block = run.pattern.shape,
            .numbers = integers ? DType::kI8 : floats(run)},
           run);
    if (run.choice.form == ProductForm::kDense) return write_out(run);
    if (!integers && is_quantized(precision_)) append(run.choice.why, keeps_floats());
    for (size_t i = 0; integers && i < tiles.size(); ++i) {
      if (tiles[i].is_quantized()) continue;
      TESSERA_ASSIGN_OR_RETURN(PackedMatrix packed, pack_quantized(tiles[i]));
      keep(std::move(packed), run.matrices[i]);
    }
    return {};
  }

  std::string keeps_floats() const {
    return has_integer_rows(precision_)
               ? fmt::format("tiles of more than {} inputs are not run in {}",
                             tile_int8_matmul::kMaxInputs, name(precision_))
               : fmt::format("tiles keep their floats in {}", name(precision_));
  }

  // All matrices as dense ones of the precision asked for; integers stay as they are.
  Status write_out(Run& run) {
    for (StoredMatrix& matrix : run.matrices) {
      const auto* tiles = std::get_if<TileMatrix>(&matrix);
      if (tiles != nullptr && tiles->is_quantized()) {
        keep(pack_whole(*tiles), matrix);
      } else {
        TESSERA_RETURN_IF_ERROR(write_out(matrix));
        TESSERA_RETURN_IF_ERROR(round(matrix));
      }
    }
    return {};
  }

  void choose_single_weights(Run& run) {
    int64_t kept = 0;
    for (const StoredMatrix& matrix : run.matrices) kept += std::get<CsrMatrix>(matrix).kept();
    if (inputs(run.matrices.front()) > csr_matmul::kMaxInputs) {
      run.choice = {ProductForm::kDense,
                    fmt::format("run dense: more inputs than {}", csr_matmul::kMaxInputs)};
    } else if (kept > std::numeric_limits<int32_t>::max()) {
      run.choice = {ProductForm::kDense, "run dense: more elements than 2^31 - 1"};
    } else {
      decide({.multiplied = kept, .block = {1, 1}, .numbers = floats(run)}, run);
    }
  }

  // What only the run tells is filled in.
  void decide(PrunedProduct product, Run& run) const {
    if (!choices_.form) return;
    product.inputs = inputs(run.matrices.front());
    for (const StoredMatrix& matrix : run.matrices) product.outputs += outputs(matrix);
    product.precision = precision_;
    run.choice = choices_.form(product);
  }

  static void append(std::string& why, const std::string& more) {
    why += (why.empty() ? "" : "; ") + more;
  }

  Status write_out(StoredMatrix& matrix) {
    const int64_t bytes = dense_bytes(matrix);
    Buffer dense = host_device().allocate(static_cast<size_t>(bytes));
    if (dense.empty()) {
      return out_of_memory(
          fmt::format("Writing out a matrix needs {} bytes, which could not be had.", bytes));
    }
    to_dense(matrix, dense.data());
    const MatrixOrder order = tessera::order(matrix);
    const bool by_output = order == MatrixOrder::kOutputRows;
    matrix = DenseView{dense.data(), dtype(matrix), by_output ? outputs(matrix) : inputs(matrix),
                       by_output ? inputs(matrix) : outputs(matrix), order};
    written_out_.push_back(std::move(dense));
    return {};
  }

  // The floats in which what is not quantized is kept.
  DType floats(const Run& run) const { return float_type(precision_, dtype(run.matrices.front())); }

  Result<std::unique_ptr<Linear>> prepare_run(Run& run, const float* bias) {
    if (holds<TileMatrix>(run)) {
      const TileStack tiles = all_of<TileMatrix>(run);
      const bool integers = tiles.front().is_quantized();
      TileProduct product{std::move(run.pattern), integers ? DType::kI8 : floats(run),
                          run.choice.tiles, choices_.l2_bytes};
      return (integers ? prepare_int8_tiles : prepare_tiles)(tiles, std::move(product), bias,
                                                             team_);
    }
    if (holds<CsrMatrix>(run)) {
      return prepare_csr(all_of<CsrMatrix>(run), bias, floats(run), team_);
    }
    if (holds<CompactMatrix>(run)) {
      return prepare_compact(std::get<CompactMatrix>(run.matrices.front()), bias, choices_, team_);
    }
    if (holds<QuantizedMatrix>(run)) {
      const QuantizedStack stack = all_of<QuantizedMatrix>(run);
      const bool whole = stack.front().precision == Precision::kInt8 && stack.front().group == 0;
      return whole ? prepare_int8(stack, bias, choices_, team_)
                   : prepare_groups(stack, bias, choices_, team_);
    }
    return prepare_dense(all_of<DenseView>(run), bias, choices_, team_);
  }

  template <typename Matrix>
  static std::vector<Matrix> all_of(const Run& run) {
    std::vector<Matrix> all;
    for (const StoredMatrix& matrix : run.matrices) all.push_back(std::get<Matrix>(matrix));
    return all;
  }

  const float* bias_;
  const LinearChoices& choices_;
  Precision precision_;
  Team& team_;
  std::vector<Run> runs_;
  std::vector<Buffer> written_out_;
  std::vector<PackedMatrix> packed_;
};

// prepare_dense checks the dense ones.
Status check(const MatrixStack& weights) {
  if (weights.empty()) {
    return invalid_input("A linear map needs at least one matrix, but the stack is empty.");
  }
  int64_t total = 0;  // outputs
  for (const StoredMatrix& matrix : weights) {
    if (!is_weight_type(dtype(matrix))) {
      return unsupported(fmt::format("A matrix must hold F32, F16 or BF16 values, but found {}.",
                                     name(dtype(matrix))));
    }
    total += outputs(matrix);
    if (std::min(outputs(matrix), inputs(matrix)) < 1 ||
        std::max(total, inputs(matrix)) > kMaxMatrixExtent) {
      return invalid_input(
          fmt::format("A linear map must have 1 to {} inputs and outputs, but found {} x {}.",
                      kMaxMatrixExtent, outputs(matrix), inputs(matrix)));
    }
    if (inputs(matrix) != inputs(weights.front())) {
      return invalid_input(
          fmt::format("Matrices of one linear map must have equal inputs: expected {}, found {}.",
                      inputs(weights.front()), inputs(matrix)));
    }
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<Linear>> prepare_linear(const MatrixStack& weights, const float* bias,
                                               const LinearChoices& choices, Team& team) {
  try {
    TESSERA_RETURN_IF_ERROR(check(weights));
    return Preparation(bias, choices, team).prepare(weights);
  } catch (const std::bad_alloc&) {
    return out_of_memory("Packing a linear map ran out of memory.");
  }
}

void apply_shared(const Linear& linear, LinearArgs args, void* converted, Team::Member& member) {
  if (linear.converted_bytes(args.rows) > 0) {
    linear.convert_rows(args, member.slice(args.rows), converted);
    member.barrier();
    args.converted = converted;
  }
  linear.apply(args, member);
}

}  // namespace tessera
