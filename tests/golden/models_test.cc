#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "base/isa.h"
#include "io/safetensors.h"
#include "tessera/engine.h"
#include "tessera/evaluate.h"

// Every model of the reference outputs against transformers: logits and hidden states within 1e-4
// of the largest reference value, greedy continuations identical; on every instruction set, with
// every attention method, and independent of the number of threads.
namespace tessera {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr double kTolerance = 1e-4;

std::string shared_directory() {
  const char* path = std::getenv("TESSERA_SHARED");
  return path != nullptr && fs::exists(std::string(path) + "/golden/models") ? path : "";
}

// Named here and not read from the folder, since a test must have its name where the data is
// absent: what is skipped is seen then.
const std::vector<std::string> kModels = {"bert-classify",  "bert-classify-bf16",
                                          "bert-mlm",       "bert-qa",
                                          "bert-tokens",    "distilbert-classify",
                                          "gpt-bigcode",    "gpt2",
                                          "gpt2-f16",       "llama-gqa",
                                          "llama-gqa-bf16", "llama-mqa",
                                          "llama3-rope",    "llama3-rope-oldconfig",
                                          "mistral-window", "qwen2",
                                          "qwen3",          "roberta-classify",
                                          "roberta-mlm"};

// Those of golden/families that Tessera runs.
const std::vector<std::string> kFamilies = {"qwen3-bidirectional", "xlm-roberta-classify"};

std::vector<std::string> models_and_families() {
  std::vector<std::string> all = kModels;
  all.insert(all.end(), kFamilies.begin(), kFamilies.end());
  return all;
}

std::string directory_of(const std::string& name) {
  const bool is_family = std::count(kFamilies.begin(), kFamilies.end(), name) > 0;
  return shared_directory() + (is_family ? "/golden/families/" : "/golden/models/") + name;
}

TEST(GoldenModels, AreAllTested) {
  if (shared_directory().empty()) GTEST_SKIP() << "TESSERA_SHARED names no reference outputs";
  for (const auto& entry : fs::directory_iterator(shared_directory() + "/golden/models")) {
    const std::string name = entry.path().filename();
    if (!entry.is_directory() || name.starts_with("longformer")) continue;
    EXPECT_EQ(std::count(kModels.begin(), kModels.end(), name), 1) << name;
  }
}

const float* floats(const TensorView& tensor) { return static_cast<const float*>(tensor.data); }

// The part of an expected tensor that stands for real tokens: rows of a batch case behind the mask
// are skipped.
void compare(const std::string& name, const TensorView& expected, const TensorView& found,
             const json& mask) {
  ASSERT_EQ(expected.shape, found.shape) << name;
  const auto& shape = expected.shape;
  int64_t count = 1;
  for (int64_t extent : shape) count *= extent;
  const bool per_token =
      !mask.is_null() && shape.size() >= 2 && shape[1] == static_cast<int64_t>(mask[0].size());
  const int64_t inner = per_token ? count / (shape[0] * shape[1]) : count;
  double largest = 0, difference = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t token = per_token ? i / inner : 0;
    if (per_token &&
        mask[static_cast<size_t>(token / shape[1])][static_cast<size_t>(token % shape[1])] == 0)
      continue;
    float e, f;
    std::memcpy(&e, floats(expected) + i, sizeof(e));
    std::memcpy(&f, floats(found) + i, sizeof(f));
    largest = std::max(largest, std::abs(static_cast<double>(e)));
    difference =
        std::max(difference, std::isfinite(f) ? std::abs(static_cast<double>(e) - f) : INFINITY);
  }
  EXPECT_LE(difference, kTolerance * largest) << name << ": largest reference value " << largest;
}

struct Golden {
  std::string directory;
  json cases;
  Safetensors tensors;
};

Golden read_golden(const std::string& name) {
  Golden golden;
  golden.directory = directory_of(name);
  golden.cases = json::parse(std::ifstream(golden.directory + "/golden.json"))["cases"];
  auto tensors = Safetensors::open(golden.directory + "/golden.safetensors");
  EXPECT_TRUE(tensors.ok()) << tensors.status().message();
  golden.tensors = std::move(tensors).value();
  return golden;
}

void check_dump(const Golden& golden, const Safetensors& found) {
  for (const json& one : golden.cases) {
    const std::string name = one["name"];
    if (one.contains("expect")) {
      const auto& ids = found.tensors().at(name + ".ids");
      const std::vector<int32_t> expected = one["expect"];
      const auto* got = static_cast<const int32_t*>(ids.data);
      EXPECT_EQ(expected, std::vector<int32_t>(got, got + expected.size())) << name;
    }
    for (const auto& [key, tensor] : golden.tensors.tensors()) {
      if (!key.starts_with(name + ".") || key.find(".attention.") != std::string::npos) continue;
      ASSERT_TRUE(found.tensors().contains(key)) << key;
      compare(key, tensor, found.tensors().at(key), one.value("attention_mask", json()));
    }
  }
}

// The cases without what the reference gave for them.
void write_inputs(const Golden& golden, const std::string& path) {
  json cases = golden.cases;
  for (json& one : cases) {
    const std::vector<std::string> keys = {
        "name",      "input_ids", "attention_mask", "token_type_ids", "global_attention_mask",
        "new_tokens"};
    json inputs;
    for (const std::string& key : keys) {
      if (one.contains(key)) inputs[key] = one[key];
    }
    one = std::move(inputs);
  }
  std::ofstream(path) << json{{"cases", std::move(cases)}};
}

void check_model(const Golden& golden, const LoadOptions& options) {
  const auto model = Model::load(golden.directory, options);
  ASSERT_TRUE(model.ok()) << model.status().message();
  const std::string path =
      ::testing::TempDir() + "/dump_" + std::to_string(getpid()) + ".safetensors";
  const std::string cases = path + ".json";
  write_inputs(golden, cases);
  const Status status = dump_cases(*model, cases, path);
  fs::remove(cases);
  ASSERT_TRUE(status.ok()) << status.message();
  const auto found = Safetensors::open(path);
  ASSERT_TRUE(found.ok()) << found.status().message();
  check_dump(golden, *found);
  fs::remove(path);
}

// A plan that forces one attention method in every layer.
std::string plan_with(const Model& model, const std::string& method, const char* vo = "auto") {
  json plan = json::parse(model.plan_json());
  for (json& layer : plan["layers"]) {
    layer["attention"] = {{{"method", method}}};
    layer["precompute_vo"] = {{"method", vo}};
  }
  const std::string path =
      ::testing::TempDir() + "/plan_" + method + std::to_string(getpid()) + ".json";
  std::ofstream(path) << plan.dump();
  return path;
}

class GoldenModel : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (shared_directory().empty()) GTEST_SKIP() << "TESSERA_SHARED names no reference outputs";
    ASSERT_TRUE(fs::exists(directory_of(GetParam())));
  }
  void TearDown() override { set_isa_cap(Isa::kCuda); }
};

TEST_P(GoldenModel, AgreesOnEveryInstructionSet) {
  const Golden golden = read_golden(GetParam());
  for (Isa isa : available_isas()) {
    SCOPED_TRACE(std::string("instruction set ") + std::string(name(isa)));
    set_isa_cap(isa);
    check_model(golden, {.threads = 1});
  }
}

TEST_P(GoldenModel, AgreesWithEveryAttentionMethod) {
  const Golden golden = read_golden(GetParam());
  const auto model = Model::load(golden.directory, {.threads = 1});
  ASSERT_TRUE(model.ok()) << model.status().message();
  for (const char* method : {"unfused", "on_the_fly", "flash"}) {
    SCOPED_TRACE(method);
    check_model(golden, {.threads = 1, .plan_file = plan_with(**model, method)});
  }
}

// All features kept, so that it is slow, and exact all the same: in f32, since bf16 would round the
// products.
TEST_P(GoldenModel, AgreesWithPrecomputedVo) {
  const Golden golden = read_golden(GetParam());
  for (const int threads : {1, 2}) {
    check_model(
        golden,
        {.threads = threads, .weights = WeightType::kF32, .precompute_vo = PrecomputeVo::kOn});
  }
  const auto model = Model::load(golden.directory, {.threads = 1, .weights = WeightType::kF32});
  ASSERT_TRUE(model.ok()) << model.status().message();
  for (const char* method : {"unfused", "flash"}) {
    SCOPED_TRACE(method);
    check_model(golden, {.threads = 1, .plan_file = plan_with(**model, method, "precomputed")});
  }
}

TEST_P(GoldenModel, AgreesOnTwoThreadsAndRepeats) {
  const Golden golden = read_golden(GetParam());
  check_model(golden, {.threads = 2});
  const auto model = Model::load(golden.directory, {.threads = 2});
  ASSERT_TRUE(model.ok()) << model.status().message();
  const std::vector<TokenSequence> batch = {
      {{3, 5, 8, 13, 21, 34}, {}}, {{7}, {}}, {{9, 10, 11}, {}}};
  const auto first = (*model)->forward(batch, {.hidden_states = true});
  ASSERT_TRUE(first.ok()) << first.status().message();
  for (int repeat = 0; repeat < 3; ++repeat) {
    const auto again = (*model)->forward(batch, {.hidden_states = true});
    ASSERT_TRUE(again.ok());
    EXPECT_EQ(first->logits, again->logits);
    EXPECT_EQ(first->hidden_states, again->hidden_states);
  }
}

// The goldens were made without end tokens.
TEST_P(GoldenModel, AgreesWithFourBeams) {
  const Golden golden = read_golden(GetParam());
  std::vector<json> cases;
  for (const json& one : golden.cases) {
    if (one.contains("beam4_new12")) cases.push_back(one);
  }
  if (cases.empty()) GTEST_SKIP() << "the reference has no beams";
  const auto model = Model::load(golden.directory, {.threads = 1});
  ASSERT_TRUE(model.ok()) << model.status().message();
  const auto engine = Engine::create(*model, {});
  ASSERT_TRUE(engine.ok()) << engine.status().message();
  std::map<int64_t, std::vector<int32_t>> expected, found;
  for (const json& one : cases) {
    const auto number = (*engine)->submit(
        {.prompt_ids = one["input_ids"][0], .max_new_tokens = 12, .beams = 4, .ignore_end = true});
    ASSERT_TRUE(number.ok()) << number.status().message();
    expected[*number] = one["beam4_new12"].get<std::vector<int32_t>>();
  }
  while (!(*engine)->idle()) {
    const auto events = (*engine)->step();
    ASSERT_TRUE(events.ok()) << events.status().message();
    for (const Event& event : *events) found[event.request].push_back(event.token);
  }
  EXPECT_EQ(found, expected);
}

INSTANTIATE_TEST_SUITE_P(All, GoldenModel, ::testing::ValuesIn(models_and_families()),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace tessera
