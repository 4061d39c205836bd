#include "io/model_directory.h"

#include <cstdlib>
#include <optional>

#include "io/other_tools.h"
#include "io/testing.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;
using testing::expect_message;
using testing::TempDir;

// Variables as they were once it goes.
class Variables {
 public:
  ~Variables() {
    for (const auto& [name, value] : before_) {
      value ? setenv(name.c_str(), value->c_str(), 1) : unsetenv(name.c_str());
    }
  }
  void set(const char* name, const std::optional<std::string>& value) {
    const char* const found = std::getenv(name);
    before_.emplace_back(name, found == nullptr ? std::nullopt : std::optional<std::string>(found));
    value ? setenv(name, value->c_str(), 1) : unsetenv(name);
  }

 private:
  std::vector<std::pair<std::string, std::optional<std::string>>> before_;
};

class FindModel : public ::testing::Test {
 protected:
  FindModel() {
    for (const char* name : {"HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"})
      variables_.set(name, std::nullopt);
    variables_.set("HF_HUB_CACHE", cache_.path());
    variables_.set("HOME", home_.path());
    put(cache_, "");
  }

  // A model whose refs/main names the second of two snapshots.
  static void put(const TempDir& dir, const std::string& folder) {
    const std::string repository = folder + "models--acme--tiny/";
    dir.put(repository + "refs/main", "0123\n");
    dir.put(repository + "snapshots/0000/config.json", "{}");
    dir.put(repository + "snapshots/0123/config.json", "{}");
  }
  static std::string found(const std::string& name) {
    const auto model = find_model(name);
    return model.ok() ? model->path : model.status().message();
  }

  TempDir cache_, home_;
  Variables variables_;
};

TEST_F(FindModel, AnOwnerAndANameAreLookedForInTheHubsCache) {
  const std::string snapshot = cache_ / "models--acme--tiny/snapshots/0123";
  for (const char* name : {"acme/tiny", "acme/tiny/", "models--acme--tiny"})
    EXPECT_EQ(found(name), snapshot) << name;
  // The folder of the cache by its path.
  EXPECT_EQ(found(cache_ / "models--acme--tiny"), snapshot);
  EXPECT_EQ(found(snapshot), snapshot);
  cache_.put("models--old/refs/main", "1");
  cache_.put("models--old/snapshots/1/config.json", "{}");
  EXPECT_EQ(found("old"), cache_ / "models--old/snapshots/1");
}

TEST_F(FindModel, TheCacheIsWhereTheVariablesOfTheHubSay) {
  variables_.set("HF_HUB_CACHE", std::nullopt);
  EXPECT_NE(found("acme/tiny").find(home_ / ".cache/huggingface/hub"), std::string::npos);
  put(home_, ".cache/huggingface/hub/");
  EXPECT_EQ(found("acme/tiny"), home_ / ".cache/huggingface/hub/models--acme--tiny/snapshots/0123");
  const TempDir xdg, hf, old;
  put(xdg, "huggingface/hub/");
  variables_.set("XDG_CACHE_HOME", xdg.path());
  EXPECT_EQ(found("acme/tiny"), xdg / "huggingface/hub/models--acme--tiny/snapshots/0123");
  put(hf, "hub/");
  variables_.set("HF_HOME", hf.path());
  EXPECT_EQ(found("acme/tiny"), hf / "hub/models--acme--tiny/snapshots/0123");
  put(old, "");
  variables_.set("HUGGINGFACE_HUB_CACHE", old.path());
  EXPECT_EQ(found("acme/tiny"), old / "models--acme--tiny/snapshots/0123");
  put(home_, "mine/");
  variables_.set("HF_HUB_CACHE", "~/mine");
  EXPECT_EQ(found("acme/tiny"), home_ / "mine/models--acme--tiny/snapshots/0123");
}

TEST_F(FindModel, ADirectoryOfThatNameGoesFirst) {
  const TempDir work;
  work.put("acme/tiny/config.json", "{}");
  const fs::path before = fs::current_path();
  fs::current_path(work.path());
  EXPECT_EQ(found("acme/tiny"), "acme/tiny");
  EXPECT_EQ(found("acme/tiny/"), "acme/tiny");
  fs::current_path(before);
}

TEST_F(FindModel, WhatIsMissingComesWithTheCommandThatFetchesIt) {
  const Status unknown = find_model("acme/large").status();
  EXPECT_EQ(unknown.code(), StatusCode::kNotFound);
  expect_message(unknown, {"acme/large", cache_.path().native(), "found neither",
                           "hf download acme/large --local-dir acme/large"});
  expect_message(find_model("models--acme--large").status(), {"hf download acme/large"});
  // A path is no name on the hub, even where it looks like one.
  expect_message(find_model("/no/such/model").status(),
                 {"found nothing", "hf download OWNER/model --local-dir /no/such/model"});
  const TempDir work;
  const fs::path before = fs::current_path();
  fs::create_directory(work / "models");
  fs::current_path(work.path());
  expect_message(find_model("models/minilm").status(),
                 {"found nothing", "hf download OWNER/minilm --local-dir models/minilm"});
  fs::current_path(before);
  for (const char* name : {"", "..", "../x", "a/b/c", "-x", "a b", "a/", "/"})
    EXPECT_FALSE(find_model(name).ok() && !fs::exists(name)) << name;
  EXPECT_FALSE(find_model(std::string(100'000, 'x')).ok());
}

TEST_F(FindModel, ACacheThatIsNotWholeSaysWhatToDo) {
  cache_.put("models--acme--tiny/refs/main", "4567");
  expect_message(find_model("acme/tiny").status(),
                 {"models--acme--tiny", "snapshot \"4567\"", "hf download acme/tiny"});
  // A ref is data from elsewhere.
  cache_.put("models--acme--tiny/refs/main", "../../models--acme--tiny/snapshots/0123");
  EXPECT_FALSE(find_model("acme/tiny").ok());
  fs::remove(cache_ / "models--acme--tiny/refs/main");
  expect_message(find_model("acme/tiny").status(),
                 {"refs/main", "found none", "snapshots/0000", "or", "snapshots/0123"});
  fs::create_directories(cache_ / "models--acme--empty/snapshots");
  expect_message(find_model("acme/empty").status(), {"hf download acme/empty"});
}

TEST_F(FindModel, FilesAndLinksThatLeadNowhereAreNamed) {
  const TempDir dir;
  expect_message(find_model(dir.put("model.safetensors", "x")).status(),
                 {"expected a directory", "found a file"});
  fs::create_symlink("nowhere", dir / "link");
  expect_message(find_model(dir / "link").status(), {"a link that leads nowhere (to nowhere)"});
  expect_message(find_model(dir.put("m.gguf", "x")).status(), {"GGUF", "llama.cpp", "--quantize"});
  expect_message(find_model(dir.put("blob", "GGUF\3")).status(), {"found a GGUF file"});
}

TEST(ModelDirectory, TheFirstModuleSaysWhereTheTransformerIs) {
  const TempDir dir;
  const auto folder = [&](const std::string& modules) {
    dir.put("modules.json", modules);
    const auto model = find_model(dir.path());
    EXPECT_TRUE(model.ok()) << model.status().message();
    EXPECT_EQ(model->path, dir.path());
    EXPECT_EQ(model->transformer_in("/x"),
              "/x" + model->transformer.substr(dir.path().native().size()));
    return model->transformer;
  };
  const auto module = [](const std::string& type, const std::string& path) {
    return R"([{"type": "sentence_transformers.models.)" + type + R"(", "path": ")" + path +
           R"("}, {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}])";
  };
  EXPECT_EQ(folder(module("Transformer", "0_Transformer")), dir / "0_Transformer");
  // What is wrong with it is told by whoever reads all of it.
  for (const std::string& modules :
       {module("Transformer", ""), module("Transformer", "../x"), module("Transformer", "/x"),
        module("Dense", "2_Dense"), std::string("{}"), std::string("[]"), std::string("[1]"),
        std::string("{")}) {
    EXPECT_EQ(folder(modules), dir.path()) << modules;
  }
}

TEST(OtherTools, AQuantizedModelIsRefusedByTheToolThatMadeIt) {
  struct Case {
    const char* config;
    const char* tool;
    const char* way_out;
  };
  for (const Case& each : std::initializer_list<Case>{
           {R"("quantization_config": {"quant_method": "gptq", "bits": 4})", "GPTQ", "w4"},
           {R"("quantization_config": {"quant_method": "gptq", "bits": 8})", "GPTQ", "int8"},
           {R"("quantization_config": {"quant_method": "awq", "bits": 4})", "AWQ", "w4"},
           {R"("quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": true})",
            "bitsandbytes", "w4"},
           {R"("quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": true})",
            "bitsandbytes", "int8"},
           {R"("quantization_config": {"load_in_8bit": true})", "bitsandbytes", "int8"},
           {R"("quantization_config": {"quant_method": "fp8"})", "FP8", "w8"},
           {R"("quantization_config": {"quant_method": "FP8"})", "FP8", "w8"},
           {R"("quantization_config": {"quant_method": "compressed-tensors",
               "format": "pack-quantized"})",
            "llm-compressor", "w4"},
           {R"("quantization_config": {"quant_method": "compressed-tensors",
               "format": "int-quantized"})",
            "llm-compressor", "int8"},
           {R"("compression_config": {"format": "int-quantized"})", "llm-compressor", "int8"},
           {R"("quantization_config": {"bits": 4, "group_size": 64})", "MLX", "w4"},
           {R"("quantization": {"bits": 8, "group_size": 64})", "MLX", "int8"},
           {R"("quantization_config": {"quant_method": "aqlm"})", "AQLM", "w4"},
           {R"("quantization_config": {"quant_method": "eetq", "weights": "int8"})", "EETQ",
            "int8"},
           {R"("quantization_config": {"quant_method": "hqq"})", "HQQ", "w4"},
           {R"("quantization_config": {"quant_method": "torchao"})", "torchao", "w4"},
           {R"("quantization_config": {"quant_method": "quanto", "weights": "int8"})", "Quanto",
            "int8"},
           {R"("quantization_config": {"producer": {"name": "modelopt"}, "quant_algo": "FP8"})",
            "ModelOpt", "w8"},
           {R"("quantization_config": {"quant_method": "next-year"})", "next-year", "w4"},
           {R"("quantization_config": {})", "another tool", "w4"},
           {R"("quantization_config": "gptq")", "another tool", "w4"},
       }) {
    const TempDir dir;
    dir.put("config.json", "{" + std::string(each.config) + "}");
    const Status status = check_other_tools(dir.path());
    EXPECT_EQ(status.code(), StatusCode::kUnsupported) << each.config;
    expect_message(status,
                   {dir.path().native(), "expected none, found", each.tool,
                    "take the unquantized model", "tessera compress --quantize", each.way_out});
  }
}

TEST(OtherTools, TheModelToTakeIsNamedWhereConfigNamesOne) {
  const TempDir dir;
  const auto message = [&](const std::string& base) {
    dir.put("config.json", R"({"quantization_config": {"quant_method": "awq"},
                              "_name_or_path": ")" +
                               base + "\"}");
    return check_other_tools(dir.path()).message();
  };
  EXPECT_NE(message("acme/base").find("made from (acme/base, as config.json has it)"),
            std::string::npos);
  for (const char* local : {"/root/acme/base", "./base", "models/acme/base", "base", ""})
    EXPECT_NE(message(local).find("made from, and"), std::string::npos) << local;
}

TEST(OtherTools, FilesThatToolsLeaveAreEnough) {
  const TempDir dir;
  dir.put("config.json", "{}");
  EXPECT_TRUE(check_other_tools(dir.path()).ok());
  // That of a conversion to ONNX, beside whole weights.
  dir.put("quantize_config.json", R"({"per_channel": true})");
  EXPECT_TRUE(check_other_tools(dir.path()).ok());
  dir.put("quantize_config.json", R"({"bits": 4, "desc_act": false})");
  expect_message(check_other_tools(dir.path()), {"quantize_config.json", "GPTQ"});
  fs::remove(dir / "quantize_config.json");
  dir.put("quant_config.json", R"({"w_bit": 4})");
  expect_message(check_other_tools(dir.path()), {"quant_config.json", "AWQ"});
}

TEST(OtherTools, WhatIsPlainIsLeftAlone) {
  const TempDir dir;
  for (const char* config : {"{}", R"({"quantization_config": null})", "{", "[]"}) {
    dir.put("config.json", config);
    EXPECT_TRUE(check_other_tools(dir.path()).ok()) << config;
  }
  EXPECT_TRUE(check_other_tools(dir / "nowhere").ok());
  // GGUF files beside weights that are read.
  dir.put("a.gguf", "GGUF");
  dir.put("model.safetensors", "");
  EXPECT_TRUE(check_other_tools(dir.path()).ok());
}

TEST(OtherTools, AnAdapterNamesItsModel) {
  const TempDir dir;
  dir.put("adapter_config.json",
          R"({"peft_type": "LORA", "base_model_name_or_path": "acme/base"})");
  dir.put("adapter_model.safetensors", "");
  expect_message(check_other_tools(dir.path()),
                 {"an adapter (LORA) of acme/base", "merge_and_unload"});
  dir.put("adapter_config.json", "{");
  expect_message(check_other_tools(dir.path()), {"an adapter", "merge_and_unload"});
  // What is left of the training of a model that was merged.
  fs::remove(dir / "adapter_model.safetensors");
  dir.put("model.safetensors", "");
  EXPECT_TRUE(check_other_tools(dir.path()).ok());
}

TEST(OtherTools, ADirectoryOfGgufFilesIsRefused) {
  const TempDir dir;
  dir.put("config.json", "{}");
  dir.put("tiny-q4.gguf", "GGUF");
  expect_message(check_other_tools(dir.path()), {"\"tiny-q4.gguf\"", "llama.cpp", "--quantize"});
}

}  // namespace
}  // namespace tessera
