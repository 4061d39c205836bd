#include <gtest/gtest.h>

#include <cstring>
#include <stdexcept>
#include <string>
#include <thread>

#include "runtime/tasks/testing.h"
#include "tessera/tessera.h"

// The C interface where it differs from the C++ one; tests/install/c_test.c calls all of it from C.
namespace tessera {
namespace {

tessera_model* load_encoder(const std::string& name) {
  const std::string folder = testing::tiny_bert().write(name);
  testing::write_tiny_tokenizer(folder);
  return tessera_load(folder.c_str(), nullptr);
}

TEST(CInterface, GivesTheVectorsOfTheCppInterface) {
  const std::string folder = testing::tiny_bert().write("c_embed");
  testing::write_tiny_tokenizer(folder);
  tessera_model* model = tessera_load(folder.c_str(), nullptr);
  ASSERT_NE(model, nullptr) << tessera_error();
  const Result<Vectors> expected = embed(folder, {"a b", "c"});
  ASSERT_TRUE(expected.ok()) << expected.status().message();
  const char* const texts[] = {"a b", "c"};
  const auto size = static_cast<size_t>(tessera_embedding_size(model));
  std::vector<float> vectors(2 * size);
  ASSERT_EQ(tessera_embed(model, texts, 2, vectors.data()), 0) << tessera_error();
  EXPECT_EQ(std::vector(vectors.begin(), vectors.begin() + static_cast<int64_t>(size)),
            (*expected)[0]);
  EXPECT_EQ(std::vector(vectors.begin() + static_cast<int64_t>(size), vectors.end()),
            (*expected)[1]);
  tessera_free(model);
}

TEST(CInterface, ErrorsBelongToTheirThread) {
  EXPECT_EQ(tessera_load("/nowhere", nullptr), nullptr);
  const std::string here = tessera_error();
  std::thread([] {
    EXPECT_STREQ(tessera_error(), "");
    EXPECT_EQ(tessera_load(nullptr, nullptr), nullptr);
  }).join();
  EXPECT_EQ(tessera_error(), here);
}

TEST(CInterface, WhatACallbackThrowsStaysInside) {
  const std::string folder = testing::tiny_llama().write("c_throws");
  testing::write_tiny_tokenizer(folder);
  tessera_model* model = tessera_load(folder.c_str(), nullptr);
  ASSERT_NE(model, nullptr) << tessera_error();
  const auto throws = [](const char*, void*) -> int { throw 7; };
  const tessera_generate_options options{.max_tokens = 8};
  EXPECT_EQ(tessera_generate(model, "a b", &options, throws, nullptr), -1);
  EXPECT_NE(std::string(tessera_error()).find("callback"), std::string::npos) << tessera_error();
  const auto takes = [](const char*, void*) { return 0; };
  EXPECT_EQ(tessera_generate(model, "a b", &options, takes, nullptr), 0) << tessera_error();
  tessera_free(model);
}

TEST(CInterface, RefusesWhatCannotBe) {
  tessera_model* model = load_encoder("c_refuses");
  ASSERT_NE(model, nullptr) << tessera_error();
  const auto takes = [](const char*, void*) { return 0; };
  EXPECT_EQ(tessera_generate(model, "a", nullptr, takes, nullptr), -1);
  const char* const texts[] = {"a"};
  EXPECT_EQ(tessera_embed(model, texts, 1, nullptr), -1);
  EXPECT_NE(std::strstr(tessera_error(), "tessera_embed: expected no NULL"), nullptr);
  tessera_free(model);
}

}  // namespace
}  // namespace tessera
