#include <fmt/format.h>

#include <cmath>
#include <numbers>

#include "model/families/families.h"

namespace tessera {
namespace {

struct NamedActivation {
  std::string_view name;
  Activation activation;
};
constexpr NamedActivation kActivations[] = {
    {"gelu", Activation::kGeluErf},
    {"gelu_python", Activation::kGeluErf},
    {"gelu_new", Activation::kGeluTanh},
    {"gelu_fast", Activation::kGeluTanh},
    {"gelu_pytorch_tanh", Activation::kGeluTanh},
    {"silu", Activation::kSilu},
    {"swish", Activation::kSilu},
    {"relu", Activation::kRelu},
    {"tanh", Activation::kTanh},
};

// Llama 3's rule: long wavelengths are stretched by factor, short ones stay, those between are
// blended.
Status scale_as_llama3(const Config& rope, std::vector<float>& frequencies) {
  TESSERA_ASSIGN_OR_RETURN(const double factor, rope.number_or("factor", 8));
  TESSERA_ASSIGN_OR_RETURN(const double low, rope.number_or("low_freq_factor", 1));
  TESSERA_ASSIGN_OR_RETURN(const double high, rope.number_or("high_freq_factor", 4));
  TESSERA_ASSIGN_OR_RETURN(const int64_t original,
                           rope.integer("original_max_position_embeddings", 1, kMostUnits));
  if (factor <= 0 || low <= 0 || high <= low) {
    return invalid_input(fmt::format(
        "{}: expected factor > 0 and 0 < low_freq_factor < high_freq_factor, found {}, {} and {}",
        rope.source(), factor, low, high));
  }
  for (float& frequency : frequencies) {
    const double wavelength = 2 * std::numbers::pi / frequency;
    const double turns = static_cast<double>(original) / wavelength;
    if (turns < low) {
      frequency = static_cast<float>(frequency / factor);
    } else if (turns <= high) {
      const double smooth = (turns - low) / (high - low);
      frequency = static_cast<float>((1 - smooth) * frequency / factor + smooth * frequency);
    }
  }
  return {};
}

Status keep(const Config&, std::vector<float>&) { return {}; }

Status scale_linearly(const Config& rope, std::vector<float>& frequencies) {
  TESSERA_ASSIGN_OR_RETURN(const double factor, rope.number_or("factor", 1));
  if (factor <= 0) {
    return invalid_input(
        fmt::format("{}: factor: expected a number > 0, found {}", rope.source(), factor));
  }
  for (float& frequency : frequencies) frequency = static_cast<float>(frequency / factor);
  return {};
}

struct RotaryScaling {
  std::string_view type;
  Status (*scale)(const Config& rope, std::vector<float>& frequencies);
};
constexpr RotaryScaling kRotaryScalings[] = {
    {"default", keep}, {"linear", scale_linearly}, {"llama3", scale_as_llama3}};

// The names of a table's rows, for messages.
template <typename Table, typename Name>
std::string names_of(const Table& table, Name name) {
  std::string names;
  for (const auto& row : table) names += fmt::format("{}{}", names.empty() ? "" : ", ", row.*name);
  return names;
}

Status scale_rotary(const Config& rope, std::vector<float>& frequencies) {
  TESSERA_ASSIGN_OR_RETURN(const std::string old_type, rope.string_or("type", "default"));
  TESSERA_ASSIGN_OR_RETURN(const std::string type, rope.string_or("rope_type", old_type));
  for (const RotaryScaling& row : kRotaryScalings) {
    if (row.type == type) return row.scale(rope, frequencies);
  }
  return unsupported(fmt::format("{}: rope_type: expected one of {}, found \"{}\"", rope.source(),
                                 names_of(kRotaryScalings, &RotaryScaling::type), type));
}

}  // namespace

Status read_size(const Config& config, std::string_view key, int32_t& target) {
  TESSERA_ASSIGN_OR_RETURN(const int64_t value, config.integer(key, 1, kMostUnits));
  target = static_cast<int32_t>(value);
  return {};
}

Status read_layers(const Config& config, std::string_view key, const LayerRecord& layer,
                   Architecture& architecture) {
  TESSERA_ASSIGN_OR_RETURN(const int64_t layers, config.integer(key, 1, kMostLayers));
  architecture.layers.assign(static_cast<size_t>(layers), layer);
  return {};
}

Status read_activation(const Config& config, std::string_view key, std::string_view fallback,
                       Activation& target) {
  TESSERA_ASSIGN_OR_RETURN(const std::string name, config.string_or(key, fallback));
  for (const NamedActivation& row : kActivations) {
    if (row.name != name) continue;
    target = row.activation;
    return {};
  }
  return unsupported(fmt::format("{}: {}: expected one of {}, found \"{}\"", config.source(), key,
                                 names_of(kActivations, &NamedActivation::name), name));
}

Status read_eps(const Config& config, std::string_view key, double fallback, float& target) {
  TESSERA_ASSIGN_OR_RETURN(const double eps, config.number_or(key, fallback));
  if (!(eps >= 0 && eps < 1)) {
    return invalid_input(
        fmt::format("{}: {}: expected a number in [0, 1), found {}", config.source(), key, eps));
  }
  target = static_cast<float>(eps);
  return {};
}

Status read_heads(const Config& config, std::string_view heads_key, int32_t hidden_size,
                  LayerRecord& layer) {
  TESSERA_RETURN_IF_ERROR(read_size(config, heads_key, layer.query_heads));
  layer.kv_heads = layer.query_heads;
  if (hidden_size % layer.query_heads != 0) {
    return invalid_input(fmt::format("{}: expected a hidden size that {} heads divide, found {}",
                                     config.source(), layer.query_heads, hidden_size));
  }
  layer.head_size = hidden_size / layer.query_heads;
  return {};
}

Result<Rotary> read_rotary(const Config& config, const RotaryDefaults& defaults,
                           int32_t head_size) {
  const std::string_view key = config.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  TESSERA_ASSIGN_OR_RETURN(const Config rope, config.child(key));
  TESSERA_ASSIGN_OR_RETURN(const double outer_theta,
                           config.number_or("rope_theta", defaults.theta));
  TESSERA_ASSIGN_OR_RETURN(const double theta, rope.number_or("rope_theta", outer_theta));
  TESSERA_ASSIGN_OR_RETURN(const double outer_share, config.number_or("partial_rotary_factor", 1));
  TESSERA_ASSIGN_OR_RETURN(const double share,
                           rope.number_or("partial_rotary_factor", outer_share));
  if (theta <= 0) {
    return invalid_input(
        fmt::format("{}: rope_theta: expected a number > 0, found {}", config.source(), theta));
  }
  const bool whole = defaults.rotates == RotaryDefaults::Rotates::kWholeHeads;
  if (whole && share != 1) {
    return unsupported(
        fmt::format("{}: partial_rotary_factor: expected 1, found {}", config.source(), share));
  }
  if (!(share > 0 && share <= 1)) {
    return invalid_input(
        fmt::format("{}: partial_rotary_factor: expected a number > 0 and at most 1, found {}",
                    config.source(), share));
  }
  const auto rotated = static_cast<int32_t>(head_size * share);
  if (rotated % 2 != 0 || rotated == 0) {
    return invalid_input(
        fmt::format("{}: expected an even number of elements of a head to rotate, found {} of {}",
                    config.source(), rotated, head_size));
  }
  Rotary rotary;
  for (int32_t j = 0; j < rotated / 2; ++j)
    rotary.inverse_frequencies.push_back(static_cast<float>(std::pow(theta, -2.0 * j / rotated)));
  TESSERA_RETURN_IF_ERROR(scale_rotary(rope, rotary.inverse_frequencies));
  return rotary;
}

Status require_truth(const Config& config, std::string_view key, Config::Truth expected,
                     Config::Truth fallback) {
  TESSERA_ASSIGN_OR_RETURN(const Config::Truth found, config.truth_or(key, fallback));
  if (found == expected) return {};
  const std::string_view wanted = expected == Config::Truth::kYes ? "true" : "false";
  return unsupported(fmt::format("{}: {}: expected {}, the only form that Tessera runs",
                                 config.source(), key, wanted));
}

Status read_tying(const Config& config, Config::Truth tied_by_default, HeadNames& head) {
  TESSERA_ASSIGN_OR_RETURN(const Config::Truth tied,
                           config.truth_or("tie_word_embeddings", tied_by_default));
  head.tying = tied == Config::Truth::kYes ? Tying::kTokenEmbedding : Tying::kOwn;
  return {};
}

Status name_decoder_head(const Config& config, const DecoderHead& defaults,
                         Architecture& architecture) {
  HeadNames& head = architecture.names.head;
  switch (architecture.head) {
    case Head::kNone:
      return {};
    case Head::kCausalLm:
      head.output = linear_names_without_bias("/lm_head");
      return read_tying(config, defaults.tied_by_default, head);
    case Head::kSequenceClassification: {
      head.reads = HeadReads::kLastToken;
      head.output = linear_names_without_bias("/score");
      TESSERA_ASSIGN_OR_RETURN(const int64_t padding,
                               config.integer_or("pad_token_id", -1, -1, kMostUnits));
      architecture.head_padding_id = static_cast<int32_t>(padding);
      return {};
    }
    case Head::kTokenClassification:
      head.output = linear_names(defaults.token_classifier);
      return {};
    default:
      return unsupported(fmt::format("{}: Tessera has no such head for {}: {}", config.source(),
                                     architecture.family, architecture.class_name));
  }
}

LinearNames linear_names(const std::string& base, MatrixOrder order) {
  return {{base + ".weight"}, {base + ".bias"}, order};
}
LinearNames linear_names_without_bias(const std::string& base) { return {{base + ".weight"}, {}}; }
NormNames norm_names(const std::string& base) { return {base + ".weight", base + ".bias"}; }

}  // namespace tessera
