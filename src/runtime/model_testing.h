#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "tessera/engine.h"
#include "tessera/model.h"

namespace tessera::testing {

inline std::shared_ptr<Model> load(const std::string& folder, const LoadOptions& options = {}) {
  auto model = Model::load(folder, options);
  EXPECT_TRUE(model.ok()) << model.status().message();
  return *model;
}

inline std::unique_ptr<Engine> engine_of(const std::shared_ptr<Model>& model,
                                         const Engine::Options& options = {}) {
  auto engine = Engine::create(model, options);
  EXPECT_TRUE(engine.ok()) << engine.status().message();
  return std::move(*engine);
}

// A text of each of these lengths, for models with a vocabulary of 50 and a context of 40.
inline std::vector<TokenSequence> random_texts(uint32_t seed) {
  std::mt19937 generator(seed);
  std::vector<TokenSequence> all;
  for (const size_t length : {size_t{1}, size_t{2}, size_t{9}, size_t{33}, size_t{40}}) {
    TokenSequence text;
    while (text.ids.size() < length) text.ids.push_back(static_cast<int32_t>(generator() % 50));
    all.push_back(text);
  }
  return all;
}

}  // namespace tessera::testing
