#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "runtime/testing.h"
#include "tessera/engine.h"

namespace tessera::testing {

inline std::shared_ptr<Model> tiny_model(int threads = 1, CacheType cache = CacheType::kF32) {
  static const std::string folder = tiny_llama().write("engine");
  auto model = Model::load(folder, {.threads = threads, .cache = cache});
  EXPECT_TRUE(model.ok()) << model.status().message();
  return *model;
}

// The greedy continuation without a cache: the whole sequence anew for every token.
inline std::vector<int32_t> greedy_without_cache(Model& model, std::vector<int32_t> ids,
                                                 int32_t count) {
  std::vector<int32_t> generated;
  for (int32_t i = 0; i < count; ++i) {
    const auto result = model.forward({{ids, {}}});
    EXPECT_TRUE(result.ok());
    const auto last = result->logits.end() - result->logits_width;
    generated.push_back(static_cast<int32_t>(std::max_element(last, result->logits.end()) - last));
    ids.push_back(generated.back());
  }
  return generated;
}

inline std::vector<int32_t> prompt_of(int32_t length) {
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < length; ++i) ids.push_back((11 * i + 3) % 49);
  return ids;
}

}  // namespace tessera::testing
