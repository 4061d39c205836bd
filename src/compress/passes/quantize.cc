#include "compress/quantize.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "compress/pass.h"

namespace tessera {
namespace {

class QuantizePass final : public Pass {
 public:
  explicit QuantizePass(const CompressOptions& options)
      : matrices_(options.matrices),
        layers_(options.layers),
        quantize_(*options.quantize),
        precision_(precision_of(quantize_)) {}

  PassInfo info() const override {
    return {.name = "quantize",
            .summary = "Rounds what is left dense, or in tiles, to integers of 8 or 4 bits.",
            .citation =
                "Frantar et al. 2022, GPTQ: compensated rounding; Xiao et al. 2022, SmoothQuant",
            .reads = "dense, quantized, tiles",
            .writes = "quantized, tiles",
            .doing = "quantizing"};
  }

  std::string options() const override {
    nlohmann::ordered_json json = {{"pass", "quantize"},
                                   {"precision", name(precision_)},
                                   {"group", quantize_.group.value_or(default_group(precision_))},
                                   {"rounding", compensates() ? "compensated" : "nearest"},
                                   {"matrices", matrices_},
                                   {"layers", layers_}};
    if (quantize_.smooth > 0) json["smooth"] = quantize_.smooth;
    return json.dump();
  }

  Text calibration_text() const override {
    return compensates() || quantize_.smooth > 0 ? Text::kNeeded : Text::kNotNeeded;
  }

  FusedQkv fused(const Source& source) const override {
    return source.formats->has_stacks() ? FusedQkv::kParts : FusedQkv::kWhole;
  }

  // What an earlier run left in a form that has no integers stays, and so does a stack of such.
  bool reads(const Source& source, const Item& item) const override {
    const TensorFormat* entry = source.formats->find(item.name());
    if (entry == nullptr || entry->is_dense() || entry->format == &QuantizedMatrix::kFormat)
      return true;
    return entry->format == &TileMatrix::kFormat && has_integer_rows(precision_) &&
           !source.checkpoint->has(item.name() + ".tile_scales");
  }

  // An error is uniform within a step, whose size the largest of a group's weights decides, of n
  // normal ones sqrt(2 ln 2n) deviations at most on average.
  Estimate estimate(const Item& item, const Estimate& before) const override {
    if (before.kept < 1) return before;  // tiles of integers are smaller still
    const int32_t group = group_of(quantize_, item.inputs);
    const double weights = group == 0 ? static_cast<double>(item.inputs) : group;
    const double steps = bits(precision_) == 8 ? 127 : 7;
    const double error = std::sqrt(2 * std::log(2 * weights) / 12) / steps;
    return {quantized_bytes(quantize_, item.outputs, item.inputs), 1,
            std::hypot(before.weight_error, error)};
  }

  std::optional<Precision> table_precision() const override {
    if (!matrices_.empty() || !layers_.empty()) return {};
    return Precision::kW8;  // whatever the layers are
  }

  Status apply(const MapWork& work) override {
    std::vector<Matrix*> rounded;
    for (Matrix* matrix : work.matrices) {
      TESSERA_ASSIGN_OR_RETURN(const IntegerForm form, integer_form(quantize_, *matrix));
      if (form != IntegerForm::kNone) rounded.push_back(matrix);
    }
    QuantizeContext context{&quantize_, &work.inputs, &work.team};
    if (quantize_.smooth > 0 && !rounded.empty()) {
      context.input_scales = smoothing_scales(rounded, *work.inputs.statistics(), quantize_.smooth);
    }
    for (Matrix* matrix : rounded) TESSERA_RETURN_IF_ERROR(quantize_matrix(context, *matrix));
    return {};
  }

 private:
  bool compensates() const { return quantize_.rounding == Rounding::kCompensated; }

  const std::vector<std::string> matrices_;  // chosen, as the options name them
  const std::vector<int32_t> layers_;
  const QuantizeOptions quantize_;
  const Precision precision_;
};

}  // namespace

MadePass make_quantize_pass(const CompressOptions& options) {
  if (!options.quantize.has_value()) return std::unique_ptr<Pass>();
  TESSERA_RETURN_IF_ERROR(check_quantize(*options.quantize));
  return std::unique_ptr<Pass>(std::make_unique<QuantizePass>(options));
}

}  // namespace tessera
