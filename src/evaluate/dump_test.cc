#include <gtest/gtest.h>

#include <fstream>

#include "runtime/testing.h"
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
  EXPECT_FALSE(std::ifstream(folder + "/out.safetensors").good());
}

}  // namespace
}  // namespace tessera
