#pragma once

#include <cstdint>
#include <vector>

namespace tessera {

// Keys and values of kPageTokens tokens of one sequence in one layer, f32. Per KV head, heads one
// after another:
//   keys transposed [d_k][kPageTokens], so that scores are products with a 64-wide panel, then
//   values [kPageTokens][d_v] of each of its value heads. What lies behind the last token of the
//   last page is finite but has no meaning.
constexpr int32_t kPageTokens = 64;

struct PageShape {
  int32_t kv_heads = 0;
  int32_t d_k = 0;
  int32_t d_v = 0;
  // Heads of values: 0, one a KV head, or a multiple of kv_heads where the query heads of a group
  // have values of their own.
  int32_t value_heads = 0;

  int32_t values_per_key() const { return value_heads == 0 ? 1 : value_heads / kv_heads; }
  int64_t key_width() const { return int64_t{kv_heads} * d_k; }
  int64_t value_width() const { return int64_t{kv_heads} * values_per_key() * d_v; }
  int64_t head_floats() const {
    return int64_t{kPageTokens} * (d_k + int64_t{values_per_key()} * d_v);
  }
  int64_t page_floats() const { return kv_heads * head_floats(); }
  int64_t keys_at(int32_t kv_head) const { return kv_head * head_floats(); }
  int64_t values_at(int32_t value_head) const {
    const int32_t of_key = value_head % values_per_key();
    return keys_at(value_head / values_per_key()) +
           int64_t{kPageTokens} * (d_k + int64_t{of_key} * d_v);
  }
};

constexpr int32_t pages_for(int32_t tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }

// The page table of one sequence in one layer. Pages belong to a pool or to a pass's scratch
// memory; pages must be there for `tokens` plus what is about to be appended.
struct PageTable {
  std::vector<float*> pages;
  std::vector<int32_t> positions;  // [tokens]: original position of each key, ascending
  int32_t tokens() const { return static_cast<int32_t>(positions.size()); }
};

}  // namespace tessera
