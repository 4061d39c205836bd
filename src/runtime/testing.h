#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "io/safetensors.h"

namespace tessera::testing {

// Tiny checkpoints with random weights in a fresh folder of the test's temporary directory. A test
// changes what it wants and writes the folder.
struct TinyCheckpoint {
  std::string config;  // JSON
  std::map<std::string, std::vector<int64_t>> shapes;
  std::map<std::string, float> firsts = {};  // the first value of a tensor in place of a random one

  // Writes config.json and model.safetensors; returns the folder.
  std::string write(const std::string& name) const;
  // Replaces text in config, which must be there.
  TinyCheckpoint& with(const std::string& from, const std::string& to);
};

inline std::string TinyCheckpoint::write(const std::string& name) const {
  const std::string folder =
      ::testing::TempDir() + "/tessera_" + name + "_" + std::to_string(getpid());
  std::filesystem::create_directories(folder);
  std::ofstream(folder + "/config.json") << config;
  std::mt19937 generator(7);
  std::normal_distribution<float> normal(0.0f, 0.3f);
  std::map<std::string, std::vector<float>> values;
  std::vector<TensorToWrite> tensors;
  for (const auto& [tensor, shape] : shapes) {
    size_t count = 1;
    for (int64_t extent : shape) count *= static_cast<size_t>(extent);
    std::vector<float>& data = values[tensor];
    for (size_t i = 0; i < count; ++i) data.push_back(normal(generator));
    if (firsts.contains(tensor)) data.front() = firsts.at(tensor);
    tensors.push_back({tensor, DType::kF32, shape, data.data()});
  }
  const Status status = write_safetensors(folder + "/model.safetensors", tensors);
  EXPECT_TRUE(status.ok()) << status.message();
  return folder;
}

inline TinyCheckpoint& TinyCheckpoint::with(const std::string& from, const std::string& to) {
  const size_t at = config.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  config.replace(at, from.size(), to);
  return *this;
}

// How far logits of the tiny models may lie apart between two passes that group the terms of their
// sums differently: each of 2 layers rounds sums of 16 (queries or keys, values, the outputs of
// attention), 24 and `keys` terms, the head one of 16. A rounding moves a pass by half an epsilon
// of what is summed, which is of the logits' order, and there are two passes.
inline double regrouped_bound(int64_t keys, std::span<const float> logits) {
  double largest = 0;
  for (const float logit : logits) largest = std::max(largest, std::abs(double{logit}));
  return static_cast<double>(2 * (3 * 16 + 24 + keys) + 16) *
         std::numeric_limits<float>::epsilon() * largest;
}

// Llama: 2 layers, 16 wide, 4 heads over 2 KV heads, vocabulary 50, context 200.
inline TinyCheckpoint tiny_llama() {
  TinyCheckpoint tiny;
  tiny.config = R"({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 16,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 24,
    "vocab_size": 50, "max_position_embeddings": 200, "rms_norm_eps": 1e-5, "eos_token_id": 49,
    "tie_word_embeddings": false})";
  tiny.shapes = {{"model.embed_tokens.weight", {50, 16}},
                 {"model.norm.weight", {16}},
                 {"lm_head.weight", {50, 16}}};
  for (int i = 0; i < 2; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    tiny.shapes.insert({{layer + "self_attn.q_proj.weight", {16, 16}},
                        {layer + "self_attn.k_proj.weight", {8, 16}},
                        {layer + "self_attn.v_proj.weight", {8, 16}},
                        {layer + "self_attn.o_proj.weight", {16, 16}},
                        {layer + "mlp.gate_proj.weight", {24, 16}},
                        {layer + "mlp.up_proj.weight", {24, 16}},
                        {layer + "mlp.down_proj.weight", {16, 24}},
                        {layer + "input_layernorm.weight", {16}},
                        {layer + "post_attention_layernorm.weight", {16}}});
  }
  return tiny;
}

// BERT with a masked-LM head: 2 layers, 16 wide, 4 heads, vocabulary 50, context 40.
inline TinyCheckpoint tiny_bert() {
  TinyCheckpoint tiny;
  tiny.config = R"({"model_type": "bert", "architectures": ["BertForMaskedLM"], "hidden_size": 16,
    "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24, "vocab_size": 50,
    "max_position_embeddings": 40, "type_vocab_size": 2, "hidden_act": "gelu"})";
  tiny.shapes = {{"cls.predictions.bias", {50}},
                 {"cls.predictions.transform.dense.weight", {16, 16}},
                 {"cls.predictions.transform.dense.bias", {16}},
                 {"cls.predictions.transform.LayerNorm.weight", {16}},
                 {"cls.predictions.transform.LayerNorm.bias", {16}},
                 {"bert.embeddings.word_embeddings.weight", {50, 16}},
                 {"bert.embeddings.position_embeddings.weight", {40, 16}},
                 {"bert.embeddings.token_type_embeddings.weight", {2, 16}},
                 {"bert.embeddings.LayerNorm.weight", {16}},
                 {"bert.embeddings.LayerNorm.bias", {16}}};
  for (int i = 0; i < 2; ++i) {
    const std::string layer = "bert.encoder.layer." + std::to_string(i) + ".";
    for (const char* map : {"attention.self.query", "attention.self.key", "attention.self.value",
                            "attention.output.dense"}) {
      tiny.shapes[layer + map + ".weight"] = {16, 16};
      tiny.shapes[layer + map + ".bias"] = {16};
    }
    tiny.shapes.insert({{layer + "intermediate.dense.weight", {24, 16}},
                        {layer + "intermediate.dense.bias", {24}},
                        {layer + "output.dense.weight", {16, 24}},
                        {layer + "output.dense.bias", {16}}});
    for (const char* norm : {"attention.output.LayerNorm", "output.LayerNorm"}) {
      tiny.shapes[layer + norm + ".weight"] = {16};
      tiny.shapes[layer + norm + ".bias"] = {16};
    }
  }
  return tiny;
}

// Twice as deep, so that tokens leave twice: copies of the second layer, whose tensors have its
// name in front of the number.
inline TinyCheckpoint deep(TinyCheckpoint tiny, const std::string& second_layer) {
  tiny.with("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 4");
  const auto shapes = tiny.shapes;
  for (const auto& [name, shape] : shapes) {
    const size_t at = name.find(second_layer + "1.");
    if (at == std::string::npos) continue;
    for (const char* layer : {"2.", "3."}) {
      std::string copy = name;
      copy.replace(at + second_layer.size(), 2, layer);
      tiny.shapes[copy] = shape;
    }
  }
  return tiny;
}

}  // namespace tessera::testing
