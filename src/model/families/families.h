#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

#include "model/architecture.h"

// What the family files share: readers of config keys that mean the same everywhere. A family is
// one file here with its readers, and one row per model_type in table.inc: with how transformers'
// classes of it begin, and its reader.
namespace tessera {

constexpr int64_t kMostUnits = int64_t{1} << 24;  // widths, vocabularies, positions
constexpr int64_t kMostLayers = 4096;

// Reads an integer from 1 to kMostUnits into target.
Status read_size(const Config& config, std::string_view key, int32_t& target);
// The same, or what transformers takes where the key is absent.
Status read_size_or(const Config& config, std::string_view key, int32_t fallback, int32_t& target);
// Which of two spellings of a key counts: transformers writes the common one over the family's own.
std::string_view spelling(const Config& config, std::string_view own, std::string_view common);
// Refuses keys that are null where transformers has no meaning for that.
Status refuse_nulls(const Config& config, std::initializer_list<std::string_view> keys);
Status read_activation(const Config& config, std::string_view key, std::string_view fallback,
                       Activation& target);
// As many layers, all like `layer`.
Status read_layers(const Config& config, std::string_view key, const LayerRecord& layer,
                   Architecture& architecture);
Status read_eps(const Config& config, std::string_view key, double fallback, float& target);
// Heads whose size is hidden_size / heads, which must divide.
Status read_heads(const Config& config, std::string_view heads_key, int32_t hidden_size,
                  LayerRecord& layer);
// A decoder's mask: causal, unless is_causal is false.
Status read_mask(const Config& config, Architecture& architecture);

struct RotaryDefaults {
  double theta = 10000;
  // Whether the family rotates the first elements of a head alone, as partial_rotary_factor says,
  // or whole ones, where transformers looks at the factor only as some kinds of scaling do.
  enum class Rotates { kWholeHeads, kShareOfHeads } rotates = Rotates::kWholeHeads;
  // Whether layer_types may tell layers apart that have settings of their own.
  enum class Layers { kAlike, kOfTypes } layers = Layers::kAlike;
};
struct RotarySizes {
  int32_t head_size = 0;
  int32_t max_positions = 0;  // as the configuration says
};
struct RotaryReading {
  Rotary rotary;
  // The tokens that a model with such positions is meant for: linear, dynamic and yarn stretch what
  // the configuration says.
  int32_t max_positions = 0;
};
// rope_scaling or, where that is absent or empty, rope_parameters; with the older rope_theta,
// partial_rotary_factor and original_max_position_embeddings beside them. The kinds, and what each
// needs, are those of transformers 5.24.
Result<RotaryReading> read_rotary(const Config& config, const RotaryDefaults& defaults,
                                  const RotarySizes& sizes);
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

#define TESSERA_FAMILY(model_type, class_prefix, read) \
  Status read(const Config& config, Architecture& architecture);
#include "model/families/table.inc"
#undef TESSERA_FAMILY

}  // namespace tessera
