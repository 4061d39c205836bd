#include "model/families/families.h"

#include <gtest/gtest.h>

#include "io/checkpoint.h"
#include "io/testing.h"
#include "model/rotary_frequencies.h"

namespace tessera {
namespace {

using Rotates = RotaryDefaults::Rotates;

Config config(const std::string& json) {
  auto parsed = Config::parse(json, "here");
  EXPECT_TRUE(parsed.ok()) << parsed.status().message();
  return std::move(parsed).value();
}

std::string with_share(const std::string& share) {
  return R"({"partial_rotary_factor": )" + share + "}";
}

constexpr RotarySizes kSizes = {.head_size = 8, .max_positions = 32};
constexpr RotaryDefaults kShares = {.theta = 100, .rotates = Rotates::kShareOfHeads};

RotaryReading reading(const std::string& json, const RotaryDefaults& defaults = {}) {
  auto found = read_rotary(config(json), defaults, kSizes);
  EXPECT_TRUE(found.ok()) << found.status().message();
  return found.ok() ? *found : RotaryReading();
}

Status error(const std::string& json, const RotaryDefaults& defaults = {}) {
  return read_rotary(config(json), defaults, kSizes).status();
}

TEST(Rotary, ShareOfAHead) {
  const Rotary rotary =
      reading(R"({"rope_parameters": {"partial_rotary_factor": 0.5}})", kShares).rotary;
  // The exponents count the elements that are rotated: 100^(-2j/4).
  EXPECT_EQ(rotary.inverse_frequencies, (std::vector<float>{1, 0.1f}));
  EXPECT_EQ(rotary.rotated(), 4);
  for (const char* share : {"0", "-1", "1.5", "1e300"})
    testing::expect_message(error(with_share(share), kShares), {"partial_rotary_factor"});
  testing::expect_message(error(with_share("0.4"), kShares), {"an even number", "3 of 8"});
}

// transformers never looks at the share there.
TEST(Rotary, ShareInAFamilyThatRotatesWholeHeads) {
  for (const char* share : {"0.5", "0", "null", "\"half\""})
    EXPECT_EQ(reading(with_share(share)).rotary.rotated(), 8) << share;
  testing::expect_message(
      error(R"({"rope_scaling": {"type": "linear", "factor": 2, "partial_rotary_factor": 0.5}})"),
      {"rope_scaling: partial_rotary_factor: expected 1", "found 0.5"});
}

// Linear, dynamic and yarn stretch the context, llama3 and longrope have it stretched.
TEST(Rotary, ContextThatAModelIsMeantFor) {
  const auto context = [](const std::string& settings) {
    return reading("{\"rope_scaling\": {" + settings + "}}").max_positions;
  };
  EXPECT_EQ(reading("{}").max_positions, 32);
  EXPECT_EQ(context(R"("type": "linear", "factor": 4)"), 128);
  EXPECT_EQ(context(R"("type": "linear", "factor": 0.5)"), 32);
  EXPECT_EQ(context(R"("type": "linear", "factor": 1e300)"), kMostUnits);
  EXPECT_EQ(context(R"("type": "dynamic", "factor": 2)"), 64);
  EXPECT_EQ(context(R"("type": "yarn", "factor": 2)"), 64);
  EXPECT_EQ(context(R"("type": "yarn", "factor": 2, "original_max_position_embeddings": 16)"), 32);
  EXPECT_EQ(context(R"("type": "yarn", "factor": 4, "original_max_position_embeddings": 16)"), 64);
  EXPECT_EQ(
      context(R"("type": "llama3", "factor": 4, "low_freq_factor": 1, "high_freq_factor": 2)"), 32);
}

TEST(Rotary, Descriptions) {
  EXPECT_EQ(reading("{}").rotary.description, "rotary, theta 10000");
  EXPECT_EQ(reading(R"({"rope_theta": 5e5, "rope_scaling": {"type": "yarn", "factor": 4}})")
                .rotary.description,
            "rotary, theta 500000, yarn by 4 from 32 tokens");
}

TEST(Rotary, SettingsOutOfRange) {
  const auto scaling = [](const std::string& settings) {
    return error("{\"rope_scaling\": {" + settings + "}}");
  };
  testing::expect_message(scaling(R"("type": "linear", "factor": 0)"),
                          {"here: rope_scaling: factor: expected a number > 0, found 0"});
  testing::expect_message(scaling(R"("type": "dynamic", "factor": -2)"), {"factor", "found -2"});
  testing::expect_message(scaling(R"("type": 3)"), {"type: expected a string, found 3"});
  testing::expect_message(scaling(R"("type": "su")"), {"found \"su\", the older name of longrope"});
  testing::expect_message(
      scaling(R"("type": "yarn", "factor": 4, "original_max_position_embeddings": null)"),
      {"original_max_position_embeddings: expected a finite number, found null"});
  testing::expect_message(
      scaling(R"("type": "yarn", "factor": 4, "original_max_position_embeddings": 1e300)"),
      {"original_max_position_embeddings: expected a number from 1 to"});
  testing::expect_message(scaling(R"("type": "yarn", "factor": 4, "beta_fast": -1)"),
                          {"beta_fast: expected a number > 0, found -1"});
  testing::expect_message(scaling(R"("type": "yarn", "factor": 4, "truncate": 1)"), {"truncate"});
  testing::expect_message(scaling(R"("type": "yarn", "factor": 4, "rope_theta": 1)"),
                          {"rope_theta: expected a number other than 1"});
  testing::expect_message(
      scaling(R"("type": "longrope", "long_factor": [1, 2, 3, 4], "short_factor": [1])"),
      {"short_factor: expected 4 numbers, one a pair, found 1"});
  testing::expect_message(
      scaling(R"("type": "longrope", "long_factor": [1, 2, 0, 4], "short_factor": [1, 1, 1, 1])"),
      {"long_factor: expected numbers > 0, found 0"});
  testing::expect_message(scaling(R"("type": "llama3", "factor": 4, "low_freq_factor": 2,
                                     "high_freq_factor": 2)"),
                          {"high_freq_factor: expected more than low_freq_factor, 2, found 2"});
  testing::expect_message(error(R"({"rope_theta": 1e-300})"), {"finite frequencies"});
  testing::expect_message(error(R"({"rope_theta": -5})"), {"here: rope_theta", "found -5"});
  testing::expect_message(error(R"({"rope_scaling": [1]})"), {"rope_scaling: expected an object"});
  testing::expect_message(
      read_rotary(config("{}"), {}, {.head_size = 7, .max_positions = 32}).status(),
      {"an even number", "7 of 7"});
  testing::expect_message(
      read_rotary(config(R"({"rope_scaling": {"type": "dynamic", "factor": 2}})"), {},
                  {.head_size = 2, .max_positions = 32})
          .status(),
      {"more than 2 elements"});
}

// Every eighth frequency of heads of 80, to the last bit as transformers 5.24 has them with torch
// 2.15: the exponent, the power and its reciprocal are rounded to f32.
TEST(Rotary, RoundingsOfTransformers) {
  const auto frequencies = [](const std::string& settings, int32_t length) {
    const auto found =
        read_rotary(config(R"({"rope_theta": 1e6, "rope_scaling": {)" + settings + "}}"), {},
                    {.head_size = 80, .max_positions = 1024});
    EXPECT_TRUE(found.ok()) << found.status().message();
    const int32_t usual = found->rotary.longer.usual_tokens;
    const std::vector<float> all = usual > 0 && length > usual
                                       ? frequencies_of_length(found->rotary, length)
                                       : found->rotary.inverse_frequencies;
    std::vector<float> some;
    for (size_t j = 0; j < all.size(); j += 8) some.push_back(all[j]);
    return some;
  };
  using Floats = std::vector<float>;
  EXPECT_EQ(frequencies(R"("type": "default")", 3000),
            (Floats{1, 0.0630957335f, 0.00398107152f, 0.000251188554f, 1.58489293e-05f}));
  EXPECT_EQ(frequencies(R"("type": "yarn", "factor": 4)", 3000),
            (Floats{1, 0.0458878055f, 0.000995267881f, 6.27971385e-05f, 3.96223231e-06f}));
  EXPECT_EQ(frequencies(R"("type": "dynamic", "factor": 4)", 3000),
            (Floats{1, 0.0404656306f, 0.00163746718f, 6.62611201e-05f, 2.68129861e-06f}));
}

Architecture architecture_of(const std::string& model_type, const std::string& json) {
  Architecture architecture;
  Status status = unsupported("no such family");
#define TESSERA_FAMILY(name, class_prefix, read) \
  if (model_type == (name)) status = read(config(json), architecture);
#include "model/families/table.inc"
#undef TESSERA_FAMILY
  EXPECT_TRUE(status.ok()) << status.message();
  if (architecture.layers.empty()) architecture.layers.resize(1);
  return architecture;
}

Status error_of(const std::string& model_type, const std::string& json) {
  Architecture architecture;
#define TESSERA_FAMILY(name, class_prefix, read) \
  if (model_type == (name)) return read(config(json), architecture);
#include "model/families/table.inc"
#undef TESSERA_FAMILY
  return {};
}

const std::string kLlamaSizes =
    R"("hidden_size": 64, "intermediate_size": 8, "vocab_size": 9, "num_attention_heads": 4,
       "num_hidden_layers": 2, "head_dim": 16)";

std::string llama(const std::string& keys) { return "{" + kLlamaSizes + keys + "}"; }

// Only an absent key has transformers' default: 32 in Qwen, 8 in Mistral.
TEST(Families, KeyValueHeads) {
  for (const char* family : {"llama", "qwen2", "qwen3"}) {
    const Architecture a = architecture_of(family, llama(R"(, "num_key_value_heads": null)"));
    EXPECT_EQ(a.layer(0).kv_heads, 4) << family;
  }
  EXPECT_EQ(architecture_of("llama", llama("")).layer(0).kv_heads, 4);
  testing::expect_message(error_of("qwen2", llama("")), {"num_key_value_heads", "found 32"});
  testing::expect_message(error_of("mistral", llama("")), {"num_key_value_heads", "found 8"});
  testing::expect_message(error_of("mistral", llama(R"(, "num_key_value_heads": null)")),
                          {"num_key_value_heads", "found null"});
}

TEST(Families, BiasesThatAFamilyDoesNotHave) {
  const std::string keys =
      llama(R"(, "num_key_value_heads": 2, "attention_bias": true, "mlp_bias": true)");
  const auto biases = [&](const char* family) {
    const LayerNames names = architecture_of(family, keys).layer(0).names;
    return std::vector<bool>{!names.qkv.biases.empty(), !names.attention_output.biases.empty(),
                             !names.ffn_in.biases.empty(), !names.ffn_out.biases.empty()};
  };
  EXPECT_EQ(biases("llama"), (std::vector<bool>{true, true, true, true}));
  EXPECT_EQ(biases("mistral"), (std::vector<bool>{false, false, false, false}));
  EXPECT_EQ(biases("qwen2"), (std::vector<bool>{true, false, false, false}));
  EXPECT_EQ(biases("qwen3"), (std::vector<bool>{true, true, false, false}));
}

TEST(Families, ContextsThatAConfigLeavesOut) {
  const std::string keys = llama(R"(, "num_key_value_heads": 2)");
  EXPECT_EQ(architecture_of("llama", keys).max_positions, 2048);
  EXPECT_EQ(architecture_of("mistral", keys).max_positions, 131072);
  EXPECT_EQ(architecture_of("qwen2", keys).max_positions, 32768);
  EXPECT_EQ(architecture_of("qwen3", keys).max_positions, 32768);
}

// 66 / 4 = 16 with a rest.
TEST(Families, HeadsThatDoNotDivideTheWidth) {
  const std::string keys =
      R"({"hidden_size": 66, "intermediate_size": 8, "vocab_size": 9, "num_attention_heads": 4,
          "num_hidden_layers": 2, "num_key_value_heads": 2})";
  EXPECT_EQ(architecture_of("mistral", keys).layer(0).head_size, 16);
  EXPECT_EQ(architecture_of("qwen2", keys).layer(0).head_size, 16);
  testing::expect_message(error_of("llama", keys), {"4 heads divide", "66"});
}

TEST(Families, Windows) {
  const auto windows = [](const char* family, const std::string& keys) {
    std::vector<int32_t> found;
    for (const LayerRecord& layer :
         architecture_of(family, llama(R"(, "num_key_value_heads": 2)" + keys)).layers)
      found.push_back(layer.window);
    return found;
  };
  using Windows = std::vector<int32_t>;
  EXPECT_EQ(windows("mistral", ""), (Windows{4096, 4096}));
  EXPECT_EQ(windows("mistral", R"(, "sliding_window": null)"), (Windows{0, 0}));
  const std::string types = R"(, "layer_types": ["attention", "sliding_attention"])";
  EXPECT_EQ(windows("mistral", types + R"(, "sliding_window": 6)"), (Windows{0, 6}));
  EXPECT_EQ(windows("qwen2", R"(, "sliding_window": 6)"), (Windows{0, 0}));
  const std::string used = R"(, "use_sliding_window": true, "sliding_window": 6)";
  EXPECT_EQ(windows("qwen3", used), (Windows{0, 0}));
  EXPECT_EQ(windows("qwen3", used + R"(, "max_window_layers": 1)"), (Windows{0, 6}));
  EXPECT_EQ(windows("qwen3", used + types), (Windows{0, 6}));
  EXPECT_EQ(windows("qwen3", used + R"(, "layer_types": null)"), (Windows{0, 0}));
  const auto error = [](const std::string& keys) {
    return error_of("qwen2", llama(R"(, "num_key_value_heads": 2)" + keys));
  };
  testing::expect_message(error(types), {"layer_types", "use_sliding_window", "found none"});
  testing::expect_message(error(R"(, "layer_types": ["full_attention"])"), {"2 entries, found 1"});
  testing::expect_message(error(R"(, "layer_types": ["full_attention", "chunked_attention"])"),
                          {"found \"chunked_attention\""});
}

// transformers writes the common spelling over the family's own.
TEST(Families, CommonSpellings) {
  const Architecture gpt2 = architecture_of(
      "gpt2", R"({"vocab_size": 9, "n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 64,
                  "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1,
                  "max_position_embeddings": 50})");
  EXPECT_EQ(gpt2.hidden_size, 16);
  EXPECT_EQ(gpt2.layer(0).query_heads, 2);
  EXPECT_EQ(gpt2.layer_count(), 1);
  EXPECT_EQ(gpt2.max_positions, 50);
  const Architecture distilbert = architecture_of(
      "distilbert", R"({"vocab_size": 9, "hidden_size": 16, "num_attention_heads": 2,
                        "num_hidden_layers": 1, "hidden_dim": 8, "max_position_embeddings": 50})");
  EXPECT_EQ(distilbert.hidden_size, 16);
  EXPECT_EQ(distilbert.layer_count(), 1);
}

TEST(Families, NullsThatMeanNothing) {
  const auto named = [](const char* family, const std::string& json, const std::string& key) {
    testing::expect_message(error_of(family, json), {key + ": expected a value", "found null"});
  };
  for (const char* key : {"hidden_act", "rms_norm_eps", "attention_bias", "mlp_bias"})
    named("llama", llama(std::string(", \"") + key + "\": null"), key);
  named("qwen3", R"({"head_dim": null})", "head_dim");
  named("gpt2", R"({"layer_norm_epsilon": null})", "layer_norm_epsilon");
  named("gpt_bigcode", R"({"vocab_size": 9, "n_embd": 32, "n_head": 4, "n_positions": 64,
                           "multi_query": null})",
        "multi_query");
  named("bert", R"({"hidden_act": null})", "hidden_act");
  named("roberta", R"({"pad_token_id": null})", "pad_token_id");
  named("distilbert", R"({"activation": null})", "activation");
}

// A name that only ends like a class of transformers is that of other code.
TEST(Families, ClassesAreTransformersOwn) {
  const testing::TempDir directory;
  directory.put(
      "model.safetensors",
      testing::safetensors_bytes(R"({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})",
                                 std::string(4, '\0')));
  const auto read = [&](const std::string& name, const std::string& more = "") {
    directory.put("config.json", R"({"model_type": "llama", "architectures": [")" + name + "\"]" +
                                     more + ", " + kLlamaSizes + "}");
    return read_architecture(*Checkpoint::open(directory.path()));
  };
  const std::pair<const char*, Head> known[] = {
      {"LlamaForCausalLM", Head::kCausalLm},
      {"LlamaModel", Head::kNone},
      {"Qwen2ForSequenceClassification", Head::kSequenceClassification},
  };
  for (const auto& [name, head] : known) {
    const auto found = read(name);
    ASSERT_TRUE(found.ok()) << name << ": " << found.status().message();
    EXPECT_EQ(found->head, head) << name;
  }
  for (const char* name :
       {"LlamaBiModel", "LlamaEncoderModel", "NVEmbedModel", "GritLMForCausalLM",
        "MyLlamaForCausalLM", "FooModel", "NomicBertModel", "JinaBertForSequenceClassification",
        "Qwen2ForRewardModel", "GPT2DoubleHeadsModel", "Llama", "ForCausalLM"}) {
    for (const char* more : {"", R"(, "auto_map": {"AutoModel": "modeling_own.Own"})"}) {
      testing::expect_message(read(name, more).status(),
                              {directory / "config.json: architectures: expected a class of "
                                           "transformers, one of Bert",
                               std::string("found \"") + name + "\""});
    }
  }
}

TEST(Families, DecodersThatAttendBothWays) {
  EXPECT_EQ(architecture_of("llama", llama(R"(, "is_causal": false)")).mask, Mask::kNone);
  EXPECT_EQ(architecture_of("llama", llama(R"(, "is_causal": null)")).mask, Mask::kCausal);
  const std::string gpt2 = R"({"vocab_size": 9, "n_embd": 32, "n_head": 4, "n_layer": 2,
                               "n_positions": 64, "is_causal": false})";
  EXPECT_EQ(architecture_of("gpt2", gpt2).mask, Mask::kNone);
}

}  // namespace
}  // namespace tessera
