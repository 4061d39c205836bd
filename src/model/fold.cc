#include "model/fold.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>
#include <numeric>
#include <optional>
#include <utility>

#include "base/device.h"
#include "formats/compact.h"

namespace tessera {
namespace {

// A linear map that stands for dense ones of so many FLOPs a row.
class StandIn final : public Forwarding {
 public:
  StandIn(std::unique_ptr<Linear> map, int64_t dense_flops)
      : Forwarding(*map), map_(std::move(map)), dense_flops_(dense_flops) {}

  LinearInfo info() const override {
    LinearInfo info = map_->info();
    info.dense_flops_per_row = dense_flops_;
    return info;
  }

 private:
  std::unique_ptr<Linear> map_;
  int64_t dense_flops_;
};

// y[r, i] = bias[i] + residual[r, i] + (x[r, k] where feature k stands at i)
class AddFeatures final : public Linear {
 public:
  // features: ascending, where each stands among the outputs; bias: [outputs].
  AddFeatures(std::vector<int32_t> features, std::vector<float> bias, int64_t dense_flops)
      : features_(std::move(features)), bias_(std::move(bias)), dense_flops_(dense_flops) {}

  LinearInfo info() const override {
    const auto inputs = static_cast<int64_t>(features_.size());
    const auto outputs = static_cast<int64_t>(bias_.size());
    return {.format = "in pre-computed values",
            .kernel = "sum of heads",
            .why = "",
            .inputs = inputs,
            .outputs = outputs,
            .bytes = 4 * (inputs + outputs),
            .flops_per_row = inputs + 2 * outputs,
            .dense_flops_per_row = dense_flops_};
  }
  void apply(const LinearArgs& args, const Team::Member& member) const override {
    const Range rows = member.slice(args.rows);
    add(args, rows.begin, rows.end);
  }
  void apply_alone(const LinearArgs& args) const override { add(args, 0, args.rows); }

 private:
  void add(const LinearArgs& args, int64_t begin, int64_t end) const {
    const size_t outputs = bias_.size(), features = features_.size();
    for (int64_t r = begin; r < end; ++r) {
      const float* x = args.x + r * args.x_stride;
      float* y = args.y + r * args.y_stride;
      if (args.residual != nullptr) {
        const float* residual = args.residual + r * args.residual_stride;
        for (size_t i = 0; i < outputs; ++i) y[i] = residual[i] + bias_[i];
      } else {
        std::copy(bias_.begin(), bias_.end(), y);
      }
      if (features == outputs) {
        for (size_t i = 0; i < outputs; ++i) y[i] += x[i];
      } else {
        for (size_t k = 0; k < features; ++k) y[features_[k]] += x[k];
      }
    }
  }

  std::vector<int32_t> features_;
  std::vector<float> bias_;
  int64_t dense_flops_;
};

// A dense f32 matrix of its own, row-major by outputs.
struct Matrix {
  std::vector<float> values;
  int64_t outputs = 0;
  int64_t inputs = 0;

  float* row(int64_t output) { return values.data() + output * inputs; }
  const float* row(int64_t output) const { return values.data() + output * inputs; }
  DenseView view() const { return {values.data(), DType::kF32, outputs, inputs}; }
};

Matrix make_matrix(int64_t outputs, int64_t inputs) {
  return {std::vector<float>(static_cast<size_t>(outputs * inputs)), outputs, inputs};
}

Matrix to_f32(const DenseView& view, Team& team) {
  Matrix matrix = make_matrix(view.outputs(), view.inputs());
  const auto row_bytes = view.cols * static_cast<int64_t>(size_bytes(view.dtype));
  team.parallel_for(view.rows, 16, [&](Range part) {
    std::vector<float> line(static_cast<size_t>(view.cols));
    for (int64_t r = part.begin; r < part.end; ++r) {
      const void* source = static_cast<const char*>(view.data) + r * row_bytes;
      if (view.order == MatrixOrder::kOutputRows) {
        convert_to_f32(source, view.dtype, view.cols, matrix.row(r));
      } else {
        convert_to_f32(source, view.dtype, view.cols, line.data());
        for (int64_t c = 0; c < view.cols; ++c) matrix.row(c)[r] = line[static_cast<size_t>(c)];
      }
    }
  });
  return matrix;
}

Matrix to_f32(const StoredMatrix& stored, Team& team) {
  if (const auto view = as<DenseView>(stored)) return to_f32(*view, team);
  std::vector<char> whole(static_cast<size_t>(dense_bytes(stored)));
  to_dense(stored, whole.data());
  const bool output_rows = order(stored) == MatrixOrder::kOutputRows;
  return to_f32(
      DenseView{whole.data(), dtype(stored), output_rows ? outputs(stored) : inputs(stored),
                output_rows ? inputs(stored) : outputs(stored), order(stored)},
      team);
}

Matrix to_f32(const MatrixStack& stack, Team& team) {
  Matrix all{.inputs = inputs(stack.front())};
  for (const StoredMatrix& stored : stack) {
    const Matrix part = to_f32(stored, team);
    all.values.insert(all.values.end(), part.values.begin(), part.values.end());
    all.outputs += part.outputs;
  }
  return all;
}

int64_t flops_of(const MatrixStack& stack) {
  int64_t flops = 0;
  for (const StoredMatrix& stored : stack) flops += flops_per_row(stored);
  return flops;
}

DenseView output_rows(const DenseView& view, int64_t begin, int64_t end) {
  const auto row_bytes = view.cols * static_cast<int64_t>(size_bytes(view.dtype));
  return {static_cast<const char*>(view.data) + begin * row_bytes, view.dtype, end - begin,
          view.cols};
}

class Preparation {
 public:
  Preparation(const StoredAttention& stored, const AttentionRequest& request)
      : stored_(stored),
        request_(request),
        layer_(request.architecture->layer(request.layer)),
        hidden_size_(request.architecture->hidden_size),
        team_(*request.team),
        group_(layer_.query_heads / layer_.kv_heads) {}

  Result<PreparedAttention> run() {
    find_values();
    choose();
    if (prepared_.vo.method == VoMethod::kPrecomputed) {
      TESSERA_RETURN_IF_ERROR(fold());
    } else if (!kept_values_.empty()) {
      TESSERA_RETURN_IF_ERROR(compact_values());
    } else {
      TESSERA_RETURN_IF_ERROR(keep());
    }
    return std::move(prepared_);
  }

 private:
  int64_t dense_output_flops() const { return int64_t{2} * layer_.query_width() * hidden_size_; }
  int64_t dense_qkv_flops() const {
    return int64_t{2} * (layer_.query_width() + 2 * layer_.kv_width()) * hidden_size_;
  }

  // Cuts the stack where the values begin, if it can be cut there without a copy, and looks for
  // values that can be compact.
  void find_values() {
    const int64_t begin = layer_.query_width() + layer_.kv_width();
    int64_t at = 0;
    for (const StoredMatrix& part : stored_.qkv) {
      const int64_t end = at + outputs(part);
      const auto view = as<DenseView>(part);
      if (end <= begin) {
        query_key_.push_back(part);
      } else if (at >= begin) {
        value_.push_back(part);
      } else if (view.has_value() && view->order == MatrixOrder::kOutputRows) {
        query_key_.push_back(output_rows(*view, 0, begin - at));
        value_.push_back(output_rows(*view, begin - at, end - at));
      } else {
        uncut_ = true;
      }
      at = end;
    }
    const auto output = as<CompactMatrix>(stored_.output.front());
    if (stored_.output.size() == 1 && output.has_value() && output->axis == KeptAxis::kOutputs)
      compact_output_ = output;
    if (!uncut_) find_kept_values();
  }

  // Which values are kept, where they are equally many of each KV head and the output matrix can be
  // had over these alone.
  void find_kept_values() {
    if (value_.size() != 1 || stored_.output.size() != 1) return;
    const auto value = as<CompactMatrix>(value_.front());
    if (!value.has_value() || value->axis != KeptAxis::kOutputs) return;
    const int64_t kept = value->kept.outputs();
    if (kept == 0 || kept % layer_.kv_heads != 0 || biases_leave()) return;
    const int64_t size = kept / layer_.kv_heads;
    for (int64_t i = 0; i < kept; ++i) {
      if (value->index[i] / layer_.head_size != i / size) return;
    }
    std::vector<int32_t> inputs;
    for (int32_t h = 0; h < layer_.query_heads; ++h) {
      const int32_t g = h / group_;
      for (int64_t i = g * size; i < (g + 1) * size; ++i)
        inputs.push_back((h - g) * layer_.head_size + value->index[i]);
    }
    const StoredMatrix& output = stored_.output.front();
    const auto compact = as<CompactMatrix>(output);
    const bool same = compact.has_value() && compact->axis == KeptAxis::kInputs &&
                      std::equal(inputs.begin(), inputs.end(), compact->index,
                                 compact->index + compact->kept.inputs());
    if (!same && !is<DenseView>(output)) return;
    compact_value_ = value;
    kept_values_ = std::move(inputs);
    value_size_ = size;
  }

  int64_t features() const {
    return compact_output_.has_value() ? compact_output_->kept.outputs() : hidden_size_;
  }

  void choose() {
    int64_t flops =
        value_.empty() ? int64_t{2} * layer_.kv_width() * hidden_size_ : flops_of(value_);
    // A compact value matrix makes a dense output matrix smaller.
    int64_t output_flops = flops_of(stored_.output);
    if (!kept_values_.empty()) {
      output_flops = std::min<int64_t>(
          output_flops, int64_t{2} * layer_.query_heads * value_size_ * hidden_size_);
    }
    flops += output_flops;
    prepared_.vo =
        choose_vo(request_.vo, {.tokens = request_.expected_tokens,
                                .query_heads = layer_.query_heads,
                                .kv_heads = layer_.kv_heads,
                                .hidden_size = hidden_size_,
                                .value_size = kept_values_.empty() ? layer_.head_size : value_size_,
                                .features = features(),
                                .two_step_flops = static_cast<double>(flops),
                                .weights = request_.weights,
                                .mask = request_.architecture->mask});
    if (prepared_.vo.method == VoMethod::kTwoStep && !kept_values_.empty()) {
      prepared_.vo.why +=
          fmt::format("; {} of {} values a head kept", value_size_, layer_.head_size);
    }
  }

  Status keep() {
    TESSERA_ASSIGN_OR_RETURN(prepared_.qkv, request_.prepare(stored_.qkv, stored_.qkv_bias));
    TESSERA_ASSIGN_OR_RETURN(prepared_.output,
                             request_.prepare(stored_.output, stored_.output_bias));
    prepared_.values = {.heads = layer_.kv_heads, .size = layer_.head_size};
    return {};
  }

  // Whether what biases of values add leaves with their heads.
  bool biases_leave() const {
    return request_.value_bias == ValueBias::kWithValues && !stored_.qkv_bias.empty();
  }

  float value_bias(int64_t value) const {
    return stored_.qkv_bias.empty() ? 0
                                    : stored_.qkv_bias[static_cast<size_t>(
                                          layer_.query_width() + layer_.kv_width() + value)];
  }

  // Bias of the projection: queries, keys, then `values`.
  std::vector<float> projection_bias(const std::vector<float>& values) const {
    if (stored_.qkv_bias.empty()) return {};
    const auto begin = stored_.qkv_bias.begin();
    std::vector<float> bias(begin, begin + layer_.query_width() + layer_.kv_width());
    bias.insert(bias.end(), values.begin(), values.end());
    return bias;
  }

  // b_O + sum over the given inputs of W_O b_V: what biases of values come to at an output.
  template <typename Row>
  float output_bias(int64_t output, const Row* row, const std::vector<int32_t>& of_inputs) const {
    double sum = stored_.output_bias.empty() ? 0 : stored_.output_bias[static_cast<size_t>(output)];
    for (const int32_t input : of_inputs) {
      const int32_t h = input / layer_.head_size;
      sum +=
          static_cast<double>(row[input]) * value_bias(input - (h - h / group_) * layer_.head_size);
    }
    return static_cast<float>(sum);
  }

  Status compact_values() {
    MatrixStack qkv = query_key_;
    qkv.push_back(compact_value_->kept);
    std::vector<float> kept_bias;
    for (int64_t i = 0; i < compact_value_->kept.outputs(); ++i)
      kept_bias.push_back(value_bias(compact_value_->index[i]));
    TESSERA_ASSIGN_OR_RETURN(auto projection, request_.prepare(qkv, projection_bias(kept_bias)));
    std::unique_ptr<Linear> output;
    if (const auto compact = as<CompactMatrix>(stored_.output.front())) {
      TESSERA_ASSIGN_OR_RETURN(output, request_.prepare({compact->kept}, stored_.output_bias));
    } else {
      TESSERA_ASSIGN_OR_RETURN(output, output_over_kept_values());
    }
    prepared_.qkv = std::make_unique<StandIn>(std::move(projection), dense_qkv_flops());
    prepared_.output = std::make_unique<StandIn>(std::move(output), dense_output_flops());
    prepared_.values = {.heads = layer_.kv_heads, .size = static_cast<int32_t>(value_size_)};
    return {};
  }

  // For a dense output matrix.
  Result<std::unique_ptr<Linear>> output_over_kept_values() {
    const Matrix whole = to_f32(stored_.output.front(), team_);
    std::vector<int32_t> gone;
    for (int32_t input = 0; input < layer_.query_width(); ++input) {
      if (!std::binary_search(kept_values_.begin(), kept_values_.end(), input))
        gone.push_back(input);
    }
    Matrix kept = make_matrix(whole.outputs, static_cast<int64_t>(kept_values_.size()));
    std::vector<float> bias;
    for (int64_t o = 0; o < whole.outputs; ++o) {
      for (size_t i = 0; i < kept_values_.size(); ++i)
        kept.row(o)[i] = whole.row(o)[kept_values_[i]];
      bias.push_back(output_bias(o, whole.row(o), gone));
    }
    if (stored_.output_bias.empty() && stored_.qkv_bias.empty()) bias.clear();
    return request_.prepare({kept.view()}, bias);
  }

  // The output matrix, of the kept features alone.
  Matrix output_features(std::vector<int32_t>& features) const {
    if (!compact_output_.has_value()) {
      features.resize(static_cast<size_t>(hidden_size_));
      std::iota(features.begin(), features.end(), 0);
      return to_f32(stored_.output, team_);
    }
    features.assign(compact_output_->index,
                    compact_output_->index + compact_output_->kept.outputs());
    if (!features.empty()) return to_f32(compact_output_->kept, team_);
    // Attention wants one feature at least: one that adds nothing.
    features = {0};
    return make_matrix(1, layer_.query_width());
  }

  Status fold() {
    Matrix cut_query_key, value;
    if (uncut_) {
      value = to_f32(stored_.qkv, team_);
      const auto split = (layer_.query_width() + layer_.kv_width()) * value.inputs;
      cut_query_key.values.assign(value.values.begin(), value.values.begin() + split);
      cut_query_key.outputs = layer_.query_width() + layer_.kv_width();
      cut_query_key.inputs = value.inputs;
      query_key_ = {cut_query_key.view()};
      value.values.erase(value.values.begin(), value.values.begin() + split);
      value.outputs = layer_.kv_width();
    } else {
      value = to_f32(value_, team_);
    }
    std::vector<int32_t> features;
    const Matrix output = output_features(features);
    TESSERA_ASSIGN_OR_RETURN(const Matrix product, multiply_heads(output, value));
    MatrixStack stack = query_key_;
    stack.push_back(product.view());
    std::vector<float> of_values(static_cast<size_t>(product.outputs));
    if (biases_leave()) of_values = head_biases(output);
    TESSERA_ASSIGN_OR_RETURN(auto projection, request_.prepare(stack, projection_bias(of_values)));
    prepared_.qkv = std::make_unique<StandIn>(std::move(projection), dense_qkv_flops());
    std::vector<float> bias = stored_.output_bias;
    bias.resize(static_cast<size_t>(hidden_size_));
    std::vector<int32_t> every_input(static_cast<size_t>(layer_.query_width()));
    std::iota(every_input.begin(), every_input.end(), 0);
    for (size_t k = 0; k < features.size() && !biases_leave(); ++k) {
      bias[static_cast<size_t>(features[k])] =
          output_bias(features[k], output.row(static_cast<int64_t>(k)), every_input);
    }
    prepared_.values = {.outputs = HeadOutputs::kSummed,
                        .heads = layer_.query_heads,
                        .size = static_cast<int32_t>(features.size())};
    prepared_.output =
        std::make_unique<AddFeatures>(std::move(features), std::move(bias), dense_output_flops());
    return {};
  }

  // W_O,h b_V,g: [query heads x features].
  std::vector<float> head_biases(const Matrix& output) const {
    std::vector<float> biases;
    for (int32_t h = 0; h < layer_.query_heads; ++h) {
      for (int64_t k = 0; k < output.outputs; ++k) {
        const float* row = output.row(k) + int64_t{h} * layer_.head_size;
        double sum = 0;
        for (int32_t i = 0; i < layer_.head_size; ++i)
          sum += static_cast<double>(row[i]) * value_bias(h / group_ * layer_.head_size + i);
        biases.push_back(static_cast<float>(sum));
      }
    }
    return biases;
  }

  // M: [query heads x features, hidden size]. Members take whole heads, so that the bits do not
  // depend on their number.
  Result<Matrix> multiply_heads(const Matrix& output, const Matrix& value) const {
    const int64_t features = output.outputs, size = layer_.head_size;
    std::vector<std::unique_ptr<Linear>> maps;
    for (int32_t g = 0; g < layer_.kv_heads; ++g) {
      const DenseView head{value.row(g * size), DType::kF32, size, value.inputs,
                           MatrixOrder::kInputRows};
      TESSERA_ASSIGN_OR_RETURN(auto map, prepare_dense({head}, nullptr, Precision::kF32, team_));
      maps.push_back(std::move(map));
    }
    const int64_t scratch_bytes = (maps.front()->scratch_bytes(features) + 63) / 64 * 64;
    const Buffer scratch =
        host_device().allocate(static_cast<size_t>(std::max<int64_t>(scratch_bytes, 64)) *
                               static_cast<size_t>(team_.size()));
    if (scratch.empty()) return out_of_memory("Multiplying O by V ran out of memory.");
    Matrix product = make_matrix(layer_.query_heads * features, value.inputs);
    team_.run([&](Team::Member& member) {
      const Range heads = member.slice(layer_.query_heads);
      for (int64_t h = heads.begin; h < heads.end; ++h) {
        maps[static_cast<size_t>(h / group_)]->apply_alone(
            {.x = output.values.data() + h * size,
             .x_stride = output.inputs,
             .rows = features,
             .y = product.row(h * features),
             .y_stride = product.inputs,
             .scratch = scratch.as<char>() + member.rank() * scratch_bytes});
      }
    });
    for (const float v : product.values) {
      if (!std::isfinite(v))
        return invalid_input("the product of the output and value matrices is not finite");
    }
    return product;
  }

  const StoredAttention& stored_;
  const AttentionRequest& request_;
  const LayerRecord& layer_;
  int32_t hidden_size_;
  Team& team_;
  int32_t group_;
  PreparedAttention prepared_;
  MatrixStack query_key_, value_;
  bool uncut_ = false;  // queries, keys and values are one matrix that only a copy can cut
  std::optional<CompactMatrix> compact_output_;
  // Where values can be compact: the matrix, the kept values of each head, and the inputs of the
  // output matrix that read them.
  std::optional<CompactMatrix> compact_value_;
  int64_t value_size_ = 0;
  std::vector<int32_t> kept_values_;
};

}  // namespace

Result<PreparedAttention> prepare_attention(const StoredAttention& stored,
                                            const AttentionRequest& request) {
  try {
    return Preparation(stored, request).run();
  } catch (const std::bad_alloc&) {
    return out_of_memory("Preparing a layer's attention ran out of memory.");
  }
}

}  // namespace tessera
