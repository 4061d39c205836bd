#include <algorithm>

#include "attention/method.h"
#include "kernels/transpose/transpose.h"

namespace tessera {
namespace {

// Tokens [begin, end) of one page, which come from consecutive rows.
struct Piece {
  float* page;
  int32_t begin;
  int32_t end;
  bool fills;   // what lies behind `end` is new and becomes zero
  int64_t row;  // of token `begin`
};

using Transpose = void (*)(const transpose::Args&, Exec) noexcept;

void write_keys(const AppendArgs& args, const Piece& piece, int32_t head, Transpose transpose) {
  float* keys = piece.page + args.shape.keys_at(head);
  transpose({.x = args.key + piece.row * args.key_stride + int64_t{head} * args.shape.d_k,
             .x_stride = args.key_stride,
             .cols = args.shape.d_k,
             .y = keys + piece.begin,
             .y_stride = kPageTokens},
            {0, piece.end - piece.begin});
  if (!piece.fills) return;
  for (int32_t d = 0; d < args.shape.d_k; ++d) {
    float* row = keys + int64_t{d} * kPageTokens;
    std::fill(row + piece.end, row + kPageTokens, 0.0f);
  }
}

void write_values(const AppendArgs& args, const Piece& piece, int32_t head) {
  const int64_t d_v = args.shape.d_v;
  float* values = piece.page + args.shape.values_at(head);
  const float* value = args.value + piece.row * args.value_stride + head * d_v;
  for (int32_t t = piece.begin; t < piece.end; ++t, value += args.value_stride) {
    std::copy_n(value, d_v, values + t * d_v);
  }
  if (piece.fills) std::fill(values + piece.end * d_v, values + kPageTokens * d_v, 0.0f);
}

// Tokens [first, last) of a sequence of which tokens before `before` were there already.
struct Tokens {
  int32_t before;
  int32_t first;
  int32_t last;
  int64_t row;  // of token `first`
};

void append_tokens(const AppendArgs& args, const PageTable& table, const Tokens& tokens,
                   Transpose transpose) {
  const PageShape& shape = args.shape;
  for (int32_t begin = tokens.first; begin < tokens.last;
       begin = (begin / kPageTokens + 1) * kPageTokens) {
    const int32_t page = begin / kPageTokens, start = page * kPageTokens;
    const int32_t end = std::min(tokens.last, start + kPageTokens);
    const Piece piece{.page = table.pages[page],
                      .begin = begin - start,
                      .end = end - start,
                      // A page that was begun before has its zeros.
                      .fills = end == table.tokens() && start >= tokens.before,
                      .row = tokens.row + begin - tokens.first};
    for (int32_t head = 0; head < shape.kv_heads; ++head) write_keys(args, piece, head, transpose);
    for (int32_t head = 0; head < shape.kv_heads * shape.values_per_key(); ++head)
      write_values(args, piece, head);
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
    const int32_t before = table.tokens() - (args.first_rows[s + 1] - args.first_rows[s]);
    const auto token = [&](int64_t row) {
      return before + static_cast<int32_t>(row - args.first_rows[s]);
    };
    append_tokens(args, table, {before, token(begin), token(end), begin}, transpose);
  }
}

}  // namespace tessera
