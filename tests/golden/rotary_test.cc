#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "io/safetensors.h"
#include "tessera/engine.h"

// Every way in which rotary positions are written, and keys that a family has or has not, against
// transformers 5.24: logits of the prompt within 1e-4 of the largest one, the same greedy
// continuation however the prompt is cut into parts, and a refusal that names the cause where
// transformers gives up. rotary/make.py makes the outputs.
namespace tessera {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr double kTolerance = 1e-4;
const std::string kFolder = TESSERA_GOLDEN "/rotary";

const std::map<std::string, json>& cases() {
  static const auto all = [] {
    std::map<std::string, json> read;
    const json file = json::parse(std::ifstream(kFolder + "/cases.json"));
    for (const json& one : file["cases"]) read[one["name"]] = one;
    return read;
  }();
  return all;
}

// In the order of the names; those that transformers runs, or all.
enum class Which { kAll, kRun };
std::vector<std::string> names(Which which) {
  std::vector<std::string> found;
  for (const auto& [name, one] : cases())
    if (which == Which::kAll || !one.contains("error")) found.push_back(name);
  return found;
}

class GoldenRotary : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    folder_ =
        ::testing::TempDir() + "/tessera_rotary_" + GetParam() + "_" + std::to_string(getpid());
    fs::create_directories(folder_);
    std::ofstream(folder_ + "/config.json") << golden()["config"];
    fs::copy_file(kFolder + "/model.safetensors", folder_ + "/model.safetensors",
                  fs::copy_options::overwrite_existing);
  }
  void TearDown() override { fs::remove_all(folder_); }

  Result<std::shared_ptr<Model>> load() const { return Model::load(folder_, {.threads = 2}); }
  static const json& golden() { return cases().at(GetParam()); }
  static std::vector<int32_t> ids(const char* key) {
    return golden()[key].get<std::vector<int32_t>>();
  }

  std::string folder_;
};

TEST_P(GoldenRotary, LogitsOrARefusal) {
  const auto model = load();
  if (golden().contains("error")) {
    ASSERT_FALSE(model.ok()) << "transformers: " << golden()["error"];
    EXPECT_NE(model.status().message().find("config.json"), std::string::npos);
    EXPECT_NE(model.status().message().find(golden()["names"].get<std::string>()),
              std::string::npos)
        << model.status().message();
    return;
  }
  ASSERT_TRUE(model.ok()) << model.status().message();
  const auto found = (*model)->forward({{ids("prompt"), {}}}, {});
  ASSERT_TRUE(found.ok()) << found.status().message();
  const auto file = Safetensors::open(kFolder + "/logits.safetensors");
  ASSERT_TRUE(file.ok()) << file.status().message();
  const TensorView& expected = file->tensors().at(GetParam());
  ASSERT_EQ(expected.size_bytes, found->logits.size() * sizeof(float));
  std::vector<float> logits(found->logits.size());
  std::memcpy(logits.data(), expected.data, expected.size_bytes);
  double largest = 0, difference = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    largest = std::max(largest, std::abs(double{logits[i]}));
    difference = std::max(difference, std::abs(double{logits[i]} - found->logits[i]));
  }
  EXPECT_LE(difference, kTolerance * largest);
}

class GoldenContinuation : public GoldenRotary {};

TEST_P(GoldenContinuation, WhateverRunsBeside) {
  const auto model = load();
  ASSERT_TRUE(model.ok()) << model.status().message();
  for (const bool alone : {true, false}) {
    SCOPED_TRACE(alone ? "the prompt at once" : "the prompt in parts beside another request");
    const auto engine = Engine::create(*model, {.step_tokens = 4});
    ASSERT_TRUE(engine.ok()) << engine.status().message();
    if (!alone) {
      ASSERT_TRUE((*engine)
                      ->submit({.prompt_ids = {3, 1, 4}, .max_new_tokens = 29, .ignore_end = true})
                      .ok());
      ASSERT_TRUE((*engine)->step().ok());
    }
    const std::vector<int32_t> expected = ids("continuation");
    const auto number = (*engine)->submit({.prompt_ids = ids("prompt"),
                                           .max_new_tokens = static_cast<int32_t>(expected.size()),
                                           .ignore_end = true});
    ASSERT_TRUE(number.ok()) << number.status().message();
    std::vector<int32_t> found;
    while (!(*engine)->idle()) {
      const auto events = (*engine)->step();
      ASSERT_TRUE(events.ok()) << events.status().message();
      for (const Event& event : *events) {
        if (event.request == *number) found.push_back(event.token);
      }
    }
    EXPECT_EQ(found, expected);
  }
}

std::string test_name(const ::testing::TestParamInfo<std::string>& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(All, GoldenRotary, ::testing::ValuesIn(names(Which::kAll)), test_name);
INSTANTIATE_TEST_SUITE_P(All, GoldenContinuation, ::testing::ValuesIn(names(Which::kRun)),
                         test_name);

}  // namespace
}  // namespace tessera
