#include "compress/pipeline.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "base/guarded.h"
#include "compress/calibration.h"
#include "compress/directory.h"
#include "compress/measure.h"
#include "compress/model_card.h"
#include "compress/model_files.h"
#include "compress/paths.h"
#include "compress/provenance.h"
#include "compress/report.h"
#include "compress/stopwatch.h"
#include "compress/tables.h"
#include "model/loader.h"

namespace tessera {
namespace {

class Pipeline {
 public:
  Pipeline(const std::string& source, const std::string& target, const CompressOptions& options,
           const Passes& passes)
      : name_(source), target_(target), options_(options), passes_(passes) {}

  // What the run is, of which nothing is begun.
  Result<std::string> text() {
    TESSERA_RETURN_IF_ERROR(read_source());
    TESSERA_ASSIGN_OR_RETURN(hashes_, hash_tensor_files(home_.transformer));
    TESSERA_RETURN_IF_ERROR(read_texts());
    return run_text(this_run());
  }

  Result<CompressReport> run() {
    TESSERA_RETURN_IF_ERROR(open());
    for (const auto& pass : passes_) report_.passes.push_back({.name = pass->info().name});
    TESSERA_RETURN_IF_ERROR(progress("reading the calibration text", 0, 1));
    TESSERA_RETURN_IF_ERROR(read_texts());
    TESSERA_RETURN_IF_ERROR(begin_calibration());  // so that texts are checked first
    TESSERA_ASSIGN_OR_RETURN(const PartDirectory part,
                             PartDirectory::open(target_, run_text(this_run()), options_.existing));
    TESSERA_RETURN_IF_ERROR(look());
    TESSERA_RETURN_IF_ERROR(compress_layers(part));
    TESSERA_RETURN_IF_ERROR(round_tables(part));
    TESSERA_RETURN_IF_ERROR(write(part));
    measure();
    return report_;
  }

 private:
  Status progress(const std::string& what, int64_t done, int64_t total) {
    if (!options_.on_progress || options_.on_progress(what, done, total)) return {};
    return Status(StatusCode::kCancelled, "compression was cancelled");
  }

  Run this_run() const { return {&passes_, &hashes_, &sequences_}; }

  bool calibrates() const {
    return !options_.calibration.text_file.empty() || !options_.calibration.sequences.empty();
  }

  Status check_options() const {
    if (passes_.empty())
      return invalid_input(
          "expected options to prune, to quantize, to average heads, an adapter or a schedule, "
          "found none");
    if (options_.calibration.tokens < 1) {
      return invalid_input(fmt::format("calibration tokens: expected at least 1, found {}",
                                       options_.calibration.tokens));
    }
    for (const auto& pass : passes_) {
      if (pass->calibration_text() == Pass::Text::kNotNeeded || calibrates()) continue;
      return invalid_input(
          "expected a calibration text for calibrated scores, repair, allocation, compensated "
          "rounding and smoothing, found none");
    }
    return {};
  }

  Status open() {
    TESSERA_RETURN_IF_ERROR(read_source());
    TESSERA_RETURN_IF_ERROR(check_needed_space());
    team_ = std::make_unique<Team>(options_.calibration.threads);
    report_.bytes_before = static_cast<int64_t>(source_->checkpoint.size_bytes());
    TESSERA_ASSIGN_OR_RETURN(hashes_, hash_tensor_files(home_.transformer));
    return {};
  }

  Status read_source() {
    TESSERA_RETURN_IF_ERROR(check_options());
    TESSERA_ASSIGN_OR_RETURN(home_, find_model(name_));
    TESSERA_RETURN_IF_ERROR(check_target(home_, target_, options_.existing));
    TESSERA_ASSIGN_OR_RETURN(source_, OpenCheckpoint::open(home_.transformer));
    model_.source = source_->source();
    TESSERA_ASSIGN_OR_RETURN(model_.architecture, read_architecture(source_->checkpoint));
    TESSERA_RETURN_IF_ERROR(list());
    for (const auto& pass : passes_) TESSERA_RETURN_IF_ERROR(pass->check(model_));
    return check_growth();
  }

  // What there is to do.
  Status list() {
    const FusedQkv fused = passes_.front()->fused(model_.source);
    TESSERA_ASSIGN_OR_RETURN(model_.items, list_items(model_.architecture, options_, fused));
    bool any = false, chooses_any = false;
    for (Item& item : model_.items) {
      chooses_any = chooses_any || item.selected;
      std::vector<Pass*> own;
      for (const auto& pass : passes_) {
        if (!item.selected || !pass->takes(item)) continue;
        if (!own.empty() || pass->reads(model_.source, item)) own.push_back(pass.get());
      }
      item.selected = !own.empty();
      any = any || item.selected;
      passes_of_.push_back(std::move(own));
    }
    if (!any && !changes_weights()) return {};
    if (!any) {
      for (const auto& pass : passes_) TESSERA_RETURN_IF_ERROR(pass->check(model_));
      return chooses_any ? nothing_to_do(passes_, model_.items, home_.transformer)
                         : nothing_chosen();
    }
    for (const auto& pass : passes_)
      if (!table_precision_) table_precision_ = pass->table_precision();
    if (table_precision_) tables_ = list_tables(model_.source, model_.architecture);
    return {};
  }

  // Whether there is more to do than to save a schedule.
  bool changes_weights() const {
    return std::any_of(passes_.begin(), passes_.end(),
                       [](const auto& pass) { return !pass->schedule(); });
  }

  bool works_on(const Pass& pass, const Item& item) const {
    const std::vector<Pass*>& own = passes_of_[item.number];
    return std::find(own.begin(), own.end(), &pass) != own.end();
  }

  // The bytes of a matrix with all of its values, in the type that they have in the source.
  Result<int64_t> dense_bytes(const Item& item) const {
    const std::string tensor = tensors_of(source_->formats, item.tensor).front();
    TESSERA_ASSIGN_OR_RETURN(const TensorView view, source_->checkpoint.any_tensor(tensor));
    return item.outputs * item.inputs * static_cast<int64_t>(size_bytes(view.dtype));
  }
  int64_t expected_bytes(const Item& item, int64_t dense) const {
    Estimate estimate{.bytes = dense};
    for (const Pass* pass : passes_of_[item.number]) estimate = pass->estimate(item, estimate);
    return estimate.bytes;
  }

  // The finished layers and the whole stand on the disk at the same time.
  Status check_needed_space() const {
    int64_t layers = 0, whole = static_cast<int64_t>(source_->checkpoint.size_bytes());
    for (const Item& item : model_.items) {
      if (!item.selected) continue;
      TESSERA_ASSIGN_OR_RETURN(const int64_t dense, dense_bytes(item));
      const int64_t expected = expected_bytes(item, dense);
      layers += expected;
      whole -= dense - expected;
    }
    return check_space(target_, std::max(layers, layers + whole));
  }

  // What an earlier run removed or rounded is chosen anew by the passes of this one, which may keep
  // more of it. That would only make the model larger, at no accuracy that it still has.
  Status check_growth() const {
    int64_t now = 0, later = 0;
    std::set<std::string> counted;
    for (const Item& item : model_.items) {
      if (!item.selected) continue;
      const std::vector<std::string> tensors = tensors_of(source_->formats, item.tensor);
      const bool is_compressed = tensors.front() != item.tensor;
      const bool is_rounded = source_precision(model_.source, item).has_value();
      const bool is_pruned_anew =
          passes_of_[item.number].front()->removed_before() == Pass::RemovedBefore::kChosenAnew;
      if (!is_compressed || (!is_rounded && !is_pruned_anew)) continue;
      for (const std::string& tensor : tensors) {
        if (!counted.insert(tensor).second) continue;
        // Some formats have parts that need not be there.
        if (const auto view = source_->checkpoint.any_tensor(tensor); view.ok())
          now += static_cast<int64_t>(view->size_bytes);
      }
      TESSERA_ASSIGN_OR_RETURN(const int64_t dense, dense_bytes(item));
      later += expected_bytes(item, dense);
    }
    if (later <= now + now / 50) return {};
    return unsupported(fmt::format(
        "{}: expected options that make the compressed matrices smaller, found some with which "
        "{:.1f} MB become about {:.1f}: what an earlier run removed or rounded would come back; "
        "remove a larger share, or compress the model that this one was made from",
        source_->checkpoint.directory(), static_cast<double>(now) * 1e-6,
        static_cast<double>(later) * 1e-6));
  }

  Status read_texts() {
    if (!calibrates()) return {};
    if (!options_.calibration.sequences.empty()) {
      sequences_ = options_.calibration.sequences;
      return {};
    }
    TESSERA_ASSIGN_OR_RETURN(
        sequences_, read_calibration(home_.transformer, model_.architecture, options_.calibration));
    return {};
  }

  Status begin_calibration() {
    if (!calibrates()) return {};
    const Precision embeddings =
        tables_.empty() ? Precision::kStored : table_precision_.value_or(Precision::kStored);
    TESSERA_ASSIGN_OR_RETURN(
        calibration_, Calibration::begin(source_->checkpoint, model_.architecture, sequences_,
                                         embeddings, *team_));
    return {};
  }

  Result<LayerOnTheWay> read(const Sources& sources, int32_t layer) const {
    TESSERA_ASSIGN_OR_RETURN(LayerOnTheWay on_the_way, read_layer(sources, model_.items, layer));
    if (!calibrates()) return on_the_way;
    TESSERA_ASSIGN_OR_RETURN(
        on_the_way.weights,
        load_layer_norms(source_->checkpoint, model_.architecture, layer, *team_));
    TESSERA_RETURN_IF_ERROR(prepare_maps(on_the_way, *team_));
    return on_the_way;
  }

  // What a map reads, where it is known, and then what `work_on` does with it.
  template <typename WorkOn>
  Status with_inputs(LayerMap map, LayerOnTheWay& layer, WorkOn work_on) {
    std::optional<InputStatistics> statistics;
    if (calibrates()) {
      TESSERA_ASSIGN_OR_RETURN(statistics, calibration_->observe(layer.weights, map));
    }
    MapInputs inputs(statistics ? &*statistics : nullptr);
    return work_on(inputs);
  }

  // The matrices of a map that a pass works on.
  std::vector<Matrix*> matrices_for(const Pass& pass, LayerMap map, LayerOnTheWay& layer) const {
    std::vector<Matrix*> found = layer.of(map);
    std::erase_if(found, [&](const Matrix* matrix) {
      return matrix->waits || !works_on(pass, matrix->item);
    });
    return found;
  }

  // For passes that choose over all matrices.
  Status look() {
    for (size_t i = 0; i < passes_.size(); ++i) {
      if (passes_[i]->looks() == Pass::Looks::kNever) continue;
      TESSERA_RETURN_IF_ERROR(begin_calibration());
      for (int32_t layer = 0; layer < model_.architecture.layer_count(); ++layer) {
        TESSERA_RETURN_IF_ERROR(
            progress("looking at all layers", layer, model_.architecture.layer_count()));
        TESSERA_RETURN_IF_ERROR(look_at(layer, i));
      }
      const Stopwatch stopwatch(report_.passes[i]);
      TESSERA_RETURN_IF_ERROR(passes_[i]->decide(model_));
    }
    return {};
  }

  Status look_at(int32_t number, size_t place) {
    Pass& pass = *passes_[place];
    TESSERA_ASSIGN_OR_RETURN(LayerOnTheWay layer, read({model_.source}, number));
    for (int i = 0; i < kLayerMaps; ++i) {
      const auto map = static_cast<LayerMap>(i);
      const std::vector<Matrix*> matrices = matrices_for(pass, map, layer);
      if (matrices.empty()) continue;
      TESSERA_RETURN_IF_ERROR(with_inputs(map, layer, [&](MapInputs& inputs) {
        const Stopwatch stopwatch(report_.passes[place]);
        return pass.look({model_, layer, matrices, inputs, *team_});
      }));
    }
    return calibrates() ? calibration_->advance(layer.weights) : Status();
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
    if (!changes_weights()) return {};
    TESSERA_RETURN_IF_ERROR(begin_calibration());
    const int32_t layers = model_.architecture.layer_count();
    for (int32_t layer = 0; layer < layers; ++layer) {
      TESSERA_RETURN_IF_ERROR(progress(passes_.front()->info().doing, layer, layers));
      if (!part.has_layer(layer)) TESSERA_RETURN_IF_ERROR(compress_layer(part, layer));
      TESSERA_RETURN_IF_ERROR(collect(part, layer));
      // From what was written, so that a run that was taken up goes on as if it had not stopped.
      if (calibrates() && layer + 1 < layers) {
        TESSERA_ASSIGN_OR_RETURN(const LayerOnTheWay done,
                                 read({layers_.back()->source(), model_.source}, layer));
        TESSERA_RETURN_IF_ERROR(calibration_->advance(done.weights));
      }
    }
    return {};
  }

  Status compress_layer(const PartDirectory& part, int32_t number) {
    TESSERA_ASSIGN_OR_RETURN(LayerOnTheWay layer, read({model_.source}, number));
    for (int map = 0; map < kLayerMaps; ++map)
      TESSERA_RETURN_IF_ERROR(compress_map(static_cast<LayerMap>(map), layer));
    std::vector<MatrixReport> reports;
    for (const Matrix& matrix : layer.matrices) {
      if (!matrix.item.selected) continue;
      TESSERA_RETURN_IF_ERROR(verify(matrix));
      TESSERA_ASSIGN_OR_RETURN(MatrixReport report, report_of(matrix));
      reports.push_back(std::move(report));
    }
    return part.write_layer(number, layer.matrices, reports);
  }

  Status compress_map(LayerMap map, LayerOnTheWay& layer) {
    const std::vector<Matrix*> matrices = layer.of(map);
    if (std::none_of(matrices.begin(), matrices.end(),
                     [](const Matrix* matrix) { return matrix->item.selected; })) {
      return {};
    }
    return with_inputs(map, layer, [&](MapInputs& inputs) -> Status {
      const std::vector<LayerMap> waiting = layer.waiting();
      TESSERA_RETURN_IF_ERROR(apply_passes(map, layer, inputs));
      if (!calibrates()) return {};
      for (Matrix* matrix : matrices) {
        if (!matrix->item.selected || matrix->waits) continue;
        TESSERA_RETURN_IF_ERROR(measure_output_error(*inputs.statistics(), *team_, *matrix));
      }
      for (const LayerMap earlier : waiting)
        TESSERA_RETURN_IF_ERROR(prepare_map(earlier, layer, *team_));
      return prepare_map(map, layer, *team_);
    });
  }

  Status apply_passes(LayerMap map, LayerOnTheWay& layer, MapInputs& inputs) {
    for (size_t i = 0; i < passes_.size(); ++i) {
      const std::vector<Matrix*> matrices = matrices_for(*passes_[i], map, layer);
      if (matrices.empty()) continue;
      const Stopwatch stopwatch(report_.passes[i]);
      TESSERA_RETURN_IF_ERROR(passes_[i]->apply({model_, layer, matrices, inputs, *team_}));
    }
    return {};
  }

  // They stand behind the layers.
  Status round_tables(const PartDirectory& part) {
    if (tables_.empty()) return {};
    TESSERA_RETURN_IF_ERROR(progress("quantizing embeddings", 0, 1));
    const int32_t place = model_.architecture.layer_count();
    if (!part.has_layer(place)) {
      std::vector<RoundedTable> rounded;
      for (const Table& table : tables_) {
        TESSERA_ASSIGN_OR_RETURN(RoundedTable one,
                                 round_table(model_.source, table, *table_precision_, *team_));
        rounded.push_back(std::move(one));
      }
      TESSERA_RETURN_IF_ERROR(part.write_tables(place, std::move(rounded)));
    }
    return collect(part, place);
  }

  Status write(const PartDirectory& part) {
    TESSERA_RETURN_IF_ERROR(progress("writing", 0, 1));
    TESSERA_ASSIGN_OR_RETURN(const std::string whole, part.output().make_whole());
    const std::string inner = home_.transformer_in(whole);
    std::filesystem::create_directories(inner);
    TESSERA_ASSIGN_OR_RETURN(const std::vector<TensorToWrite> others,
                             passes_.front()->other_tensors(model_));
    TESSERA_RETURN_IF_ERROR(write_checkpoint(*source_,
                                             {.layers = layers_,
                                              .tensors = others,
                                              .section = section(this_run(), source_->checkpoint),
                                              .kv_heads = passes_.front()->kv_heads()},
                                             inner));
    TESSERA_RETURN_IF_ERROR(
        copy_other_files(home_, whole, [this] { return progress("writing", 0, 1); }));
    layers_.clear();
    TESSERA_RETURN_IF_ERROR(describe(whole));
    TESSERA_RETURN_IF_ERROR(part.output().finish());
    TESSERA_ASSIGN_OR_RETURN(result_, OpenCheckpoint::open(home_.transformer_in(target_)));
    return {};
  }

  // The numbers of the whole, and the card that tells them.
  Status describe(const std::string& whole) {
    TESSERA_ASSIGN_OR_RETURN(const auto written, OpenCheckpoint::open(home_.transformer_in(whole)));
    report_.bytes_after = static_cast<int64_t>(written->checkpoint.size_bytes());
    report_.share = reached_share();
    report_.head = model_.architecture.head;
    report_.next = next_commands(report_.head, name_, target_);
    return write_model_card({.source = home_.path,
                             .target = target_,
                             .command = options_.command,
                             .passes = &passes_,
                             .report = &report_},
                            whole);
  }

  // What is written is whole by now: nothing that fails here, or is cancelled, takes the report.
  void measure() {
    calibration_.reset();
    if (options_.measure == CompressOptions::Measure::kNo) return;
    if (!measure_models().ok()) return;
    if (options_.measure == CompressOptions::Measure::kMatrices) measure_matrices();
  }

  Status measure_models() {
    using Measured = std::pair<const std::string*, std::optional<ModelSpeed>*>;
    for (const auto& [directory, speed] :
         {Measured{&home_.path, &report_.speed_before}, Measured{&target_, &report_.speed_after}}) {
      const int64_t done = speed == &report_.speed_before ? 0 : 1;
      TESSERA_RETURN_IF_ERROR(progress("measuring the whole model", done, 2));
      const Result<ModelSpeed> measured = measure_model(*directory, options_.calibration.threads);
      if (measured.ok()) *speed = *measured;
    }
    return {};
  }

  void measure_matrices() {
    const auto total = static_cast<int64_t>(report_.matrices.size());
    size_t next = 0;
    for (const Item& item : model_.items) {
      if (!item.selected) continue;
      const auto done = static_cast<int64_t>(next);
      MatrixReport& report = report_.matrices[next++];
      if (report.format == "dense") continue;
      if (!progress("measuring", done, total).ok()) return;
      const Result<double> measured = measure_speedup(result_->source(), item, *team_);
      if (measured.ok()) report.measured_speedup = *measured;
    }
  }

  // The share of the weights that this run or one before it pruned.
  double reached_share() const {
    double pruned = 0, weights = 0;
    size_t next = 0;
    for (const Item& item : model_.items) {
      if (!item.selected) continue;
      const double share = report_.matrices[next++].share;
      const std::vector<Pass*>& own = passes_of_[item.number];
      const bool removes = std::any_of(own.begin(), own.end(), [](const Pass* pass) {
        return pass->info().removes == PassInfo::Removes::kWeights;
      });
      if (!removes && share == 0) continue;
      const auto size = static_cast<double>(item.outputs * item.inputs);
      pruned += share * size;
      weights += size;
    }
    return pruned / std::max(1.0, weights);
  }

  const std::string& name_;
  const std::string& target_;
  const CompressOptions& options_;
  const Passes& passes_;
  ModelDirectory home_;
  std::unique_ptr<OpenCheckpoint> source_, result_;
  SourceModel model_;
  std::vector<std::vector<Pass*>> passes_of_;  // of each item, in their order
  std::vector<Table> tables_;                  // to be rounded
  std::optional<Precision> table_precision_;
  std::map<std::string, std::string> hashes_;
  std::unique_ptr<Team> team_;
  std::vector<TokenSequence> sequences_;
  std::unique_ptr<Calibration> calibration_;
  std::vector<std::unique_ptr<OpenCheckpoint>> layers_;
  CompressReport report_;
};

}  // namespace

Result<CompressReport> run_passes(const std::string& source, const std::string& target,
                                  const CompressOptions& options, const Passes& passes) {
  return guarded(source, [&] { return Pipeline(source, target, options, passes).run(); });
}

Result<std::string> compress_run_text(const std::string& source, const std::string& target,
                                      const CompressOptions& options) {
  TESSERA_ASSIGN_OR_RETURN(const Passes passes, make_passes(options));
  return guarded(source, [&]() -> Result<std::string> {
    return Pipeline(source, target, options, passes).text();
  });
}

Result<CompressReport> compress(const std::string& source, const std::string& target,
                                const CompressOptions& options) {
  TESSERA_ASSIGN_OR_RETURN(const Passes passes, make_passes(options));
  return run_passes(source, plain_path(target), options, passes);
}

}  // namespace tessera
