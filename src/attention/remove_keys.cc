#include "attention/remove_keys.h"

#include <algorithm>

namespace tessera {
namespace {

constexpr size_t at(int64_t index) { return static_cast<size_t>(index); }

// Where a key stands.
struct Place {
  std::byte* page = nullptr;
  int64_t token = 0;  // of the page

  template <typename Number>
  Number* numbers(int64_t offset) const {
    return reinterpret_cast<Number*>(page + offset);
  }
};

Place place_of(const PageTable& table, int64_t key) {
  return {table.pages[at(key / kPageTokens)], key % kPageTokens};
}

// A column of a transposed matrix of so many bytes a token.
template <typename Number>
void move_column(int64_t matrix, int64_t bytes, const Place& from, const Place& to) {
  const auto* source = from.numbers<Number>(matrix) + from.token;
  auto* target = to.numbers<Number>(matrix) + to.token;
  for (int64_t i = 0; i < bytes / int64_t{sizeof(Number)}; ++i)
    target[i * kPageTokens] = source[i * kPageTokens];
}

// A column of the keys, of both planes where there are two, and a row of each value head.
template <typename Number>
void move_numbers(const PageShape& shape, const Place& from, const Place& to) {
  for (int32_t head = 0; head < shape.kv_heads; ++head) {
    move_column<Number>(shape.keys_at(head), shape.key_bytes(), from, to);
    move_column<Number>(shape.lower_keys_at(head), shape.lower_key_bytes(), from, to);
  }
  const int64_t bytes = shape.value_bytes();
  for (int32_t head = 0; head < shape.kv_heads * shape.values_per_key(); ++head) {
    std::copy_n(from.page + shape.values_at(head) + from.token * bytes, bytes,
                to.page + shape.values_at(head) + to.token * bytes);
  }
}

void move_scales(const PageShape& shape, const Place& from, const Place& to) {
  for (int32_t head = 0; head < shape.kv_heads; ++head) {
    const int64_t scales = shape.key_scales_at(head);
    to.numbers<float>(scales)[to.token] = from.numbers<float>(scales)[from.token];
  }
  for (int32_t head = 0; head < shape.kv_heads * shape.values_per_key(); ++head) {
    const int64_t scales = shape.value_scales_at(head);
    to.numbers<float>(scales)[to.token] = from.numbers<float>(scales)[from.token];
  }
}

void move_key(const PageShape& shape, PageTable& table, int64_t from_key, int64_t to_key) {
  const Place from = place_of(table, from_key), to = place_of(table, to_key);
  switch (shape.dtype) {
    case DType::kBF16:
      move_numbers<uint16_t>(shape, from, to);
      break;
    case DType::kI8:
      move_numbers<int8_t>(shape, from, to);
      move_scales(shape, from, to);
      break;
    default:
      move_numbers<float>(shape, from, to);
  }
  table.positions[at(to_key)] = table.positions[at(from_key)];
}

}  // namespace

void remove_keys(const PageShape& shape, std::span<const uint8_t> leaves, KeyOrder order,
                 PageTable& table) {
  const auto keys = static_cast<int64_t>(leaves.size());
  const int64_t left = std::count(leaves.begin(), leaves.end(), uint8_t{0});
  if (order == KeyOrder::kAny) {
    int64_t last = left;
    for (int64_t gap = 0; gap < left; ++gap) {
      if (leaves[at(gap)] == 0) continue;
      while (leaves[at(last)] != 0) ++last;
      move_key(shape, table, last++, gap);
    }
  } else {
    for (int64_t key = 0, target = 0; key < keys; ++key) {
      if (leaves[at(key)] != 0) continue;
      if (key != target) move_key(shape, table, key, target);
      ++target;
    }
  }
  table.positions.resize(at(left));
}

}  // namespace tessera
