#include "attention/remove_keys.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

#include "attention/testing.h"

namespace tessera::testing {
namespace {

// Everything that a page holds of the token with a position.
using Token = std::vector<float>;

std::map<int32_t, Token> tokens_of(const Batch& batch) {
  const PageShape& shape = batch.shape().pages;
  const PageTable& table = batch.tables().front();
  std::map<int32_t, Token> tokens;
  for (int32_t key = 0; key < table.tokens(); ++key) {
    Token& token = tokens[table.positions[static_cast<size_t>(key)]];
    for (int32_t head = 0; head < shape.kv_heads; ++head)
      for (int32_t d = 0; d < shape.d_k; ++d) token.push_back(batch.cached_key(0, key, head, d));
    for (int32_t head = 0; head < shape.kv_heads * shape.values_per_key(); ++head)
      for (int32_t d = 0; d < shape.d_v; ++d) token.push_back(batch.cached_value(0, key, head, d));
  }
  return tokens;
}

void expect_removed(const AttentionShape& shape, int32_t keys, double share, KeyOrder order) {
  Batch batch({.shape = shape, .lengths = {{1, keys}}, .seed = 77});
  const std::map<int32_t, Token> before = tokens_of(batch);
  // The batch's own table, whose pages it owns.
  auto& table = const_cast<PageTable&>(batch.tables().front());
  std::mt19937 generator(static_cast<uint32_t>(keys));
  std::bernoulli_distribution leaves_chance(share);
  std::vector<uint8_t> leaves;
  std::vector<int32_t> left;
  for (int32_t key = 0; key < keys; ++key) {
    leaves.push_back(leaves_chance(generator) ? 1 : 0);
    if (leaves.back() == 0) left.push_back(table.positions[static_cast<size_t>(key)]);
  }
  remove_keys(shape.pages, leaves, order, table);
  std::vector<int32_t> found = table.positions;
  if (order == KeyOrder::kAny) std::sort(found.begin(), found.end());
  EXPECT_EQ(left, found);
  for (const auto& [position, token] : tokens_of(batch)) EXPECT_EQ(before.at(position), token);
}

TEST(RemoveKeys, WhatStaysKeepsItsNumbers) {
  std::vector<PageType> types(std::begin(kIntegerTypes), std::end(kIntegerTypes));
  for (const DType dtype : kPageTypes) types.push_back({.dtype = dtype});
  for (const PageType& type : types) {
    for (const bool summed : {false, true}) {
      const AttentionShape shape =
          in_pages(type, summed ? summed_shape(6, 3, 12, 20) : shape_of(3, 3, 19, 20));
      for (const int32_t keys : {1, 64, 65, 200}) {
        for (const double share : {0.0, 0.02, 0.5, 0.9, 1.0}) {
          for (const KeyOrder order : {KeyOrder::kKept, KeyOrder::kAny}) {
            SCOPED_TRACE(::testing::Message()
                         << to_string(type) << ", " << keys << " keys, " << share << " leave");
            expect_removed(shape, keys, share, order);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace tessera::testing
