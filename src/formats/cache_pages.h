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
// kI8: q[i] = round(x[i] / s) with s = max |x| / (2^(b-1) - 1) of a token in one head, b its
// IntegerBits, and x stands for s q[i], which is off by at most s / 2; each matrix is followed by
// its f32 scales s [kPageTokens]. Keys of two planes are two matrices, the upper one first. A byte
// belongs to one token. Every matrix begins at a multiple of 64 bytes of the page. What lies behind
// the last token of the last page is finite but has no meaning.
constexpr int32_t kPageTokens = 64;

// The bits of integers. A key of two planes is, exactly,
//   q = 2^lower u + l    u signed (an arithmetic shift of q), l unsigned
// and while l is not read it stands for the middle of what it can be, s (2^lower u + middle()),
// which is off by at most 2^lower s / 2 (SpAtten, section III.D). 4 bits are stored two in a byte,
// the element i in the lower half and i + (width + 1) / 2 in the upper one, 6 and 8 in a byte each.
struct IntegerBits {
  int32_t upper = 8;  // of keys: 4, 6 or 8
  int32_t lower = 0;  // of keys: 0 or 4
  int32_t value = 8;  // 4, 6 or 8

  int32_t key() const { return upper + lower; }
  double middle() const { return 0.5 * ((1 << lower) - 1); }
  // Whether other numbers than one byte each are stored.
  bool packs() const { return lower > 0 || upper == 4 || value == 4; }
};

struct PageShape {
  int32_t kv_heads = 0;
  int32_t d_k = 0;
  int32_t d_v = 0;
  // Heads of values: 0, one a KV head, or a multiple of kv_heads where the query heads of a group
  // have values of their own.
  int32_t value_heads = 0;
  DType dtype = DType::kF32;  // or kBF16, kI8
  IntegerBits bits = {};      // of kI8

  int32_t values_per_key() const { return value_heads == 0 ? 1 : value_heads / kv_heads; }
  int64_t key_width() const { return int64_t{kv_heads} * d_k; }
  int64_t value_width() const { return int64_t{kv_heads} * values_per_key() * d_v; }

  int64_t number_bytes() const { return dtype == DType::kF32 ? 4 : dtype == DType::kBF16 ? 2 : 1; }
  bool has_scales() const { return dtype == DType::kI8; }
  bool packs() const { return has_scales() && bits.packs(); }
  int32_t key_bits() const { return has_scales() ? bits.key() : bits_of_number(); }
  int32_t lower_bits() const { return has_scales() ? bits.lower : 0; }
  int32_t value_bits() const { return has_scales() ? bits.value : bits_of_number(); }

  // What one token has in one head: its key, of two planes the upper one, the lower plane, its
  // value, and the scale of either.
  int64_t key_bytes() const { return row_bytes(d_k, bits.upper); }
  int64_t lower_key_bytes() const { return lower_bits() > 0 ? row_bytes(d_k, bits.lower) : 0; }
  int64_t value_bytes() const { return row_bytes(d_v, bits.value); }
  int64_t scale_bytes() const { return has_scales() ? int64_t{sizeof(float)} : 0; }

  int64_t page_bytes() const { return kv_heads * head_bytes(); }
  // Where a matrix begins, in bytes from the page's begin.
  int64_t keys_at(int32_t kv_head) const { return kv_head * head_bytes(); }
  int64_t lower_keys_at(int32_t kv_head) const {
    return keys_at(kv_head) + kPageTokens * key_bytes();
  }
  int64_t values_at(int32_t value_head) const {
    const int32_t of_key = value_head % values_per_key();
    return keys_at(value_head / values_per_key()) + keys_bytes() + of_key * values_bytes();
  }
  // And its scales, of kI8.
  int64_t key_scales_at(int32_t kv_head) const {
    return lower_keys_at(kv_head) + kPageTokens * lower_key_bytes();
  }
  int64_t value_scales_at(int32_t value_head) const {
    return values_at(value_head) + kPageTokens * value_bytes();
  }

 private:
  int32_t bits_of_number() const { return static_cast<int32_t>(8 * number_bytes()); }
  int64_t row_bytes(int32_t width, int32_t bits_of_each) const {
    return has_scales() && bits_of_each == 4 ? (width + 1) / 2 : width * number_bytes();
  }
  int64_t keys_bytes() const {
    return kPageTokens * (key_bytes() + lower_key_bytes() + scale_bytes());
  }
  int64_t values_bytes() const { return kPageTokens * (value_bytes() + scale_bytes()); }
  int64_t head_bytes() const { return keys_bytes() + values_per_key() * values_bytes(); }
};

constexpr int32_t pages_for(int32_t tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }

// The page table of one sequence in one layer. Pages belong to a pool or to a pass's scratch
// memory; pages must be there for `tokens` plus what is about to be appended. The first pages may
// be gone because no later query sees their keys: pages and positions are those that are left.
struct PageTable {
  std::vector<std::byte*> pages;   // aligned to 64 bytes
  std::vector<int32_t> positions;  // [tokens]: original position of each key, in KeyOrder
  int32_t dropped = 0;  // tokens that stood before the first page, a multiple of a page's

  int32_t tokens() const { return static_cast<int32_t>(positions.size()); }
  // All that were appended. Methods choose and cut by it, so that dropping pages changes no bit.
  int32_t appended() const { return dropped + tokens(); }
};

}  // namespace tessera
