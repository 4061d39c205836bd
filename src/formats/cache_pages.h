#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/dtype.h"

namespace tessera {

// Keys and values of kPageTokens tokens of one sequence in one layer, as numbers of PageShape's
// dtype. Per KV head, heads one after another:
//   keys transposed [d_k][kPageTokens], so that scores are products with a 64-wide panel, then
//   values [kPageTokens][d_v] of each of its value heads.
// kI8: q[i] = round(x[i] / s) with s = max |x| / 127 of a token in one head, and x stands for s
// q[i]; each matrix is followed by its f32 scales s [kPageTokens]. Every matrix begins at a
// multiple of 64 bytes of the page. What lies behind the last token of the last page is finite but
// has no meaning.
constexpr int32_t kPageTokens = 64;

struct PageShape {
  int32_t kv_heads = 0;
  int32_t d_k = 0;
  int32_t d_v = 0;
  // Heads of values: 0, one a KV head, or a multiple of kv_heads where the query heads of a group
  // have values of their own.
  int32_t value_heads = 0;
  DType dtype = DType::kF32;  // or kBF16, kI8

  int32_t values_per_key() const { return value_heads == 0 ? 1 : value_heads / kv_heads; }
  int64_t key_width() const { return int64_t{kv_heads} * d_k; }
  int64_t value_width() const { return int64_t{kv_heads} * values_per_key() * d_v; }

  int64_t number_bytes() const { return dtype == DType::kF32 ? 4 : dtype == DType::kBF16 ? 2 : 1; }
  int64_t page_bytes() const { return kv_heads * head_bytes(); }
  // Where a matrix begins, in bytes from the page's begin.
  int64_t keys_at(int32_t kv_head) const { return kv_head * head_bytes(); }
  int64_t values_at(int32_t value_head) const {
    const int32_t of_key = value_head % values_per_key();
    return keys_at(value_head / values_per_key()) + matrix_bytes(d_k) + of_key * matrix_bytes(d_v);
  }
  // And its scales, of kI8.
  int64_t key_scales_at(int32_t kv_head) const { return keys_at(kv_head) + numbers_bytes(d_k); }
  int64_t value_scales_at(int32_t value_head) const {
    return values_at(value_head) + numbers_bytes(d_v);
  }

 private:
  int64_t numbers_bytes(int64_t width) const { return kPageTokens * width * number_bytes(); }
  int64_t matrix_bytes(int64_t width) const {
    const int64_t scales = dtype == DType::kI8 ? kPageTokens * int64_t{sizeof(float)} : 0;
    return numbers_bytes(width) + scales;
  }
  int64_t head_bytes() const { return matrix_bytes(d_k) + values_per_key() * matrix_bytes(d_v); }
};

constexpr int32_t pages_for(int32_t tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }

// The page table of one sequence in one layer. Pages belong to a pool or to a pass's scratch
// memory; pages must be there for `tokens` plus what is about to be appended. The first pages may
// be gone because no later query sees their keys: pages and positions are those that are left.
struct PageTable {
  std::vector<std::byte*> pages;   // aligned to 64 bytes
  std::vector<int32_t> positions;  // [tokens]: original position of each key, ascending
  int32_t dropped = 0;  // tokens that stood before the first page, a multiple of a page's

  int32_t tokens() const { return static_cast<int32_t>(positions.size()); }
  // All that were appended. Methods choose and cut by it, so that dropping pages changes no bit.
  int32_t appended() const { return dropped + tokens(); }
};

}  // namespace tessera
