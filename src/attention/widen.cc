#include "attention/widen.h"

#include <algorithm>

namespace tessera::attention {
namespace {

int32_t low(uint8_t byte) { return byte & 15; }
int32_t high(uint8_t byte) { return byte >> 4; }
int32_t with_sign(int32_t bits) { return (bits ^ 8) - 8; }

const uint8_t* bytes_at(const PagedHead& head, int64_t offset) {
  return reinterpret_cast<const uint8_t*>(head.page + offset);
}
const float* scales_at(const PagedHead& head, int64_t offset) {
  return reinterpret_cast<const float*>(head.page + offset);
}

// The rows of a plane of keys that hold an element.
struct KeyRow {
  const uint8_t* bytes;
  bool is_upper_half;

  KeyRow(const uint8_t* plane, int32_t bits, int32_t width, int32_t d) {
    const int32_t half = (width + 1) / 2;
    is_upper_half = bits == 4 && d >= half;
    bytes = plane + int64_t{is_upper_half ? d - half : d} * kPageTokens;
  }
  int32_t nibble(int64_t token) const {
    return is_upper_half ? high(bytes[token]) : low(bytes[token]);
  }
};

void widen_upper(const KeyRow& row, const PagedHead& head, Range tokens, float* y) {
  const auto weight = static_cast<float>(1 << head.shape.bits.lower);
  if (head.shape.bits.upper != 4) {
    const auto* integers = reinterpret_cast<const int8_t*>(row.bytes);
    for (int64_t t = tokens.begin; t < tokens.end; ++t)
      y[t] = weight * static_cast<float>(integers[t]);
  } else {
    for (int64_t t = tokens.begin; t < tokens.end; ++t)
      y[t] = weight * static_cast<float>(with_sign(row.nibble(t)));
  }
}

}  // namespace

void widen_keys(const PagedHead& head, Range tokens, float* y) {
  const PageShape& shape = head.shape;
  const uint8_t* upper = bytes_at(head, shape.keys_at(head.head));
  const uint8_t* lower = bytes_at(head, shape.lower_keys_at(head.head));
  const float* scales = scales_at(head, shape.key_scales_at(head.head));
  for (int32_t d = 0; d < shape.d_k; ++d, y += kPageTokens) {
    widen_upper(KeyRow(upper, shape.bits.upper, shape.d_k, d), head, tokens, y);
    if (shape.bits.lower > 0) {
      const KeyRow row(lower, shape.bits.lower, shape.d_k, d);
      for (int64_t t = tokens.begin; t < tokens.end; ++t) y[t] += static_cast<float>(row.nibble(t));
    }
    for (int64_t t = tokens.begin; t < tokens.end; ++t) y[t] *= scales[t];
  }
}

void widen_values(const PagedHead& head, Range tokens, Range columns, float* y) {
  const PageShape& shape = head.shape;
  const int64_t row_bytes = shape.value_bytes();
  const float* scales = scales_at(head, shape.value_scales_at(head.head));
  const int64_t width = columns.end - columns.begin;
  for (int64_t t = tokens.begin; t < tokens.end; ++t) {
    const uint8_t* row = bytes_at(head, shape.values_at(head.head)) + t * row_bytes;
    float* to = y + t * width - columns.begin;
    if (shape.bits.value != 4) {
      const auto* integers = reinterpret_cast<const int8_t*>(row);
      for (int64_t d = columns.begin; d < columns.end; ++d)
        to[d] = scales[t] * static_cast<float>(integers[d]);
      continue;
    }
    const int64_t middle = std::clamp(row_bytes, columns.begin, columns.end);
    for (int64_t d = columns.begin; d < middle; ++d)
      to[d] = scales[t] * static_cast<float>(with_sign(low(row[d])));
    for (int64_t d = middle; d < columns.end; ++d)
      to[d] = scales[t] * static_cast<float>(with_sign(high(row[d - row_bytes])));
  }
}

double key_element(const PagedHead& head, PlanesRead planes, int32_t token, int32_t d) {
  const PageShape& shape = head.shape;
  const IntegerBits& bits = shape.bits;
  const KeyRow upper(bytes_at(head, shape.keys_at(head.head)), bits.upper, shape.d_k, d);
  const double integer =
      bits.upper == 4 ? with_sign(upper.nibble(token)) : static_cast<int8_t>(upper.bytes[token]);
  double rest = bits.middle();
  if (planes == PlanesRead::kBoth && bits.lower > 0) {
    rest = KeyRow(bytes_at(head, shape.lower_keys_at(head.head)), bits.lower, shape.d_k, d)
               .nibble(token);
  }
  const double scale = scales_at(head, shape.key_scales_at(head.head))[token];
  return scale * ((1 << bits.lower) * integer + rest);
}

}  // namespace tessera::attention
