#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

#include "model/families/families.h"
#include "model/rotary_frequencies.h"

// The kinds of rotary positions as transformers 5.24 has them in modeling_rope_utils.py.
namespace tessera {
namespace {

// The settings of a configuration, brought together from where they may stand.
struct Rope {
  Config settings = {};
  double theta = 0;
  double share = 1;  // of a head's elements
  int32_t head_size = 0;
  int32_t rotated = 0;  // floor(head_size * share), which may be odd; d in the formulas
  int32_t max_positions = 0;
  double original_positions = 0;
  std::vector<float> powers = {};  // of theta, a pair each; 1 / frequency before it is scaled
};

Status out_of_range(const Config& config, std::string_view key, std::string_view expected,
                    double found) {
  return invalid_input(
      fmt::format("{}: {}: expected {}, found {}", config.source(), key, expected, found));
}

Result<double> positive(const Config& config, std::string_view key) {
  TESSERA_ASSIGN_OR_RETURN(const double found, config.number(key));
  if (found > 0) return found;
  return out_of_range(config, key, "a number > 0", found);
}

// Where null and 0 mean the same as an absent key.
Result<double> positive_or(const Config& config, std::string_view key, double fallback) {
  TESSERA_ASSIGN_OR_RETURN(const double found, config.number_or(key, 0));
  return found == 0 ? fallback : positive(config, key);
}

Status keep(const Rope&, RotaryReading&) { return {}; }

int32_t stretched_context(double positions, double factor) {
  return static_cast<int32_t>(std::min(positions * factor, double{kMostUnits}));
}

Status scale_linearly(const Rope& rope, RotaryReading& reading) {
  TESSERA_ASSIGN_OR_RETURN(const double factor, positive(rope.settings, "factor"));
  for (float& frequency : reading.rotary.inverse_frequencies)
    frequency /= static_cast<float>(factor);
  reading.max_positions =
      std::max(rope.max_positions, stretched_context(rope.max_positions, factor));
  reading.rotary.description += fmt::format(", linear by {}", factor);
  return {};
}

Status scale_dynamically(const Rope& rope, RotaryReading& reading) {
  TESSERA_ASSIGN_OR_RETURN(const double factor, positive(rope.settings, "factor"));
  if (rope.rotated == 2) {
    return invalid_input(fmt::format("{}: expected more than 2 elements of a head to rotate",
                                     rope.settings.source()));
  }
  reading.rotary.longer = {.usual_tokens = rope.max_positions,
                           .inverse_frequencies = {},
                           .theta = rope.theta,
                           .factor = factor,
                           .rotated = rope.rotated};
  reading.max_positions =
      std::max(rope.max_positions, stretched_context(rope.max_positions, factor));
  reading.rotary.description +=
      fmt::format(", dynamic by {} beyond {} tokens", factor, rope.max_positions);
  return {};
}

// Llama 3's rule: long wavelengths are stretched by factor, short ones stay, those between are
// blended.
Status scale_as_llama3(const Rope& rope, RotaryReading& reading) {
  TESSERA_ASSIGN_OR_RETURN(const double factor, positive(rope.settings, "factor"));
  TESSERA_ASSIGN_OR_RETURN(const double low, positive(rope.settings, "low_freq_factor"));
  TESSERA_ASSIGN_OR_RETURN(const double high, positive(rope.settings, "high_freq_factor"));
  if (high <= low)
    return out_of_range(rope.settings, "high_freq_factor",
                        fmt::format("more than low_freq_factor, {}", low), high);
  const auto original = static_cast<float>(rope.original_positions);
  const auto longest = static_cast<float>(rope.original_positions / low),
             shortest = static_cast<float>(rope.original_positions / high);
  for (float& frequency : reading.rotary.inverse_frequencies) {
    const float wavelength = static_cast<float>(2 * std::numbers::pi) / frequency;
    const float stretched = frequency / static_cast<float>(factor);
    if (wavelength > longest) {
      frequency = stretched;
    } else if (wavelength >= shortest) {
      const float smooth =
          (original / wavelength - static_cast<float>(low)) / static_cast<float>(high - low);
      frequency = (1 - smooth) * frequency / static_cast<float>(factor) + smooth * frequency;
    }
  }
  reading.rotary.description +=
      fmt::format(", llama3 by {} from {} tokens", factor, rope.original_positions);
  return {};
}

double yarn_scale(double factor, double weight) {
  return factor <= 1 ? 1 : 0.1 * weight * std::log(factor) + 1;
}

Result<double> yarn_attention_factor(const Config& settings, double factor) {
  if (settings.has("attention_factor")) return settings.number("attention_factor");
  TESSERA_ASSIGN_OR_RETURN(const double numerator, settings.number_or("mscale", 0));
  TESSERA_ASSIGN_OR_RETURN(const double denominator, settings.number_or("mscale_all_dim", 0));
  if (numerator == 0 || denominator == 0) return yarn_scale(factor, 1);
  return yarn_scale(factor, numerator) / yarn_scale(factor, denominator);
}

// A factor that follows from the two contexts where it is null.
Result<double> factor_or_ratio(const Rope& rope) {
  if (rope.settings.has("factor")) return positive(rope.settings, "factor");
  return rope.max_positions / rope.original_positions;
}

// Which pair turns so many times within the original context.
double pair_of_turns(const Rope& rope, double turns) {
  return rope.rotated * std::log(rope.original_positions / (turns * 2 * std::numbers::pi)) /
         (2 * std::log(rope.theta));
}

// YaRN (Peng et al. 2023): pairs that turn more than beta_fast times within the original context
// stay, those that turn less than beta_slow times are stretched by factor, those between are
// blended.
Status scale_as_yarn(const Rope& rope, RotaryReading& reading) {
  const Config& settings = rope.settings;
  if (!settings.contains("factor")) return settings.number("factor").status();
  TESSERA_ASSIGN_OR_RETURN(const double factor, factor_or_ratio(rope));
  TESSERA_ASSIGN_OR_RETURN(const double attention, yarn_attention_factor(settings, factor));
  TESSERA_ASSIGN_OR_RETURN(const double fast, positive_or(settings, "beta_fast", 32));
  TESSERA_ASSIGN_OR_RETURN(const double slow, positive_or(settings, "beta_slow", 1));
  const auto absent = settings.contains("truncate") ? Config::Truth::kNo : Config::Truth::kYes;
  TESSERA_ASSIGN_OR_RETURN(const Config::Truth truncate, settings.truth_or("truncate", absent));
  if (rope.rotated % 2 != 0) {
    return invalid_input(fmt::format("{}: expected an even number of elements to rotate, found {}",
                                     settings.source(), rope.rotated));
  }
  if (rope.theta == 1) return out_of_range(settings, "rope_theta", "a number other than 1", 1);
  double first = pair_of_turns(rope, fast), last = pair_of_turns(rope, slow);
  if (truncate == Config::Truth::kYes) first = std::floor(first), last = std::ceil(last);
  first = std::max(first, 0.0);
  last = std::min(last, rope.rotated - 1.0);
  if (first == last) last += 0.001;
  for (size_t j = 0; j < rope.powers.size(); ++j) {
    const float place =
        (static_cast<float>(j) - static_cast<float>(first)) / static_cast<float>(last - first);
    const float kept = 1 - std::clamp(place, 0.0f, 1.0f);
    const float stretched = 1 / (static_cast<float>(factor) * rope.powers[j]);
    reading.rotary.inverse_frequencies[j] = stretched * (1 - kept) + 1 / rope.powers[j] * kept;
  }
  reading.rotary.scale = static_cast<float>(attention);
  reading.max_positions =
      std::max(rope.max_positions, stretched_context(rope.original_positions, factor));
  reading.rotary.description +=
      fmt::format(", yarn by {} from {} tokens", factor, rope.original_positions);
  return {};
}

Result<std::vector<float>> divided(const Rope& rope, std::string_view key) {
  TESSERA_ASSIGN_OR_RETURN(const std::vector<double> factors, rope.settings.numbers(key));
  if (factors.size() != rope.powers.size()) {
    return invalid_input(fmt::format("{}: {}: expected {} numbers, one a pair, found {}",
                                     rope.settings.source(), key, rope.powers.size(),
                                     factors.size()));
  }
  std::vector<float> powers = rope.powers;
  for (size_t j = 0; j < factors.size(); ++j) {
    if (!(factors[j] > 0)) return out_of_range(rope.settings, key, "numbers > 0", factors[j]);
    powers[j] *= static_cast<float>(factors[j]);
  }
  return reciprocals(std::move(powers));
}

// The one that follows from the two contexts, where none is given.
Result<double> longrope_attention_factor(const Rope& rope) {
  if (rope.settings.has("attention_factor")) return rope.settings.number("attention_factor");
  TESSERA_ASSIGN_OR_RETURN(const double factor, factor_or_ratio(rope));
  if (factor <= 1) return 1.0;
  return std::sqrt(1 + std::log(factor) / std::log(rope.original_positions));
}

Status scale_as_longrope(const Rope& rope, RotaryReading& reading) {
  Rotary& rotary = reading.rotary;
  TESSERA_ASSIGN_OR_RETURN(rotary.longer.inverse_frequencies, divided(rope, "long_factor"));
  TESSERA_ASSIGN_OR_RETURN(rotary.inverse_frequencies, divided(rope, "short_factor"));
  TESSERA_ASSIGN_OR_RETURN(const double attention, longrope_attention_factor(rope));
  rotary.scale = static_cast<float>(attention);
  rotary.longer.usual_tokens = static_cast<int32_t>(rope.original_positions);
  rotary.description +=
      fmt::format(", longrope with its long factors beyond {} tokens", rotary.longer.usual_tokens);
  return {};
}

// The first pairs alone turn, at the frequencies of a whole head.
Status rotate_share(const Rope& rope, RotaryReading& reading) {
  double factor = 1;
  if (rope.settings.contains("factor")) {
    TESSERA_ASSIGN_OR_RETURN(factor, positive(rope.settings, "factor"));
  }
  const int32_t pairs = rope.head_size / 2;
  const auto turning = static_cast<int32_t>(std::floor(rope.share * rope.head_size / 2));
  std::vector<float>& frequencies = reading.rotary.inverse_frequencies;
  frequencies = reciprocals(powers_of_base(static_cast<float>(rope.theta), pairs, rope.head_size));
  for (int32_t j = 0; j < pairs; ++j) {
    float& frequency = frequencies[static_cast<size_t>(j)];
    frequency = j < turning ? frequency / static_cast<float>(factor) : 0;
  }
  reading.rotary.description += fmt::format(", proportional: {} of {} pairs", turning, pairs);
  return {};
}

struct RotaryKind {
  std::string_view name;
  Status (*scale)(const Rope& rope, RotaryReading& reading);
  // Whether it looks at the share of a head where the family rotates whole ones, and then rotates
  // floor(share * head size) elements, or makes something of the share itself.
  enum class Share { kIgnored, kCountsElements, kItsOwn } share = Share::kCountsElements;
  enum class Original { kUnread, kRead } original = Original::kUnread;
};
using Share = RotaryKind::Share;
using Original = RotaryKind::Original;
constexpr RotaryKind kDefault = {"default", keep, Share::kIgnored};
constexpr RotaryKind kRotaryKinds[] = {
    kDefault,
    {"linear", scale_linearly},
    {"dynamic", scale_dynamically},
    {"yarn", scale_as_yarn, Share::kCountsElements, Original::kRead},
    {"longrope", scale_as_longrope, Share::kCountsElements, Original::kRead},
    {"llama3", scale_as_llama3, Share::kCountsElements, Original::kRead},
    {"proportional", rotate_share, Share::kItsOwn},
};

Result<RotaryKind> read_kind(const Config& settings) {
  const std::string_view key = settings.contains("rope_type") ? "rope_type" : "type";
  if (!settings.contains(key)) return kDefault;
  TESSERA_ASSIGN_OR_RETURN(const std::string name, settings.string(key));
  std::string known;
  for (const RotaryKind& kind : kRotaryKinds) {
    if (kind.name == name) return kind;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", kind.name);
  }
  // Phi-3's files said so before transformers had the kind.
  const char* hint = name == "su" ? ", the older name of longrope: write that" : "";
  return unsupported(fmt::format("{}: {}: expected one of {}, found \"{}\"{}", settings.source(),
                                 key, known, name, hint));
}

// The newer key is only looked at where the older one says nothing.
Result<Config> read_settings(const Config& config, RotaryDefaults::Layers layers) {
  TESSERA_ASSIGN_OR_RETURN(Config settings, config.child("rope_scaling"));
  if (settings.keys().empty()) {
    TESSERA_ASSIGN_OR_RETURN(settings, config.child("rope_parameters"));
  }
  if (layers == RotaryDefaults::Layers::kAlike) return settings;
  for (const char* type : {"full_attention", "sliding_attention"}) {
    if (!settings.contains(type)) continue;
    return unsupported(fmt::format(
        "{}: expected the same settings for all layers, as this family has them, found some for {}",
        settings.source(), type));
  }
  return settings;
}

// The elements of a head that turn, as the kind and the family count them.
Status count_rotated(const Config& config, const RotaryDefaults& defaults, const RotaryKind& kind,
                     Rope& rope) {
  const bool whole = defaults.rotates == RotaryDefaults::Rotates::kWholeHeads;
  const bool ignored = whole && kind.share == Share::kIgnored;
  const Config& from = rope.settings.contains("partial_rotary_factor") ? rope.settings : config;
  if (!ignored && (&from == &rope.settings || config.has("partial_rotary_factor"))) {
    TESSERA_ASSIGN_OR_RETURN(rope.share, from.number("partial_rotary_factor"));
  }
  if (!(rope.share > 0 && rope.share <= 1)) {
    return out_of_range(from, "partial_rotary_factor", "a number > 0 and at most 1", rope.share);
  }
  const bool counts = kind.share == Share::kCountsElements || !whole;
  rope.rotated = counts ? static_cast<int32_t>(rope.head_size * rope.share) : rope.head_size;
  const bool odd = rope.head_size % 2 != 0 || (!whole && rope.rotated % 2 != 0);
  if (odd || rope.rotated == 0) {
    return invalid_input(
        fmt::format("{}: expected an even number of elements of a head to rotate, found {} of {}",
                    config.source(), rope.rotated, rope.head_size));
  }
  // transformers turns pairs of an odd number as if there were one more.
  if (whole && rope.rotated + rope.rotated % 2 != rope.head_size) {
    return unsupported(fmt::format(
        "{}: partial_rotary_factor: expected 1 for rotary positions of kind {} in a family that "
        "rotates whole heads, found {}",
        from.source(), kind.name, rope.share));
  }
  return {};
}

Status read_theta(const Config& config, Rope& rope) {
  const Config& from = rope.settings.contains("rope_theta") ? rope.settings : config;
  if (!from.contains("rope_theta")) return {};
  TESSERA_ASSIGN_OR_RETURN(rope.theta, positive(from, "rope_theta"));
  return {};
}

// The context before it was stretched; what stands beside the settings goes before what is in them.
Status read_original_positions(const Config& config, Rope& rope) {
  constexpr const char* kKey = "original_max_position_embeddings";
  const Config& from = config.contains(kKey) ? config : rope.settings;
  if (!from.contains(kKey)) return {};
  TESSERA_ASSIGN_OR_RETURN(const double found, from.number(kKey));
  if (!(found >= 1 && found <= double{kMostUnits}))
    return out_of_range(from, kKey, fmt::format("a number from 1 to {}", kMostUnits), found);
  rope.original_positions = found;
  return {};
}

Status check_finite(const Rope& rope, const Rotary& rotary) {
  std::vector<float> all = rotary.inverse_frequencies;
  const std::vector<float>& longer = rotary.longer.inverse_frequencies;
  all.insert(all.end(), longer.begin(), longer.end());
  all.push_back(rotary.scale);
  for (const float each : all) {
    if (std::isfinite(each)) continue;
    return invalid_input(fmt::format(
        "{}: expected settings that give finite frequencies and a finite scale, found {}",
        rope.settings.source(), each));
  }
  return {};
}

}  // namespace

Result<RotaryReading> read_rotary(const Config& config, const RotaryDefaults& defaults,
                                  const RotarySizes& sizes) {
  Rope rope{.theta = defaults.theta,
            .head_size = sizes.head_size,
            .max_positions = sizes.max_positions,
            .original_positions = static_cast<double>(sizes.max_positions)};
  TESSERA_ASSIGN_OR_RETURN(rope.settings, read_settings(config, defaults.layers));
  TESSERA_ASSIGN_OR_RETURN(const RotaryKind kind, read_kind(rope.settings));
  TESSERA_RETURN_IF_ERROR(read_theta(config, rope));
  TESSERA_RETURN_IF_ERROR(count_rotated(config, defaults, kind, rope));
  if (kind.original == Original::kRead)
    TESSERA_RETURN_IF_ERROR(read_original_positions(config, rope));
  RotaryReading reading{.rotary = {}, .max_positions = sizes.max_positions};
  Rotary& rotary = reading.rotary;
  rotary.description = fmt::format("rotary, theta {}", rope.theta);
  rope.powers =
      powers_of_base(static_cast<float>(rope.theta), (rope.rotated + 1) / 2, rope.rotated);
  rotary.inverse_frequencies = reciprocals(rope.powers);
  TESSERA_RETURN_IF_ERROR(kind.scale(rope, reading));
  TESSERA_RETURN_IF_ERROR(check_finite(rope, rotary));
  return reading;
}

}  // namespace tessera
