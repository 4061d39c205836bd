#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "attention/method.h"
#include "kernels/transpose/transpose.h"

namespace tessera {
namespace {

// The largest magnitude of int8 that has a negative.
constexpr float kMostInt8 = 127;

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

// To nearest even; the lowest bits of the sum hold the integer. Numbers are at most 127 or, of
// tokens that are not finite and have no meaning, NaN.
int8_t nearest_int8(float x) {
  constexpr float kShift = 0x1.8p23f;
  return static_cast<int8_t>(std::bit_cast<uint32_t>(x + kShift) & 0xff);
}

// A token's scale, and what its numbers are multiplied by before they are rounded. A number that
// is not finite makes the scale so, and with it every number of the token NaN.
struct Scale {
  float scale;
  float inverse;
};

Scale scale_of(const float* x, int32_t width) {
  int32_t bits = 0;  // of the largest magnitude; NaN's are above all
  for (int32_t i = 0; i < width; ++i) {
    const int32_t magnitude = std::bit_cast<int32_t>(x[i]) & 0x7fffffff;
    bits = magnitude > bits ? magnitude : bits;
  }
  const auto largest = std::bit_cast<float>(bits);
  if (!std::isfinite(largest)) return {std::numeric_limits<float>::quiet_NaN(), 0};
  // Smaller ones have no normal scale, and are zero beside anything that a model computes.
  if (largest < kMostInt8 * std::numeric_limits<float>::min()) return {0, 0};
  return {largest / kMostInt8, kMostInt8 / largest};
}

// Takes the numbers of a matrix: keys go through a block of so many features that stays in L1,
// transposed as floats and then rounded along the tokens.
constexpr int32_t kFeatures = 16;

template <typename Round, typename Number>
void write_keys_rounded(const Rows& rows, const Piece& piece, Transpose transpose, Round round,
                        Number* keys) {
  alignas(64) float block[kFeatures * kPageTokens];
  for (int32_t first = 0; first < rows.width; first += kFeatures) {
    const int32_t features = std::min(kFeatures, rows.width - first);
    transpose({.x = rows.data + first,
               .x_stride = rows.stride,
               .cols = features,
               .y = block,
               .y_stride = kPageTokens},
              {0, piece.tokens()});
    for (int32_t d = 0; d < features; ++d) {
      const float* from = block + d * kPageTokens;
      Number* to = keys + int64_t{first + d} * kPageTokens + piece.begin;
      for (int32_t t = 0; t < piece.tokens(); ++t) to[t] = round(from[t], t);
    }
  }
}

template <typename Round, typename Number>
void write_values_rounded(const Rows& rows, const Piece& piece, Round round, Number* values) {
  for (int32_t t = 0; t < piece.tokens(); ++t) {
    const float* from = rows.data + t * rows.stride;
    Number* to = values + int64_t{piece.begin + t} * rows.width;
    for (int32_t d = 0; d < rows.width; ++d) to[d] = round(from[d], t);
  }
}

// The scales of a piece's tokens go into the page.
struct Scales {
  Scales(const Rows& rows, const Piece& piece, float* scales) {
    for (int32_t t = 0; t < piece.tokens(); ++t) {
      const Scale scale = scale_of(rows.data + t * rows.stride, rows.width);
      scales[piece.begin + t] = scale.scale;
      inverse[t] = scale.inverse;
    }
    if (piece.fills) std::fill(scales + piece.end, scales + kPageTokens, 0.0f);
  }
  float operator[](int32_t token) const { return inverse[token]; }

  float inverse[kPageTokens];
};

void write_keys(const Rows& rows, const PageShape& shape, const Piece& piece, int32_t head,
                Transpose transpose) {
  std::byte* keys = piece.page + shape.keys_at(head);
  switch (shape.dtype) {
    case DType::kBF16:
      write_keys_rounded(
          rows, piece, transpose, [](float x, int32_t) { return f32_to_bf16(x); },
          reinterpret_cast<uint16_t*>(keys));
      break;
    case DType::kI8: {
      const Scales scales(rows, piece,
                          reinterpret_cast<float*>(piece.page + shape.key_scales_at(head)));
      write_keys_rounded(
          rows, piece, transpose, [&](float x, int32_t t) { return nearest_int8(x * scales[t]); },
          reinterpret_cast<int8_t*>(keys));
      break;
    }
    default:
      transpose({.x = rows.data,
                 .x_stride = rows.stride,
                 .cols = rows.width,
                 .y = reinterpret_cast<float*>(keys) + piece.begin,
                 .y_stride = kPageTokens},
                {0, piece.tokens()});
  }
  if (!piece.fills) return;
  const int64_t number = shape.number_bytes();
  for (int64_t d = 0; d < rows.width; ++d) {
    std::byte* row = keys + d * kPageTokens * number;
    std::fill(row + piece.end * number, row + kPageTokens * number, std::byte{0});
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
    case DType::kI8: {
      const Scales scales(rows, piece,
                          reinterpret_cast<float*>(piece.page + shape.value_scales_at(head)));
      write_values_rounded(
          rows, piece, [&](float x, int32_t t) { return nearest_int8(x * scales[t]); },
          reinterpret_cast<int8_t*>(values));
      break;
    }
    default:
      write_values_rounded(
          rows, piece, [](float x, int32_t) { return x; }, reinterpret_cast<float*>(values));
  }
  if (!piece.fills) return;
  const int64_t row = rows.width * shape.number_bytes();
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
