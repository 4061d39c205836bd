#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/guarded.h"
#include "compress/allocation.h"
#include "compress/calibration.h"
#include "compress/directory.h"
#include "compress/layer.h"
#include "compress/measure.h"
#include "compress/pass.h"
#include "compress/prune.h"
#include "compress/quantize.h"
#include "compress/tables.h"
#include "tessera/compress.h"
#include "tessera/version.h"

namespace tessera {
namespace {

using OrderedJson = nlohmann::ordered_json;

constexpr size_t at(int64_t index) { return static_cast<size_t>(index); }

// Where error curves are measured; from half on a matrix's errors grow fast.
constexpr double kCurveShares[] = {0.25, 0.5, 0.625, 0.75, 0.85, 0.925};

// What is left of the outputs' energy multiplies along the maps that follow each other, so its
// logarithms add. Of a matrix that goes whole a millionth is said to be left, as more than all of
// the others together must not make up for it.
double lost_energy(double output_error) {
  return -std::log(std::max(1e-6, 1 - output_error * output_error));
}

OrderedJson to_json(const CompressOptions& options, const PruneOptions& prune) {
  constexpr const char* kScopes[] = {"matrix", "balanced", "global", "allocated"};
  constexpr const char* kScores[] = {"magnitude", "calibrated"};
  const Pass& pass = find_pass(prune.unit);
  OrderedJson json = {
      {"pass", pass.info.name},
      {"share", prune.share},
      {"scope", kScopes[static_cast<size_t>(prune.scope)]},
      {"score", kScores[static_cast<size_t>(prune.score)]},
      {"repair", prune.repair == PruneOptions::Repair::kLeastSquares ? "least_squares" : "none"},
      {"matrices", options.matrices},
      {"layers", options.layers}};
  if (prune.unit == PruneUnit::kTiles || prune.unit == PruneUnit::kAttentionAware)
    json["tile"] = {prune.tile_rows, prune.tile_cols};
  if (prune.unit == PruneUnit::kAttentionAware)
    json["precompute_vo"] = prune.precompute_vo == PruneOptions::PrecomputeVo::kYes;
  return json;
}

OrderedJson to_json(const CompressOptions& options, const QuantizeOptions& quantize) {
  const Precision precision = precision_of(quantize);
  OrderedJson json = {
      {"pass", "quantize"},
      {"precision", name(precision)},
      {"group", quantize.group.value_or(default_group(precision))},
      {"rounding", quantize.rounding == Rounding::kCompensated ? "compensated" : "nearest"},
      {"matrices", options.matrices},
      {"layers", options.layers}};
  if (quantize.smooth > 0) json["smooth"] = quantize.smooth;
  return json;
}

class Pipeline {
 public:
  Pipeline(const std::string& source, const std::string& target, const CompressOptions& options)
      : source_directory_(source),
        target_(target),
        options_(options),
        prune_(options.prune.value_or(PruneOptions())),
        pass_(options.prune.has_value() ? &find_pass(prune_.unit) : nullptr) {}

  Result<CompressReport> run() {
    TESSERA_RETURN_IF_ERROR(open());
    TESSERA_RETURN_IF_ERROR(progress("reading the calibration text", 0, 1));
    TESSERA_RETURN_IF_ERROR(read_texts());
    TESSERA_RETURN_IF_ERROR(begin_calibration());  // so that texts are checked first
    TESSERA_ASSIGN_OR_RETURN(PartDirectory part, PartDirectory::open(target_, run_text()));
    TESSERA_RETURN_IF_ERROR(choose_shares());
    TESSERA_RETURN_IF_ERROR(compress_layers(part));
    TESSERA_RETURN_IF_ERROR(round_tables(part));
    TESSERA_RETURN_IF_ERROR(write(part));
    measure();
    report_.share = reached_share();
    return report_;
  }

 private:
  Status progress(const std::string& what, int64_t done, int64_t total) {
    if (!options_.on_progress || options_.on_progress(what, done, total)) return {};
    return Status(StatusCode::kCancelled, "compression was cancelled");
  }

  bool needs_text() const {
    const auto& quantize = options_.quantize;
    return prune_.score != PruneScore::kMagnitude ||
           prune_.repair == PruneOptions::Repair::kLeastSquares ||
           prune_.scope == PruneScope::kAllocated ||
           (quantize && (quantize->rounding == Rounding::kCompensated || quantize->smooth > 0));
  }
  bool calibrates() const {
    return !options_.calibration.text_file.empty() || !options_.calibration.sequences.empty();
  }

  Status check_options() const {
    if (pass_ == nullptr && !options_.quantize)
      return invalid_input("expected options to prune or to quantize, found neither");
    if (!(prune_.share >= 0 && prune_.share <= 1)) {
      return invalid_input(
          fmt::format("share: expected a number from 0 to 1, found {}", prune_.share));
    }
    if (options_.quantize) TESSERA_RETURN_IF_ERROR(check_quantize(*options_.quantize));
    if (options_.calibration.tokens < 1) {
      return invalid_input(fmt::format("calibration tokens: expected at least 1, found {}",
                                       options_.calibration.tokens));
    }
    if (needs_text() && !calibrates()) {
      return invalid_input(
          "expected a calibration text for calibrated scores, repair, allocation, compensated "
          "rounding and smoothing, found none");
    }
    return {};
  }

  Status open() {
    TESSERA_RETURN_IF_ERROR(check_options());
    TESSERA_RETURN_IF_ERROR(check_target(source_directory_, target_));
    TESSERA_ASSIGN_OR_RETURN(source_, OpenCheckpoint::open(source_directory_));
    TESSERA_ASSIGN_OR_RETURN(architecture_, read_architecture(source_->checkpoint));
    if (pass_ != nullptr) TESSERA_RETURN_IF_ERROR(pass_->check(architecture_, prune_));
    TESSERA_RETURN_IF_ERROR(list());
    TESSERA_RETURN_IF_ERROR(check_pairs());
    TESSERA_RETURN_IF_ERROR(check_space());
    team_ = std::make_unique<Team>(options_.calibration.threads);
    report_.bytes_before = static_cast<int64_t>(source_->checkpoint.size_bytes());
    TESSERA_ASSIGN_OR_RETURN(hashes_, hash_tensor_files(source_directory_));
    return {};
  }

  // What there is to do.
  Status list() {
    const TensorNames names = checkpoint_names(source_->checkpoint, architecture_);
    const FusedQkv fused = pass_ != nullptr                ? pass_->fused(prune_)
                           : source_->formats.has_stacks() ? FusedQkv::kParts
                                                           : FusedQkv::kWhole;
    TESSERA_ASSIGN_OR_RETURN(items_, list_items(architecture_, names, options_, fused));
    bool any = false;
    for (Item& item : items_) {
      if (!prunes(item) && stays(item)) item.selected = false;
      if (prunes(item)) selected_weights_ += static_cast<double>(item.outputs * item.inputs);
      any = any || changes(item);
    }
    if (!any) return invalid_input("expected options that choose at least one matrix, found none");
    if (options_.quantize && options_.matrices.empty() && options_.layers.empty())
      tables_ = list_tables(source_->source(), architecture_, names);
    return {};
  }

  Removed removed(const Item& item) const {
    return pass_ != nullptr && item.selected ? pass_->removed(item, prune_) : Removed::kNothing;
  }
  bool prunes(const Item& item) const { return removed(item) != Removed::kNothing; }
  bool changes(const Item& item) const {
    return prunes(item) || (options_.quantize.has_value() && item.selected);
  }
  // Whether an earlier run left it in a form that is not quantized, or as a stack of such.
  bool stays(const Item& item) const {
    const TensorFormat* entry = source_->formats.find(item.name());
    if (entry == nullptr || entry->is_dense() || entry->format == &QuantizedMatrix::kFormat)
      return false;
    return entry->format != &TileMatrix::kFormat || !options_.quantize ||
           !has_integer_rows(precision_of(*options_.quantize)) ||
           source_->checkpoint.has(item.name() + ".tile_scales");
  }

  // Bytes that are written of an item, and bytes of its dense form.
  std::pair<int64_t, int64_t> bytes_of(const Item& item, int64_t value_bytes) const {
    const int64_t dense = item.outputs * item.inputs * value_bytes;
    if (prunes(item)) return {estimated_bytes(*pass_, item, prune_, value_bytes), dense};
    return {quantized_bytes(*options_.quantize, item.outputs, item.inputs), dense};
  }

  // The finished layers and the whole stand on the disk at the same time.
  Status check_space() const {
    int64_t layers = 0, whole = static_cast<int64_t>(source_->checkpoint.size_bytes());
    for (const Item& item : items_) {
      if (!changes(item)) continue;
      const std::string tensor = tensors_of(source_->formats, item.tensor).front();
      TESSERA_ASSIGN_OR_RETURN(const TensorView view, source_->checkpoint.any_tensor(tensor));
      const auto [bytes, dense] = bytes_of(item, static_cast<int64_t>(size_bytes(view.dtype)));
      layers += bytes;
      whole -= dense - bytes;
    }
    std::error_code error;
    const std::filesystem::path parent =
        std::filesystem::absolute(std::filesystem::path(target_)).parent_path();
    const std::filesystem::space_info space = std::filesystem::space(parent, error);
    const auto needed = static_cast<uintmax_t>(std::max<int64_t>(layers, layers + whole));
    if (error || space.available >= needed) return {};
    return io_error(fmt::format("{}: expected about {} bytes of free space, found {}",
                                parent.string(), needed, space.available));
  }

  // Values lose features together with the inputs of the output matrix.
  Status check_pairs() const {
    for (const Item& item : items_) {
      if (removed(item) != Removed::kOutputsOfHeads && removed(item) != Removed::kInputsOfValues)
        continue;
      const auto twin = std::find_if(items_.begin(), items_.end(), [&](const Item& other) {
        return other.layer == item.layer && removed(other) != removed(item) &&
               (removed(other) == Removed::kOutputsOfHeads ||
                removed(other) == Removed::kInputsOfValues);
      });
      if (twin != items_.end()) continue;
      return invalid_input(
          "matrices: attention-aware pruning expected both value and attention_output or neither, "
          "found one");
    }
    return {};
  }

  Status read_texts() {
    if (!calibrates()) return {};
    if (!options_.calibration.sequences.empty()) {
      sequences_ = options_.calibration.sequences;
      return {};
    }
    TESSERA_ASSIGN_OR_RETURN(
        sequences_, read_calibration(source_directory_, architecture_, options_.calibration));
    return {};
  }

  // What makes two runs the same. Sequences stand by their ids.
  std::string run_text() const {
    OrderedJson run = {{"version", version()},
                       {"options", passes_json()},
                       {"source", hashes_},
                       {"tokens", OrderedJson::array()},
                       {"types", OrderedJson::array()}};
    for (const TokenSequence& sequence : sequences_) {
      run["tokens"].push_back(sequence.ids);
      run["types"].push_back(sequence.type_ids);
    }
    return run.dump() + "\n";
  }

  // What this run does, in its order.
  std::vector<OrderedJson> passes_json() const {
    std::vector<OrderedJson> passes;
    if (options_.prune) passes.push_back(to_json(options_, *options_.prune));
    if (options_.quantize) passes.push_back(to_json(options_, *options_.quantize));
    return passes;
  }

  std::string section() const {
    int64_t tokens = 0;
    for (const TokenSequence& sequence : sequences_)
      tokens += static_cast<int64_t>(sequence.ids.size());
    OrderedJson list = OrderedJson::array();
    const OrderedJson before = earlier_passes();
    for (const OrderedJson& pass : before) list.push_back(pass);
    for (OrderedJson pass : passes_json()) {
      if (calibrates()) pass["calibration_tokens"] = tokens;
      list.push_back(std::move(pass));
    }
    const OrderedJson json = {
        {"format", kFormatVersion},
        {"version", version()},
        {"options", list.back()},
        {"provenance",
         {{"source_sha256", hashes_}, {"passes", list}, {"seeds", OrderedJson::array()}}}};
    return json.dump();
  }

  // Of a source that was compressed before.
  OrderedJson earlier_passes() const {
    const OrderedJson config =
        OrderedJson::parse(source_->checkpoint.config().dump(), nullptr, false);
    const OrderedJson::json_pointer place("/tessera/provenance/passes");
    if (config.contains(place) && config[place].is_array()) return config[place];
    return OrderedJson::array();
  }

  HeadShape heads() const {
    return {architecture_.query_heads, architecture_.kv_heads, architecture_.head_size};
  }

  Result<LayerOnTheWay> read(const Sources& sources, int32_t layer) const {
    TESSERA_ASSIGN_OR_RETURN(LayerOnTheWay on_the_way, read_layer(sources, items_, layer));
    for (Matrix& matrix : on_the_way.matrices) {
      if (!prunes(matrix.item)) continue;
      matrix.removed = removed(matrix.item);
      matrix.mask.reset();
    }
    if (!calibrates()) return on_the_way;
    TESSERA_ASSIGN_OR_RETURN(on_the_way.weights,
                             load_layer_norms(source_->checkpoint, architecture_, layer, *team_));
    TESSERA_RETURN_IF_ERROR(prepare_maps(on_the_way, *team_));
    return on_the_way;
  }

  Status begin_calibration() {
    if (!calibrates()) return {};
    const Precision embeddings = tables_.empty() ? Precision::kStored : Precision::kW8;
    TESSERA_ASSIGN_OR_RETURN(calibration_, Calibration::begin(source_->checkpoint, architecture_,
                                                              sequences_, embeddings, *team_));
    return {};
  }

  // Shares or masks that need a look at all matrices first.
  Status choose_shares() {
    choices_.assign(items_.size(), {.share = prune_.share});
    const PruneScope scope = prune_.scope;
    if (pass_ == nullptr) return {};
    if (scope != PruneScope::kGlobal && scope != PruneScope::kAllocated) return {};
    TESSERA_RETURN_IF_ERROR(begin_calibration());
    std::vector<ErrorCurve> curves;
    std::vector<size_t> chosen;
    std::vector<std::vector<double>> scores;
    for (int32_t layer = 0; layer < architecture_.layers; ++layer) {
      TESSERA_RETURN_IF_ERROR(progress("looking at all layers", layer, architecture_.layers));
      TESSERA_ASSIGN_OR_RETURN(LayerOnTheWay on_the_way, read({source_->source()}, layer));
      for (int map = 0; map < kLayerMaps; ++map) {
        TESSERA_RETURN_IF_ERROR(look_at(static_cast<LayerMap>(map), on_the_way, curves, scores));
      }
      if (calibrates()) TESSERA_RETURN_IF_ERROR(calibration_->advance(on_the_way.weights));
    }
    for (size_t i = 0; i < items_.size(); ++i) {
      if (prunes(items_[i])) chosen.push_back(i);
    }
    if (scope == PruneScope::kAllocated) {
      const std::vector<double> shares = allocate(curves, prune_.share);
      for (size_t i = 0; i < chosen.size(); ++i) choices_[chosen[i]].share = shares[i];
    } else {
      rank(chosen, scores);
    }
    return {};
  }

  // One map's matrices in the order of the items: their scores, or their error curves.
  Status look_at(LayerMap map, LayerOnTheWay& layer, std::vector<ErrorCurve>& curves,
                 std::vector<std::vector<double>>& scores) {
    const std::vector<Matrix*> matrices = layer.of(map);
    if (std::none_of(matrices.begin(), matrices.end(),
                     [&](const Matrix* m) { return prunes(m->item); })) {
      return {};
    }
    std::optional<InputStatistics> statistics;
    if (calibrates()) {
      TESSERA_ASSIGN_OR_RETURN(statistics, calibration_->observe(layer.weights, map));
    }
    MapInputs inputs(statistics ? &*statistics : nullptr);
    const PruneContext context{&prune_, &inputs, team_.get()};
    for (const Matrix* matrix : matrices) {
      if (!prunes(matrix->item)) continue;
      if (prune_.scope == PruneScope::kGlobal) {
        scores.push_back(unit_scores(context, *matrix));
        continue;
      }
      TESSERA_ASSIGN_OR_RETURN(ErrorCurve curve, measure_curve(context, *matrix));
      curves.push_back(std::move(curve));
    }
    return {};
  }

  Result<ErrorCurve> measure_curve(const PruneContext& context, const Matrix& matrix) const {
    ErrorCurve curve{matrix.item.outputs * matrix.item.inputs, {0}, {0}};
    for (const double share : kCurveShares) {
      Matrix copy = matrix;
      choose_mask(context, {.share = share}, copy);
      TESSERA_RETURN_IF_ERROR(prune_matrix(context, copy));
      curve.shares.push_back(copy.share());
      curve.errors.push_back(lost_energy(copy.output_error));
    }
    curve.shares.push_back(1);
    curve.errors.push_back(std::max(lost_energy(1), curve.errors.back()));
    return curve;
  }

  void rank(const std::vector<size_t>& chosen, const std::vector<std::vector<double>>& scores) {
    std::vector<RankedMatrix> ranking;
    for (size_t i = 0; i < chosen.size(); ++i) {
      const Item& item = items_[chosen[i]];
      Choice& choice = choices_[chosen[i]];
      choice.mask =
          TileMask::all(unit_tile(removed(item), item, prune_), item.outputs, item.inputs);
      ranking.push_back({&scores[i], &*choice.mask});
    }
    prune_global(ranking, std::llround(prune_.share * selected_weights_));
  }

  // Takes over what stands in the part directory.
  Status collect(const PartDirectory& part, int32_t layer) {
    TESSERA_ASSIGN_OR_RETURN(auto done, OpenCheckpoint::open(part.layer_path(layer)));
    TESSERA_ASSIGN_OR_RETURN(const auto reports, part.read_reports(layer));
    report_.matrices.insert(report_.matrices.end(), reports.begin(), reports.end());
    layers_.push_back(std::move(done));
    return {};
  }

  Status compress_layers(const PartDirectory& part) {
    TESSERA_RETURN_IF_ERROR(begin_calibration());
    const char* what = pass_ != nullptr ? "pruning" : "quantizing";
    for (int32_t layer = 0; layer < architecture_.layers; ++layer) {
      TESSERA_RETURN_IF_ERROR(progress(what, layer, architecture_.layers));
      if (!part.has_layer(layer)) TESSERA_RETURN_IF_ERROR(compress_layer(part, layer));
      TESSERA_RETURN_IF_ERROR(collect(part, layer));
      // From what was written, so that a run that was taken up goes on as if it had not stopped.
      if (calibrates() && layer + 1 < architecture_.layers) {
        TESSERA_ASSIGN_OR_RETURN(const LayerOnTheWay done,
                                 read({layers_.back()->source(), source_->source()}, layer));
        TESSERA_RETURN_IF_ERROR(calibration_->advance(done.weights));
      }
    }
    return {};
  }

  // They stand behind the layers.
  Status round_tables(const PartDirectory& part) {
    if (tables_.empty()) return {};
    TESSERA_RETURN_IF_ERROR(progress("quantizing embeddings", 0, 1));
    if (!part.has_layer(architecture_.layers)) {
      std::vector<RoundedTable> rounded;
      for (const Table& table : tables_) {
        TESSERA_ASSIGN_OR_RETURN(RoundedTable one, round_table(source_->source(), table, *team_));
        rounded.push_back(std::move(one));
      }
      TESSERA_RETURN_IF_ERROR(part.write_tables(architecture_.layers, std::move(rounded)));
    }
    return collect(part, architecture_.layers);
  }

  Status compress_layer(const PartDirectory& part, int32_t layer) {
    TESSERA_ASSIGN_OR_RETURN(LayerOnTheWay on_the_way, read({source_->source()}, layer));
    for (int map = 0; map < kLayerMaps; ++map)
      TESSERA_RETURN_IF_ERROR(compress_map(static_cast<LayerMap>(map), on_the_way));
    std::vector<MatrixReport> reports;
    for (const Matrix& matrix : on_the_way.matrices) {
      if (!changes(matrix.item)) continue;
      TESSERA_ASSIGN_OR_RETURN(const PackedMatrix packed, pack(matrix));
      const double flops = static_cast<double>(flops_per_row(packed.matrix));
      const auto& integers = matrix.integers;
      reports.push_back(
          {.name = matrix.item.name(),
           .format = format_name(packed.matrix),
           .precision = integers ? std::string(name(integers->precision)) : "",
           .dense_bytes = matrix.item.outputs * matrix.item.inputs *
                          static_cast<int64_t>(size_bytes(matrix.dtype)),
           .bytes = tensor_bytes(packed),
           .share = matrix.share(),
           .weight_error = matrix.weight_error(),
           .output_error = matrix.output_error,
           .expected_speedup = 2.0 * static_cast<double>(matrix.item.outputs * matrix.item.inputs) /
                               std::max(flops, 1.0)});
    }
    return part.write_layer(layer, on_the_way.matrices, reports);
  }

  Status compress_map(LayerMap map, LayerOnTheWay& on_the_way) {
    const std::vector<Matrix*> matrices = on_the_way.of(map);
    if (std::none_of(matrices.begin(), matrices.end(),
                     [&](const Matrix* m) { return changes(m->item); })) {
      return {};
    }
    std::optional<InputStatistics> statistics;
    if (calibrates()) {
      TESSERA_ASSIGN_OR_RETURN(statistics, calibration_->observe(on_the_way.weights, map));
    }
    MapInputs inputs(statistics ? &*statistics : nullptr);
    TESSERA_RETURN_IF_ERROR(prune_map(matrices, inputs, on_the_way));
    TESSERA_RETURN_IF_ERROR(quantize_map(matrices, inputs));
    if (!calibrates()) return {};
    if (map == LayerMap::kAttentionOutput)
      TESSERA_RETURN_IF_ERROR(prepare_map(LayerMap::kQkv, on_the_way, *team_));
    return prepare_map(map, on_the_way, *team_);
  }

  Status prune_map(const std::vector<Matrix*>& matrices, MapInputs& inputs,
                   LayerOnTheWay& on_the_way) {
    const PruneContext context{&prune_, &inputs, team_.get()};
    for (Matrix* matrix : matrices) {
      if (!prunes(matrix->item) || matrix->removed == Removed::kOutputsOfHeads) continue;
      if (matrix->removed == Removed::kInputsOfValues) {
        TESSERA_RETURN_IF_ERROR(prune_values(context, on_the_way, *matrix));
      } else {
        choose_mask(context, choice_of(matrix->item), *matrix);
        TESSERA_RETURN_IF_ERROR(prune_matrix(context, *matrix));
      }
    }
    return {};
  }

  // What pruning left dense or in tiles; values of which features go later stay floats.
  Status quantize_map(const std::vector<Matrix*>& matrices, MapInputs& inputs) {
    if (!options_.quantize) return {};
    std::vector<Matrix*> rounded;
    for (Matrix* matrix : matrices) {
      if (!matrix->item.selected || matrix->removed == Removed::kOutputsOfHeads) continue;
      TESSERA_ASSIGN_OR_RETURN(const IntegerForm form, integer_form(*options_.quantize, *matrix));
      if (form != IntegerForm::kNone) rounded.push_back(matrix);
    }
    QuantizeContext context{&*options_.quantize, &inputs, team_.get()};
    if (options_.quantize->smooth > 0 && !rounded.empty()) {
      context.input_scales =
          smoothing_scales(rounded, *inputs.statistics(), options_.quantize->smooth);
    }
    for (Matrix* matrix : rounded) TESSERA_RETURN_IF_ERROR(quantize_matrix(context, *matrix));
    return {};
  }

  const Choice& choice_of(const Item& item) const {
    const auto place = std::find_if(items_.begin(), items_.end(), [&](const Item& other) {
      return other.tensor == item.tensor && other.first == item.first;
    });
    return choices_[at(place - items_.begin())];
  }

  // The values of the layer, which were left whole so far, and the output matrix together: what
  // the matrix reads is then known of all features.
  Status prune_values(const PruneContext& context, LayerOnTheWay& on_the_way, Matrix& output) {
    for (Matrix* values : on_the_way.of(LayerMap::kQkv)) {
      if (values->removed != Removed::kOutputsOfHeads) continue;
      choose_value_features(heads(), prune_, context.inputs->statistics(), *values, output);
      MapInputs nothing(nullptr);
      const PruneContext alone{context.options, &nothing, context.team};
      TESSERA_RETURN_IF_ERROR(prune_matrix(alone, *values));
      const bool repairs = prune_.repair == PruneOptions::Repair::kLeastSquares;
      if (!repairs) move_value_bias(heads(), *values, output);
      TESSERA_RETURN_IF_ERROR(prune_matrix(context, output));
      round_to_file(output);
    }
    return {};
  }

  Status write(const PartDirectory& part) {
    TESSERA_RETURN_IF_ERROR(progress("writing", 0, 1));
    TESSERA_ASSIGN_OR_RETURN(const std::string whole, part.make_whole());
    TESSERA_RETURN_IF_ERROR(write_checkpoint(*source_, layers_, section(), whole));
    layers_.clear();
    TESSERA_RETURN_IF_ERROR(part.finish());
    TESSERA_ASSIGN_OR_RETURN(result_, OpenCheckpoint::open(target_));
    report_.bytes_after = static_cast<int64_t>(result_->checkpoint.size_bytes());
    return {};
  }

  // What is written is whole by now: nothing that fails here, or is cancelled, takes the report.
  void measure() {
    if (options_.measure == CompressOptions::Measure::kNo) return;
    const auto total = static_cast<int64_t>(report_.matrices.size());
    size_t next = 0;
    for (const Item& item : items_) {
      if (!changes(item)) continue;
      const auto done = static_cast<int64_t>(next);
      MatrixReport& report = report_.matrices[next++];
      if (report.format == "dense") continue;
      if (!progress("measuring", done, total).ok()) return;
      const Result<double> measured = measure_speedup(result_->source(), item, *team_);
      if (measured.ok()) report.measured_speedup = *measured;
    }
  }

  // Of what this run or one before it pruned.
  double reached_share() const {
    double pruned = 0, weights = 0;
    size_t next = 0;
    for (const Item& item : items_) {
      if (!changes(item)) continue;
      const double share = report_.matrices[next++].share;
      if (!prunes(item) && share == 0) continue;
      const double own = static_cast<double>(item.outputs * item.inputs);
      pruned += share * own;
      weights += own;
    }
    return pruned / std::max(1.0, weights);
  }

  const std::string& source_directory_;
  const std::string& target_;
  const CompressOptions& options_;
  PruneOptions prune_;  // without its meaning where nothing is pruned
  const Pass* pass_;    // null: nothing is
  std::unique_ptr<OpenCheckpoint> source_, result_;
  Architecture architecture_;
  std::vector<Item> items_;
  std::vector<Choice> choices_;  // one an item
  std::vector<Table> tables_;    // to be rounded
  std::map<std::string, std::string> hashes_;
  std::unique_ptr<Team> team_;
  std::vector<TokenSequence> sequences_;
  std::unique_ptr<Calibration> calibration_;
  std::vector<std::unique_ptr<OpenCheckpoint>> layers_;
  CompressReport report_;
  double selected_weights_ = 0;  // of what is pruned
};

// A directory may be named with a slash behind it.
std::string without_slashes(std::string path) {
  while (path.size() > 1 && path.ends_with('/')) path.pop_back();
  return path;
}

}  // namespace

Result<CompressReport> compress(const std::string& source, const std::string& target,
                                const CompressOptions& options) {
  return guarded(source, [&] {
    const std::string directory = without_slashes(target);
    return Pipeline(source, directory, options).run();
  });
}

}  // namespace tessera
