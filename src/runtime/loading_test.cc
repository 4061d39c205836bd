#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>

#include "kernels/family.h"
#include "runtime/loading_testing.h"
#include "runtime/testing.h"
#include "tessera/engine.h"
#include "tessera/model.h"

namespace tessera {
namespace {

using testing::load_error;
using testing::tiny_bert;
using testing::tiny_llama;
using testing::TinyCheckpoint;
using testing::write_text;

TEST(LoadErrors, UnknownModelType) {
  const std::string error = load_error(tiny_llama().with("\"llama\"", "\"mamba\"").write("type"));
  EXPECT_CONTAINS(error, "model_type");
  EXPECT_CONTAINS(error, "mamba");
  EXPECT_CONTAINS(error, "llama");
}

TEST(LoadErrors, UnknownHead) {
  EXPECT_CONTAINS(load_error(tiny_bert().with("ForMaskedLM", "ForMultipleChoice").write("head")),
                  "BertForMultipleChoice");
}

TEST(LoadErrors, MissingTensor) {
  TinyCheckpoint tiny = tiny_llama();
  tiny.shapes.erase("model.layers.1.mlp.up_proj.weight");
  EXPECT_CONTAINS(load_error(tiny.write("missing")), "model.layers.1.mlp.up_proj.weight");
}

TEST(LoadErrors, WrongShapeNamesBothShapes) {
  TinyCheckpoint tiny = tiny_llama();
  tiny.shapes["model.layers.0.self_attn.k_proj.weight"] = {16, 16};
  const std::string error = load_error(tiny.write("shape"));
  EXPECT_CONTAINS(error, "model.layers.0.self_attn.k_proj.weight");
  EXPECT_CONTAINS(error, "[8, 16]");
  EXPECT_CONTAINS(error, "[16, 16]");
}

TEST(LoadErrors, HeadsThatDoNotDivide) {
  EXPECT_CONTAINS(
      load_error(
          tiny_llama().with("num_attention_heads\": 4", "num_attention_heads\": 3").write("heads")),
      "3 heads");
  EXPECT_CONTAINS(
      load_error(
          tiny_llama().with("num_key_value_heads\": 2", "num_key_value_heads\": 3").write("kv")),
      "found 3");
}

TEST(LoadErrors, AbsurdSizes) {
  EXPECT_CONTAINS(load_error(tiny_llama()
                                 .with("num_hidden_layers\": 2", "num_hidden_layers\": 1000000000")
                                 .write("layers")),
                  "1000000000");
  EXPECT_CONTAINS(
      load_error(tiny_llama().with("hidden_size\": 16", "hidden_size\": -1").write("negative")),
      "-1");
  EXPECT_CONTAINS(
      load_error(tiny_llama().with("hidden_size\": 16", "hidden_size\": \"wide\"").write("text")),
      "wide");
}

TEST(LoadErrors, AbsurdNumberOfLayers) {
  for (const char* count : {"1000000000", "9007199254740993", "2147483648", "0"}) {
    const std::string error =
        load_error(tiny_llama()
                       .with("num_hidden_layers\": 2", std::string("num_hidden_layers\": ") + count)
                       .write("many_layers"));
    EXPECT_CONTAINS(error, "num_hidden_layers: expected an integer from 1 to ");
    EXPECT_CONTAINS(error, std::string("found ") + count);
  }
}

// Layers that the configuration has and the file has not, so that the loop over them ends early.
TEST(LoadErrors, MoreLayersThanTheFileHolds) {
  EXPECT_CONTAINS(load_error(tiny_llama()
                                 .with("num_hidden_layers\": 2", "num_hidden_layers\": 3")
                                 .write("more_layers")),
                  "model.layers.2.");
}

TEST(LoadErrors, AVocabularyLargerThanTheEmbedding) {
  const std::string error =
      load_error(tiny_llama().with("vocab_size\": 50", "vocab_size\": 51").write("vocabulary"));
  EXPECT_CONTAINS(error, "model.embed_tokens.weight");
  EXPECT_CONTAINS(error, "expected shape [51, 16], found [50, 16]");
}

TEST(LoadErrors, DeepJson) {
  const std::string folder = tiny_llama().write("deep_json");
  const std::string deep = std::string(100000, '[') + std::string(100000, ']');
  for (const char* name : {"generation_config.json", "modules.json", "tokenizer.json"}) {
    write_text(folder, name, "{\"a\": " + deep + "}");
    EXPECT_CONTAINS(load_error(folder), name);
    std::filesystem::remove(folder + "/" + name);
  }
  write_text(folder, "config.json", "{\"a\": " + deep + "}");
  EXPECT_CONTAINS(load_error(folder), "at most 64 levels deep");
}

TEST(LoadErrors, UnreadableModel) {
  const std::string folder = tiny_llama().write("unreadable"), file = folder + "/model.safetensors";
  EXPECT_CONTAINS(load_error(folder + "/nowhere"), "found nothing");
  EXPECT_CONTAINS(load_error(file), "found a file");
  std::filesystem::permissions(folder, std::filesystem::perms::all);
  std::filesystem::permissions(file, std::filesystem::perms::none);
  const bool is_root = geteuid() == 0;
  if (is_root) {
    ASSERT_EQ(seteuid(65534), 0);
  }
  const std::string error = load_error(folder);
  if (is_root) {
    ASSERT_EQ(seteuid(0), 0);
  }
  EXPECT_CONTAINS(error, "model.safetensors: cannot open: Permission denied");
  std::filesystem::remove(file);
  std::filesystem::create_directory(file);
  EXPECT_CONTAINS(load_error(folder), "expected a regular file, found a directory");
  std::filesystem::remove(file);
  ASSERT_EQ(mkfifo(file.c_str(), 0600), 0);
  EXPECT_CONTAINS(load_error(folder), "expected a regular file, found a FIFO");
}

// Overwrites one value of a tensor in a written checkpoint.
void overwrite_value(const std::string& folder, const std::string& tensor, int64_t index,
                     float value) {
  const std::string path = folder + "/model.safetensors";
  const Result<Safetensors> opened = Safetensors::open(path);
  ASSERT_TRUE(opened.ok());
  const char* first = reinterpret_cast<const char*>(opened->tensors().at(tensor).data);
  std::ifstream in(path, std::ios::binary);
  std::string bytes(std::istreambuf_iterator<char>(in), {});
  const size_t begin = bytes.find(std::string(first, 64));
  ASSERT_NE(begin, std::string::npos);
  std::memcpy(bytes.data() + begin + index * 4, &value, 4);
  const std::string copy = path + ".new";
  std::ofstream(copy, std::ios::binary) << bytes;
  std::filesystem::rename(copy, path);
}

TEST(LoadErrors, WeightsThatAreNaN) {
  const std::string name = "model.layers.1.mlp.up_proj.weight";
  for (const float value : {NAN, INFINITY, -INFINITY}) {
    const std::string folder = tiny_llama().write("nan");
    ASSERT_TRUE(Model::load(folder, {.threads = 1}).ok());
    overwrite_value(folder, name, 300, value);
    const std::string error = load_error(folder, {.threads = 2});
    EXPECT_CONTAINS(error, "tensor \"" + name + "\": expected finite values, found ");
    EXPECT_CONTAINS(error, "at index 300 of 384");
  }
}

// Finite weights whose products are not: reported, whatever is asked of the model.
TEST(Forward, ResultsThatAreNotFiniteAreErrors) {
  TinyCheckpoint tiny = tiny_llama();
  const std::string folder = tiny.write("overflow");
  for (int64_t i = 0; i < 16; ++i) overwrite_value(folder, "model.norm.weight", i, 3e38f);
  const auto model = Model::load(folder, {.threads = 1});
  ASSERT_TRUE(model.ok()) << model.status().message();
  EXPECT_CONTAINS((*model)->forward({{{1, 2}, {}}}).status().message(), "expected finite logits");
  EXPECT_CONTAINS((*model)->embed({{{1, 2}, {}}}).status().message(), "expected finite embeddings");
  EXPECT_CONTAINS(generate(*model, {.prompt_ids = {1, 2}, .max_new_tokens = 2}).status().message(),
                  "no finite scores");
}

std::string word_level_tokenizer(int words) {
  std::string vocabulary;
  for (int i = 0; i < words; ++i) {
    vocabulary += (i == 0 ? "\"w" : ", \"w") + std::to_string(i) + "\": " + std::to_string(i);
  }
  return R"({"model": {"type": "WordPiece", "unk_token": "w0", "vocab": {)" + vocabulary +
         R"(}}, "pre_tokenizer": {"type": "WhitespaceSplit"}})";
}

// A larger embedding is padding. A larger tokenizer may have added tokens that nobody uses, so it
// loads, and such a token is refused with both sizes.
TEST(Tokenize, TokenizerAndEmbeddingOfDifferentSizes) {
  const std::string folder = tiny_bert().write("sizes");
  const auto embed = [&](int words, const std::string& text) {
    write_text(folder, "tokenizer.json", word_level_tokenizer(words));
    const auto model = Model::load(folder, {.threads = 1});
    EXPECT_TRUE(model.ok()) << model.status().message();
    if (!model.ok()) return model.status();
    const auto tokens = (*model)->tokenize(text);
    return tokens.ok() ? (*model)->embed({*tokens}).status() : tokens.status();
  };
  EXPECT_TRUE(embed(40, "w1 w39").ok());
  EXPECT_TRUE(embed(60, "w1 w49").ok());
  EXPECT_CONTAINS(
      embed(60, "w1 w50").message(),
      "sequence 0: expected ids from 0 to 49, found 50 at token 1 (the tokenizer has 60 "
      "tokens, the model's embedding 50)");
}

TEST(Tokenize, EmptyTextWithoutSpecialTokensIsRefused) {
  const std::string folder = tiny_bert().write("empty_text");
  write_text(folder, "tokenizer.json", word_level_tokenizer(50));
  const auto model = Model::load(folder, {.threads = 1});
  ASSERT_TRUE(model.ok()) << model.status().message();
  const auto tokens = (*model)->tokenize("");
  ASSERT_TRUE(tokens.ok());
  EXPECT_CONTAINS((*model)->embed({*tokens}).status().message(),
                  "expected at least one token, found none");
}

TEST(OutOfMemory, TheChosenContextIsRefusedUpFront) {
  const auto model = Model::load(tiny_llama().write("memory"), {.threads = 1});
  ASSERT_TRUE(model.ok());
  // 150 positions take 3 pages in each of 2 layers; a page holds 64 keys and values of 8 floats.
  const int64_t needed = 3 * 2 * 64 * 2 * 8 * 4;
  auto engine = Engine::create(*model, {.cache_bytes = needed - 1});
  ASSERT_TRUE(engine.ok());
  const Status refused = (*engine)->submit({.prompt_ids = {1}, .max_new_tokens = 150}).status();
  EXPECT_EQ(refused.code(), StatusCode::kInvalidInput);
  EXPECT_CONTAINS(refused.message(), "150 tokens need " + std::to_string(needed) + " bytes");
  EXPECT_CONTAINS(refused.message(), "more than its " + std::to_string(needed - 1));
  EXPECT_TRUE((*engine)->idle());
  auto enough = Engine::create(*model, {.cache_bytes = needed});
  EXPECT_TRUE((*enough)->submit({.prompt_ids = {1}, .max_new_tokens = 150}).ok());
}

TEST(LoadErrors, UnsupportedSettings) {
  EXPECT_CONTAINS(
      load_error(
          tiny_llama()
              .with("\"rms_norm_eps\"",
                    "\"rope_scaling\": {\"rope_type\": \"su\", \"factor\": 4}, \"rms_norm_eps\"")
              .write("rotary")),
      "rope_type: expected one of default, linear, dynamic, yarn, longrope, llama3, proportional");
  EXPECT_CONTAINS(load_error(tiny_bert().with("\"gelu\"", "\"mish\"").write("mish")), "mish");
}

TEST(LoadErrors, Plans) {
  const std::string folder = tiny_llama().write("plans");
  const auto with_plan = [&](const std::string& plan) {
    return load_error(folder, {.threads = 1, .plan_file = write_text(folder, "plan.json", plan)});
  };
  EXPECT_CONTAINS(with_plan("{"), "plan.json");
  EXPECT_CONTAINS(with_plan(R"({"version": 9, "threads": 1, "layers": []})"), "version");
  EXPECT_CONTAINS(with_plan(R"({"version": 1, "threads": 1, "layers": []})"),
                  "layers: expected a list, found []");
  EXPECT_CONTAINS(with_plan(R"({"version": 1, "threads": 1, "layers":
      [{"first": 0, "last": 1, "attention": [{"method": "magic"}]}]})"),
                  "magic");
  EXPECT_CONTAINS(with_plan(R"({"version": 1, "threads": 1, "layers":
      [{"first": 1, "last": 1, "attention": [{"method": "flash"}]}]})"),
                  "starts at layer 0");
}

TEST(LoadErrors, PlansOfTheWrongShape) {
  const std::string folder = tiny_llama().write("plan_shapes");
  const auto with_plan = [&](const std::string& plan) {
    return load_error(folder, {.threads = 1, .plan_file = write_text(folder, "plan.json", plan)});
  };
  EXPECT_CONTAINS(with_plan("[]"), "version: expected an integer");
  EXPECT_CONTAINS(with_plan(R"({"version": 18446744073709551615})"), "found 18446744073709551615");
  EXPECT_CONTAINS(with_plan(R"({"version": 1, "threads": 1, "layers": [5]})"),
                  "first: expected an integer");
  EXPECT_CONTAINS(
      with_plan(R"({"version": 1, "threads": 1, "layers": [{"first": 0, "last": 1, "attention":
      [{"method": "flash", "up_to_keys": 9}, {"method": "flash", "up_to_keys": 9}, {"method": "flash"}]}]})"),
      "up_to_keys: expected an integer from 10");
  // Deep enough to exhaust the stack of a reader that recurses.
  EXPECT_CONTAINS(
      with_plan("{\"version\": " + std::string(400000, '[') + std::string(400000, ']') + "}"),
      "deep");
  const std::string plan =
      write_text(folder, "good.json", Model::load(folder, {.threads = 1}).value()->plan_json());
  EXPECT_CONTAINS(
      load_error(folder, {.threads = 1, .weights = WeightType::kF32, .plan_file = plan}),
      "found both");
  EXPECT_CONTAINS(load_error(folder, {.cache = CacheType::kF32, .plan_file = plan}),
                  "expected a plan or a type of cache");
}

TEST(LoadErrors, WidthsThatOverflow) {
  EXPECT_CONTAINS(load_error(tiny_llama()
                                 .with("\"llama\"", "\"mistral\"")
                                 .with("num_attention_heads\": 4, \"num_key_value_heads\": 2",
                                       "num_attention_heads\": 16777216, \"head_dim\": 256")
                                 .write("widths")),
                  "16777216 x 256");
}

TEST(LoadErrors, HeadsThatAFamilyLacks) {
  EXPECT_CONTAINS(
      load_error(tiny_bert().with("BertForMaskedLM", "BertLMHeadModel").write("lm_head")),
      "no such head for bert");
  EXPECT_CONTAINS(
      load_error(
          tiny_llama().with("LlamaForCausalLM", "GPT2DoubleHeadsModel").write("double_heads")),
      "GPT2DoubleHeadsModel");
}

TEST(LoadErrors, UnknownNamesInTheEnvironment) {
  const std::string folder = tiny_llama().write("environment");
  setenv("TESSERA_ISA", "avx51", 1);
  EXPECT_CONTAINS(load_error(folder), "avx51");
  unsetenv("TESSERA_ISA");
  force_kernel("nrm:avx2");
  EXPECT_CONTAINS(load_error(folder), "nrm:avx2");
  force_kernel("norm:ref");
  EXPECT_TRUE(Model::load(folder, {.threads = 1}).ok());
  force_kernel("");
}

}  // namespace
}  // namespace tessera
