#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "attention/method.h"
#include "kernels/transpose/transpose.h"

namespace tessera {
namespace {

// The largest magnitude that an integer of so many bits and its negative have.
float most_of(int32_t bits) { return static_cast<float>((1 << (bits - 1)) - 1); }

// Tokens [begin, end) of one page, which come from consecutive rows.
struct Piece {
  std::byte* page;
  int32_t begin;
  int32_t end;
  bool fills;   // what lies behind `end` is new and becomes zero
  int64_t row;  // of token `begin`

  int32_t tokens() const { return end - begin; }
};

// One head's floats of a piece, a token a row.
struct Rows {
  const float* data;
  int64_t stride;
  int32_t width;
};

using Transpose = void (*)(const transpose::Args&, Exec) noexcept;

// To nearest even; the lowest bits of the sum hold the integer. Numbers are within Integer or, of
// tokens that are not finite and have no meaning, NaN.
template <typename Integer>
Integer nearest(float x) {
  constexpr float kShift = 0x1.8p23f;
  return static_cast<Integer>(std::bit_cast<uint32_t>(x + kShift));
}

// A token's scale, and what its numbers are multiplied by before they are rounded. A number that
// is not finite makes the scale so, and with it every number of the token NaN.
struct Scale {
  float scale;
  float inverse;
};

Scale scale_of(const float* x, int32_t width, float most) {
  int32_t bits = 0;  // of the largest magnitude; NaN's are above all
  for (int32_t i = 0; i < width; ++i) {
    const int32_t magnitude = std::bit_cast<int32_t>(x[i]) & 0x7fffffff;
    bits = magnitude > bits ? magnitude : bits;
  }
  const auto largest = std::bit_cast<float>(bits);
  if (!std::isfinite(largest)) return {std::numeric_limits<float>::quiet_NaN(), 0};
  // Smaller ones have no normal scale, and are zero beside anything that a model computes.
  if (largest < most * std::numeric_limits<float>::min()) return {0, 0};
  return {largest / most, most / largest};
}

// Keys go through a block of so many features that stays in L1, transposed as floats. Calls
// visit(feature, its floats of the piece's tokens).
constexpr int32_t kFeatures = 16;

template <typename Visit>
void for_each_feature(const Rows& rows, const Piece& piece, Transpose transpose, Visit visit) {
  alignas(64) float block[kFeatures * kPageTokens];
  for (int32_t first = 0; first < rows.width; first += kFeatures) {
    const int32_t features = std::min(kFeatures, rows.width - first);
    transpose({.x = rows.data + first,
               .x_stride = rows.stride,
               .cols = features,
               .y = block,
               .y_stride = kPageTokens},
              {0, piece.tokens()});
    for (int32_t d = 0; d < features; ++d) visit(first + d, block + d * kPageTokens);
  }
}

template <typename Round, typename Number>
void write_keys_rounded(const Rows& rows, const Piece& piece, Transpose transpose, Round round,
                        Number* keys) {
  for_each_feature(rows, piece, transpose, [&](int32_t feature, const float* from) {
    Number* to = keys + int64_t{feature} * kPageTokens + piece.begin;
    for (int32_t t = 0; t < piece.tokens(); ++t) to[t] = round(from[t], t);
  });
}

// A plane's integers [width][kPageTokens] of as many bits.
struct KeyMatrix {
  std::byte* data;
  int32_t bits;
  int32_t width;

  // The plane is what `part` gives of a whole integer. A feature of the lower half of a byte comes
  // before the one of the upper half.
  template <typename Part>
  void write(int32_t feature, const Piece& piece, const int16_t* integers, Part part) const {
    const int32_t half = (width + 1) / 2;
    const bool is_upper = bits == 4 && feature >= half;
    auto* to = reinterpret_cast<uint8_t*>(data) + piece.begin +
               int64_t{is_upper ? feature - half : feature} * kPageTokens;
    const int32_t tokens = piece.tokens();
    if (bits != 4) {
      for (int32_t t = 0; t < tokens; ++t) to[t] = static_cast<uint8_t>(part(integers[t]));
    } else if (!is_upper) {
      for (int32_t t = 0; t < tokens; ++t) to[t] = static_cast<uint8_t>(part(integers[t]) & 15);
    } else {
      for (int32_t t = 0; t < tokens; ++t)
        to[t] = static_cast<uint8_t>(to[t] | (part(integers[t]) & 15) << 4);
    }
  }
};

template <typename Round, typename Number>
void write_values_rounded(const Rows& rows, const Piece& piece, Round round, Number* values) {
  for (int32_t t = 0; t < piece.tokens(); ++t) {
    const float* from = rows.data + t * rows.stride;
    Number* to = values + int64_t{piece.begin + t} * rows.width;
    for (int32_t d = 0; d < rows.width; ++d) to[d] = round(from[d], t);
  }
}

// The scales of a piece's tokens, for integers of so many bits, go into the page.
struct Scales {
  Scales(const Rows& rows, const Piece& piece, int32_t bits, std::byte* page_scales) {
    auto* scales = reinterpret_cast<float*>(page_scales);
    const float most = most_of(bits);
    for (int32_t t = 0; t < piece.tokens(); ++t) {
      const Scale scale = scale_of(rows.data + t * rows.stride, rows.width, most);
      scales[piece.begin + t] = scale.scale;
      inverse[t] = scale.inverse;
    }
    if (piece.fills) std::fill(scales + piece.end, scales + kPageTokens, 0.0f);
  }
  float operator[](int32_t token) const { return inverse[token]; }

  float inverse[kPageTokens];
};

void write_integer_keys(const Rows& rows, const PageShape& shape, const Piece& piece, int32_t head,
                        Transpose transpose) {
  const IntegerBits& bits = shape.bits;
  std::byte* keys = piece.page + shape.keys_at(head);
  const Scales scales(rows, piece, bits.key(), piece.page + shape.key_scales_at(head));
  if (bits.lower == 0 && bits.upper != 4) {
    write_keys_rounded(
        rows, piece, transpose, [&](float x, int32_t t) { return nearest<int8_t>(x * scales[t]); },
        reinterpret_cast<int8_t*>(keys));
    return;
  }
  const KeyMatrix upper{keys, bits.upper, rows.width};
  const KeyMatrix lower{piece.page + shape.lower_keys_at(head), bits.lower, rows.width};
  for_each_feature(rows, piece, transpose, [&](int32_t feature, const float* from) {
    int16_t integers[kPageTokens];
    for (int32_t t = 0; t < piece.tokens(); ++t)
      integers[t] = nearest<int16_t>(from[t] * scales[t]);
    upper.write(feature, piece, integers, [&](int32_t q) { return q >> bits.lower; });
    if (bits.lower > 0) lower.write(feature, piece, integers, [](int32_t q) { return q; });
  });
}

void write_keys(const Rows& rows, const PageShape& shape, const Piece& piece, int32_t head,
                Transpose transpose) {
  std::byte* keys = piece.page + shape.keys_at(head);
  switch (shape.dtype) {
    case DType::kBF16:
      write_keys_rounded(
          rows, piece, transpose, [](float x, int32_t) { return f32_to_bf16(x); },
          reinterpret_cast<uint16_t*>(keys));
      break;
    case DType::kI8:
      write_integer_keys(rows, shape, piece, head, transpose);
      break;
    default:
      transpose({.x = rows.data,
                 .x_stride = rows.stride,
                 .cols = rows.width,
                 .y = reinterpret_cast<float*>(keys) + piece.begin,
                 .y_stride = kPageTokens},
                {0, piece.tokens()});
  }
  if (!piece.fills) return;
  // Both planes, which follow each other.
  const int64_t number = shape.number_bytes();
  const int64_t matrix_rows = (shape.key_bytes() + shape.lower_key_bytes()) / number;
  for (int64_t d = 0; d < matrix_rows; ++d) {
    std::byte* row = keys + d * kPageTokens * number;
    std::fill(row + piece.end * number, row + kPageTokens * number, std::byte{0});
  }
}

void write_integer_values(const Rows& rows, const PageShape& shape, const Piece& piece,
                          int32_t head) {
  std::byte* values = piece.page + shape.values_at(head);
  const Scales scales(rows, piece, shape.bits.value, piece.page + shape.value_scales_at(head));
  if (shape.bits.value != 4) {
    write_values_rounded(
        rows, piece, [&](float x, int32_t t) { return nearest<int8_t>(x * scales[t]); },
        reinterpret_cast<int8_t*>(values));
    return;
  }
  const int64_t half = shape.value_bytes();
  for (int32_t t = 0; t < piece.tokens(); ++t) {
    const float* from = rows.data + t * rows.stride;
    auto* to = reinterpret_cast<uint8_t*>(values) + (piece.begin + t) * half;
    const auto nibble = [&](int64_t d) { return nearest<uint8_t>(from[d] * scales[t]) & 15; };
    for (int64_t d = 0; d < half; ++d) to[d] = static_cast<uint8_t>(nibble(d));
    for (int64_t d = half; d < rows.width; ++d)
      to[d - half] = static_cast<uint8_t>(to[d - half] | nibble(d) << 4);
  }
}

void write_values(const Rows& rows, const PageShape& shape, const Piece& piece, int32_t head) {
  std::byte* values = piece.page + shape.values_at(head);
  switch (shape.dtype) {
    case DType::kBF16:
      write_values_rounded(
          rows, piece, [](float x, int32_t) { return f32_to_bf16(x); },
          reinterpret_cast<uint16_t*>(values));
      break;
    case DType::kI8:
      write_integer_values(rows, shape, piece, head);
      break;
    default:
      write_values_rounded(
          rows, piece, [](float x, int32_t) { return x; }, reinterpret_cast<float*>(values));
  }
  if (!piece.fills) return;
  const int64_t row = shape.value_bytes();
  std::fill(values + piece.end * row, values + kPageTokens * row, std::byte{0});
}

void write_page(const AppendArgs& args, const Piece& piece, Transpose transpose) {
  const PageShape& shape = args.shape;
  const float* key = args.key + piece.row * args.key_stride;
  const float* value = args.value + piece.row * args.value_stride;
  for (int32_t head = 0; head < shape.kv_heads; ++head) {
    const Rows rows{key + int64_t{head} * shape.d_k, args.key_stride, shape.d_k};
    write_keys(rows, shape, piece, head, transpose);
  }
  for (int32_t head = 0; head < shape.kv_heads * shape.values_per_key(); ++head) {
    const Rows rows{value + int64_t{head} * shape.d_v, args.value_stride, shape.d_v};
    write_values(rows, shape, piece, head);
  }
}

// Tokens [first, last) of a sequence that will have `all`, of which those before `before` were
// there already.
struct Tokens {
  int32_t before;
  int32_t all;
  int32_t first;
  int32_t last;
  int64_t row;  // of token `first`
};

void append_tokens(const AppendArgs& args, const PageTable& table, const Tokens& tokens,
                   Transpose transpose) {
  for (int32_t begin = tokens.first; begin < tokens.last;
       begin = (begin / kPageTokens + 1) * kPageTokens) {
    const int32_t page = begin / kPageTokens, start = page * kPageTokens;
    const int32_t end = std::min(tokens.last, start + kPageTokens);
    write_page(args,
               {.page = table.pages[page],
                .begin = begin - start,
                .end = end - start,
                // A page that was begun before has its zeros.
                .fills = end == tokens.all && start >= tokens.before,
                .row = tokens.row + begin - tokens.first},
               transpose);
  }
}

}  // namespace

void append_to_pages(const AppendArgs& args, Range rows) {
  const Transpose transpose = transpose::kernels.select({}).run;
  for (size_t s = 0; s < args.tables.size(); ++s) {
    const int64_t begin = std::max<int64_t>(args.first_rows[s], rows.begin),
                  end = std::min<int64_t>(args.first_rows[s + 1], rows.end);
    if (begin >= end) continue;
    const PageTable& table = *args.tables[s];
    const int32_t before = args.first_tokens[s];
    const int32_t all = before + args.first_rows[s + 1] - args.first_rows[s];
    const auto token = [&](int64_t row) {
      return before + static_cast<int32_t>(row - args.first_rows[s]);
    };
    append_tokens(args, table, {before, all, token(begin), token(end), begin}, transpose);
  }
}

}  // namespace tessera
