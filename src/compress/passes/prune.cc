#include "compress/prune.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "compress/allocation.h"
#include "compress/pass.h"
#include "compress/prune_units.h"
#include "compress/quantize.h"
#include "compress/report.h"
#include "io/json.h"

namespace tessera {
namespace {

constexpr size_t at(int64_t index) { return static_cast<size_t>(index); }

constexpr int64_t kIndexBytes = 2;  // I16 in files, as matrices beyond 32767 columns are rare

// Where error curves are measured; from half on a matrix's errors grow fast.
constexpr double kCurveShares[] = {0.25, 0.5, 0.625, 0.75, 0.85, 0.925};

// What is left of the outputs' energy multiplies along the maps that follow each other, so its
// logarithms add. Of a matrix that goes whole a millionth is said to be left, as more than all of
// the others together must not make up for it.
double lost_energy(double output_error) {
  return -std::log(std::max(1e-6, 1 - output_error * output_error));
}

class PrunePass final : public Pass {
 public:
  explicit PrunePass(const CompressOptions& options)
      : matrices_(options.matrices),
        layers_(options.layers),
        prune_(*options.prune),
        rule_(find_rule(prune_.unit)),
        is_quantized_next_(options.quantize.has_value()) {}

  PassInfo info() const override {
    return {.name = rule_.name,
            .summary = rule_.summary,
            .citation = rule_.citation,
            .reads = "any",
            .writes = rule_.writes,
            .doing = "pruning",
            .removes = PassInfo::Removes::kWeights};
  }

  std::string options() const override {
    nlohmann::ordered_json json = {{"pass", rule_.name},
                                   {"share", prune_.share},
                                   {"scope", name(prune_.scope)},
                                   {"score", name(prune_.score)},
                                   {"repair", repairs() ? "least_squares" : "none"},
                                   {"matrices", matrices_},
                                   {"layers", layers_}};
    if (uses_tile(rule_, prune_)) json["tile"] = {prune_.tile_rows, prune_.tile_cols};
    if (prune_.unit == PruneUnit::kAttentionAware)
      json["precompute_vo"] = prune_.precompute_vo == PruneOptions::PrecomputeVo::kYes;
    return json.dump();
  }

  Text calibration_text() const override {
    const bool needed = prune_.score != PruneScore::kMagnitude || repairs() ||
                        prune_.scope == PruneScope::kAllocated;
    return needed ? Text::kNeeded : Text::kNotNeeded;
  }

  Status check(const SourceModel& model) const override {
    TESSERA_RETURN_IF_ERROR(check_rule(rule_, prune_));
    TESSERA_RETURN_IF_ERROR(check_integers(model));
    return check_pairs(rule_, prune_, model.items);
  }
  FusedQkv fused(const Source&) const override { return rule_.fused; }
  RemovedBefore removed_before() const override { return RemovedBefore::kChosenAnew; }
  bool takes(const Item& item) const override { return removed(item) != Removed::kNothing; }

  // The units of least norm hold at most their share of all squares.
  Estimate estimate(const Item& item, const Estimate& before) const override {
    const TileShape tile = unit_tile(removed(item), item, prune_);
    const int64_t units =
        ((item.outputs + tile.rows - 1) / tile.rows) * ((item.inputs + tile.cols - 1) / tile.cols);
    const int64_t kept = units - pruned_count(prune_.share, units);
    const int64_t value_bytes = before.bytes / std::max<int64_t>(1, item.outputs * item.inputs);
    const int64_t bytes = kept * (tile.rows * tile.cols * value_bytes + kIndexBytes);
    const double share = static_cast<double>(kept) / static_cast<double>(units);
    return {std::min(bytes, before.bytes), bytes < before.bytes ? share : 1,
            std::hypot(before.weight_error, std::sqrt(1 - share))};
  }

  Looks looks() const override {
    const bool chooses = prune_.scope == PruneScope::kGlobal || allocates();
    return chooses ? Looks::kFirst : Looks::kNever;
  }

  Status look(const MapWork& work) override {
    const PruneContext context = context_of(work);
    for (Matrix* matrix : work.matrices) {
      begin(*matrix);
      looked_at_.push_back(matrix->item.number);
      if (!allocates()) {
        scores_.push_back(unit_scores(context, *matrix));
        continue;
      }
      TESSERA_ASSIGN_OR_RETURN(ErrorCurve curve, measure_curve(context, *matrix));
      curves_.push_back(std::move(curve));
    }
    return {};
  }

  Status decide(const SourceModel& model) override {
    choices_.assign(model.items.size(), {});
    if (allocates()) {
      const std::vector<double> shares = allocate(curves_, prune_.share);
      for (size_t i = 0; i < looked_at_.size(); ++i) choices_[looked_at_[i]].share = shares[i];
      return {};
    }
    double weights = 0;
    std::vector<RankedMatrix> ranking;
    for (size_t i = 0; i < looked_at_.size(); ++i) {
      const Item& item = model.items[looked_at_[i]];
      Choice& choice = choices_[looked_at_[i]];
      choice.mask =
          TileMask::all(unit_tile(removed(item), item, prune_), item.outputs, item.inputs);
      ranking.push_back({&scores_[i], &*choice.mask});
      weights += static_cast<double>(item.outputs * item.inputs);
    }
    prune_global(ranking, std::llround(prune_.share * weights));
    return {};
  }

  Status apply(const MapWork& work) override {
    const PruneContext context = context_of(work);
    for (Matrix* matrix : work.matrices) {
      if (matrix->integers.has_value())
        return unsupported("pruning: expected a matrix of floats, found one of integers");
      begin(*matrix);
      if (matrix->removed == Removed::kOutputsOfHeads) {
        matrix->waits = true;  // for the matrix that reads the values
      } else if (matrix->removed == Removed::kInputsOfValues) {
        TESSERA_RETURN_IF_ERROR(prune_with_values(context, work, *matrix));
      } else {
        choose_mask(context, choice_of(matrix->item), *matrix);
        TESSERA_RETURN_IF_ERROR(prune_matrix(context, *matrix));
        TESSERA_RETURN_IF_ERROR(round_as_source(work, *matrix));
      }
    }
    return {};
  }

 private:
  bool repairs() const { return prune_.repair == PruneOptions::Repair::kLeastSquares; }
  bool allocates() const { return prune_.scope == PruneScope::kAllocated; }
  Removed removed(const Item& item) const { return rule_.removed(item.role, prune_); }
  PruneContext context_of(const MapWork& work) const { return {&prune_, &work.inputs, &work.team}; }
  Choice choice_of(const Item& item) const {
    return choices_.empty() ? Choice{prune_.share, {}} : choices_[item.number];
  }

  // What an earlier run removed is chosen anew.
  void begin(Matrix& matrix) const {
    matrix.removed = removed(matrix.item);
    matrix.mask.reset();
  }

  // What is left of integers is stored as integers where there is such a form, which tiles have.
  Status check_integers(const SourceModel& model) const {
    for (const Item& item : model.items) {
      if (!item.selected || removed(item) == Removed::kNothing) continue;
      const std::optional<Precision> precision = source_precision(model.source, item);
      if (!precision || (removed(item) == Removed::kTiles && has_integer_rows(*precision)))
        continue;
      return unsupported(fmt::format(
          "{}: {}: expected floats to prune, or tiles of int8 or int4, found {}: what this leaves "
          "would be floats again and take more room; compress the model that it was quantized "
          "from, with both options in one run",
          rule_.name, quote(item.name()), name(*precision)));
    }
    return {};
  }

  // Pruning alone would leave floats, which take more room than the integers did.
  Status round_as_source(const MapWork& work, Matrix& matrix) const {
    if (!matrix.rounding.has_value() || is_quantized_next_) return {};
    const QuantizeOptions options{
        .weights = *parse<WeightType>(name(matrix.rounding->precision)),
        .group = matrix.rounding->group,
        .rounding = repairs() ? Rounding::kCompensated : Rounding::kNearest};
    return quantize_matrix({&options, &work.inputs, &work.team, matrix.rounding->input_scales},
                           matrix);
  }

  Result<ErrorCurve> measure_curve(const PruneContext& context, const Matrix& matrix) const {
    ErrorCurve curve{matrix.item.outputs * matrix.item.inputs, {0}, {0}};
    for (const double share : kCurveShares) {
      Matrix copy = matrix;
      choose_mask(context, {.share = share}, copy);
      TESSERA_RETURN_IF_ERROR(prune_matrix(context, copy));
      TESSERA_RETURN_IF_ERROR(
          measure_output_error(*context.inputs->statistics(), *context.team, copy));
      curve.shares.push_back(copy.share());
      curve.errors.push_back(lost_energy(copy.output_error));
    }
    curve.shares.push_back(1);
    curve.errors.push_back(std::max(lost_energy(1), curve.errors.back()));
    return curve;
  }

  // The values of the layer, which were left whole so far, and the output matrix together: what
  // the matrix reads is then known of all features.
  Status prune_with_values(const PruneContext& context, const MapWork& work, Matrix& output) const {
    for (Matrix* values : work.layer.of(LayerMap::kQkv)) {
      if (values->removed != Removed::kOutputsOfHeads) continue;
      const HeadShape heads = heads_of(work.model.architecture.layer(values->item.layer));
      choose_value_features(heads, prune_, context.inputs->statistics(), *values, output);
      MapInputs nothing(nullptr);
      TESSERA_RETURN_IF_ERROR(prune_matrix({&prune_, &nothing, context.team}, *values));
      if (!repairs()) move_value_bias(heads, *values, output);
      TESSERA_RETURN_IF_ERROR(prune_matrix(context, output));
      round_to_file(output);
      values->waits = false;
    }
    return {};
  }

  const std::vector<std::string> matrices_;  // chosen, as the options name them
  const std::vector<int32_t> layers_;
  const PruneOptions prune_;
  const PruneRule& rule_;
  const bool is_quantized_next_;
  // What a look at all matrices gives: of each one its number and its scores or its curve.
  std::vector<size_t> looked_at_;
  std::vector<std::vector<double>> scores_;
  std::vector<ErrorCurve> curves_;
  std::vector<Choice> choices_;  // one an item; empty without a look
};

}  // namespace

MadePass make_prune_pass(const CompressOptions& options) {
  if (!options.prune.has_value()) return std::unique_ptr<Pass>();
  const double share = options.prune->share;
  if (!(share >= 0 && share <= 1))
    return invalid_input(fmt::format("share: expected a number from 0 to 1, found {}", share));
  return std::unique_ptr<Pass>(std::make_unique<PrunePass>(options));
}

}  // namespace tessera
