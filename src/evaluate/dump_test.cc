#include <gtest/gtest.h>

#include <fstream>

#include "runtime/testing.h"
#include "tessera/engine.h"
#include "tessera/evaluate.h"

namespace tessera {
namespace {

using testing::tiny_bert;

std::string write_text(const std::string& folder, const std::string& name,
                       const std::string& text) {
  std::ofstream(folder + "/" + name) << text;
  return folder + "/" + name;
}

#define EXPECT_CONTAINS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

TEST(Dump, RefusesBadCases) {
  const std::string folder = tiny_bert().write("dump");
  const auto model = Model::load(folder, {.threads = 1});
  ASSERT_TRUE(model.ok());
  const auto error = [&](const std::string& cases) {
    return dump_cases(*model, write_text(folder, "cases.json", cases), folder + "/out.safetensors")
        .message();
  };
  EXPECT_CONTAINS(error("[]"), "list of cases");
  EXPECT_CONTAINS(error(R"({"cases": [{"name": "a"}]})"), "input_ids");
  EXPECT_CONTAINS(error(R"({"cases": [{"name": "a", "input_ids": [[1, 2], [3]]}]})"),
                  "equally long");
  EXPECT_CONTAINS(error(R"({"cases": [{"name": "a", "input_ids": [[1, 2.5]]}]})"), "integers");
  EXPECT_CONTAINS(
      error(R"({"cases": [{"name": "a", "input_ids": [[1, 2]], "attention_mask": [[0, 1]]}]})"),
      "ones and then zeros");
  EXPECT_CONTAINS(error(R"({"cases": [{"name": "a", "input_ids": [[1, 99]]}]})"), "found 99");
  EXPECT_CONTAINS(
      error(R"({"cases": [{"name": "a", "input_ids": [[1]]}, {"name": "a", "input_ids": [[1]]}]})"),
      "twice");
  EXPECT_CONTAINS(error("{\"cases\": [{\"name\": \"a\", \"input_ids\": [[1]], \"new_tokens\": " +
                        std::string(400000, '[') + std::string(400000, ']') + "}]}"),
                  "deep");
  EXPECT_CONTAINS(
      error(R"({"cases": [{"name": "a", "input_ids": [[1]], "new_tokens": 2, "beams": 0}]})"),
      "beams: expected an integer from 1 to 1024, found 0");
  EXPECT_CONTAINS(error(R"({"cases": [{"name": "a", "input_ids": [[1]], "new_token": 2}]})"),
                  "new_tokens, beams, global_attention_mask, found \"new_token\"");
  EXPECT_FALSE(std::ifstream(folder + "/out.safetensors").good());
}

TEST(Dump, ContinuesWithBeams) {
  const std::string folder = testing::tiny_llama().write("dump_beams");
  const auto model = Model::load(folder, {.threads = 1});
  ASSERT_TRUE(model.ok()) << model.status().message();
  const std::string cases = write_text(
      folder, "cases.json",
      R"({"cases": [{"name": "a", "input_ids": [[1, 2], [3, 4]], "new_tokens": 9, "beams": 4}]})");
  const Status status = dump_cases(*model, cases, folder + "/out.safetensors");
  ASSERT_TRUE(status.ok()) << status.message();
  const auto written = Safetensors::open(folder + "/out.safetensors");
  ASSERT_TRUE(written.ok());
  const TensorView& ids = written->tensors().at("a.ids");
  ASSERT_EQ(ids.shape, (std::vector<int64_t>{2, 9}));
  const auto* found = static_cast<const int32_t*>(ids.data);
  for (const std::vector<int32_t>& prompt : {std::vector<int32_t>{1, 2}, {3, 4}}) {
    const auto expected = generate(
        *model, {.prompt_ids = prompt, .max_new_tokens = 9, .beams = 4, .ignore_end = true});
    EXPECT_EQ(expected->ids, std::vector<int32_t>(found, found + 9));
    found += 9;
  }
}

}  // namespace
}  // namespace tessera
