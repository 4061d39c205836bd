#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <sstream>
#include <string>
#include <vector>

#include "runtime/testing.h"
#include "tessera/model.h"
#include "tessera/tasks.h"

namespace tessera::testing {

// The tiny BERT with another head. Of classifiers: so many labels.
inline TinyCheckpoint tiny_bert_with(const std::string& head, int64_t labels = 2) {
  TinyCheckpoint tiny = tiny_bert().with("BertForMaskedLM", "BertFor" + head);
  std::erase_if(tiny.shapes, [](const auto& tensor) { return tensor.first.starts_with("cls."); });
  if (head == "SequenceClassification") {
    tiny.shapes["bert.pooler.dense.weight"] = {16, 16};
    tiny.shapes["bert.pooler.dense.bias"] = {16};
  }
  const std::string output = head == "QuestionAnswering" ? "qa_outputs" : "classifier";
  tiny.shapes[output + ".weight"] = {labels, 16};
  tiny.shapes[output + ".bias"] = {labels};
  nlohmann::json config = nlohmann::json::parse(tiny.config);
  for (int64_t i = 0; i < labels && output == "classifier"; ++i) {
    config["id2label"][std::to_string(i)] = "L" + std::to_string(i);
  }
  tiny.config = config.dump();
  return tiny;
}

// Changes a tensor of the checkpoint in a folder.
inline void edit_tensor(const std::string& folder, const std::string& name,
                        const std::function<void(std::span<float>)>& edit) {
  const std::string path = folder + "/model.safetensors";
  std::stringstream stream;
  stream << std::ifstream(path, std::ios::binary).rdbuf();
  std::string bytes = stream.str();
  uint64_t header = 0;
  std::memcpy(&header, bytes.data(), sizeof header);
  const auto entry = nlohmann::json::parse(bytes.substr(8, header)).at(name).at("data_offsets");
  const size_t begin = entry[0].get<size_t>(), end = entry[1].get<size_t>();
  std::vector<float> values((end - begin) / sizeof(float));
  std::memcpy(values.data(), bytes.data() + 8 + header + begin, end - begin);
  edit(values);
  std::memcpy(bytes.data() + 8 + header + begin, values.data(), end - begin);
  std::ofstream(path, std::ios::binary) << bytes;
}

inline void fill_tensor(const std::string& folder, const std::string& name, float value) {
  edit_tensor(folder, name,
              [&](std::span<float> values) { std::fill(values.begin(), values.end(), value); });
}

// Makes every token's last state depend on its id alone.
inline void make_blind_to_context(const std::string& folder) {
  const std::string embeddings = "bert.embeddings.";
  fill_tensor(folder, embeddings + "position_embeddings.weight", 0);
  fill_tensor(folder, embeddings + "token_type_embeddings.weight", 0);
  for (const char* layer : {"bert.encoder.layer.0.", "bert.encoder.layer.1."}) {
    for (const char* map : {"attention.output.dense", "output.dense"}) {
      for (const char* part : {".weight", ".bias"}) {
        fill_tensor(folder, std::string(layer) + map + part, 0);
      }
    }
  }
}

// The words of the tiny tokenizer by id. 50 tokens, the letters and what continues a word with
// them.
inline std::vector<std::string> tiny_words() {
  std::vector<std::string> words = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
  for (char c = 'a'; c <= 'v'; ++c) words.push_back(std::string(1, c));
  for (char c = 'a'; c <= 'u'; ++c) words.push_back(std::string("##") + c);
  words.push_back("\xC3\xA4");  // a with two dots
  words.push_back(".");
  return words;
}
constexpr int32_t kCls = 2, kSep = 3, kMaskId = 4, kLetterA = 5;

inline void write_tiny_tokenizer(const std::string& folder) {
  nlohmann::json vocabulary, added = nlohmann::json::array();
  const std::vector<std::string> words = tiny_words();
  for (size_t i = 0; i < words.size(); ++i) vocabulary[words[i]] = i;
  for (int i = 0; i < 5; ++i) {
    added.push_back({{"id", i},
                     {"content", words[static_cast<size_t>(i)]},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  }
  nlohmann::json file = nlohmann::json::parse(R"({"version": "1.0", "normalizer": null,
    "pre_tokenizer": {"type": "BertPreTokenizer"},
    "post_processor": {"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                 {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
      "pair": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
               {"SpecialToken": {"id": "[SEP]", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}},
               {"SpecialToken": {"id": "[SEP]", "type_id": 1}}],
      "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
                         "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]}}},
    "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": false},
    "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
              "max_input_chars_per_word": 100}})");
  file["model"]["vocab"] = vocabulary;
  file["added_tokens"] = added;
  std::ofstream(folder + "/tokenizer.json") << file.dump();
  std::ofstream(folder + "/tokenizer_config.json") << R"({"mask_token": "[MASK]"})";
}

inline std::shared_ptr<Model> load_tiny(const std::string& folder) {
  auto model = Model::load(folder, {.threads = 2});
  EXPECT_TRUE(model.ok()) << model.status().message();
  return model.ok() ? *model : nullptr;
}

// With the tiny tokenizer.
inline std::shared_ptr<Model> load_tiny(const TinyCheckpoint& tiny, const std::string& name) {
  const std::string folder = tiny.write(name);
  write_tiny_tokenizer(folder);
  return load_tiny(folder);
}

inline TaskInput ids_input(std::vector<int32_t> ids, std::vector<int32_t> type_ids = {}) {
  return {.tokens = TokenSequence{std::move(ids), std::move(type_ids)}};
}
inline TaskInput text_input(std::string text) { return {.text = std::move(text)}; }
inline TaskInput pair_input(std::string text, std::string pair) {
  return {.text = std::move(text), .pair = std::move(pair)};
}

// Words of one letter with spaces between.
inline std::string letters(size_t count, char letter = 'a') {
  std::string text;
  for (size_t i = 0; i < count; ++i) text += (i == 0 ? "" : " ") + std::string(1, letter);
  return text;
}

}  // namespace tessera::testing
