#pragma once

#include <cstdint>
#include <string>

#include "model/architecture.h"

// What the family files share: readers of config keys that mean the same everywhere. A family is
// one file here with its readers, and one row per model_type in table.inc.
namespace tessera {

constexpr int64_t kMostUnits = int64_t{1} << 24;  // widths, vocabularies, positions
constexpr int64_t kMostLayers = 4096;

// Reads an integer from 1 to kMostUnits into target.
Status read_size(const Config& config, std::string_view key, int32_t& target);
Status read_activation(const Config& config, std::string_view key, std::string_view fallback,
                       Activation& target);
// As many layers, all like `layer`.
Status read_layers(const Config& config, std::string_view key, const LayerRecord& layer,
                   Architecture& architecture);
Status read_eps(const Config& config, std::string_view key, double fallback, float& target);
// Heads whose size is hidden_size / heads, which must divide.
Status read_heads(const Config& config, std::string_view heads_key, int32_t hidden_size,
                  LayerRecord& layer);
struct RotaryDefaults {
  double theta = 10000;
  // Whether the family rotates the first elements of a head alone, as partial_rotary_factor says,
  // or whole ones, in which case another share is refused.
  enum class Rotates { kWholeHeads, kShareOfHeads } rotates = Rotates::kWholeHeads;
};
// rope_parameters, or the older rope_theta and rope_scaling: default, linear, llama3.
Result<Rotary> read_rotary(const Config& config, const RotaryDefaults& defaults, int32_t head_size);
// Refuses a setting that changes the model and that Tessera cannot run: the key, if present, must
// hold `expected`.
Status require_truth(const Config& config, std::string_view key, Config::Truth expected,
                     Config::Truth fallback);

struct DecoderHead {
  Config::Truth tied_by_default = Config::Truth::kNo;
  std::string token_classifier;
};
// Names a decoder's head: logits from lm_head.weight or tied, one label a sequence from
// score.weight, one a token.
Status name_decoder_head(const Config& config, const DecoderHead& defaults,
                         Architecture& architecture);
// Whether config ties the head's output to the token embedding.
Status read_tying(const Config& config, Config::Truth tied_by_default, HeadNames& head);

LinearNames linear_names(const std::string& base, MatrixOrder order = MatrixOrder::kOutputRows);
LinearNames linear_names_without_bias(const std::string& base);
NormNames norm_names(const std::string& base);

#define TESSERA_FAMILY(model_type, read) \
  Status read(const Config& config, Architecture& architecture);
#include "model/families/table.inc"
#undef TESSERA_FAMILY

}  // namespace tessera
