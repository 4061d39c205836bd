#include <algorithm>

#include "attention/method.h"
#include "kernels/transpose/transpose.h"

namespace tessera {
namespace {

// Tokens [begin, end) of one page of one KV head, which come from consecutive rows.
struct Piece {
  float* keys;
  float* values;
  int32_t begin;
  int32_t end;
  const float* key;  // row of token `begin`
  const float* value;
};

using Transpose = void (*)(const transpose::Args&, Exec) noexcept;

void write_keys(const AppendArgs& args, const Piece& piece, Transpose transpose) {
  transpose({.x = piece.key,
             .x_stride = args.key_stride,
             .cols = args.shape.d_k,
             .y = piece.keys + piece.begin,
             .y_stride = kPageTokens},
            {0, piece.end - piece.begin});
  if (piece.begin > 0) return;
  for (int32_t d = 0; d < args.shape.d_k; ++d) {
    float* row = piece.keys + int64_t{d} * kPageTokens;
    std::fill(row + piece.end, row + kPageTokens, 0.0f);
  }
}

void write_values(const AppendArgs& args, const Piece& piece) {
  const int64_t d_v = args.shape.d_v;
  for (int32_t t = piece.begin; t < piece.end; ++t) {
    std::copy_n(piece.value + (t - piece.begin) * args.value_stride, d_v, piece.values + t * d_v);
  }
  if (piece.begin == 0)
    std::fill(piece.values + piece.end * d_v, piece.values + kPageTokens * d_v, 0.0f);
}

}  // namespace

void append_to_pages(const AppendArgs& args, const Team::Member& member) {
  const Transpose transpose = transpose::kernels.select({}).run;
  const PageShape& shape = args.shape;
  int64_t pages = 0;
  for (size_t s = 0; s < args.tables.size(); ++s) {
    const int32_t rows = args.first_rows[s + 1] - args.first_rows[s],
                  before = args.tables[s]->tokens() - rows;
    if (rows > 0) pages += pages_for(before + rows) - before / kPageTokens;
  }
  const Range mine = member.slice(pages * shape.kv_heads);
  int64_t item = 0;
  for (size_t s = 0; s < args.tables.size(); ++s) {
    const PageTable& table = *args.tables[s];
    const int32_t after = table.tokens(),
                  before = after - (args.first_rows[s + 1] - args.first_rows[s]);
    for (int32_t head = 0; head < shape.kv_heads; ++head) {
      for (int32_t begin = before; begin < after;
           begin = (begin / kPageTokens + 1) * kPageTokens, ++item) {
        if (item < mine.begin || item >= mine.end) continue;
        const int32_t page = begin / kPageTokens, start = page * kPageTokens;
        const int64_t row = args.first_rows[s] + begin - before;
        const Piece piece{
            .keys = table.pages[page] + shape.keys_at(head),
            .values = table.pages[page] + shape.values_at(head),
            .begin = begin - start,
            .end = std::min(after - start, kPageTokens),
            .key = args.key + row * args.key_stride + int64_t{head} * shape.d_k,
            .value = args.value + row * args.value_stride + int64_t{head} * shape.d_v};
        write_keys(args, piece, transpose);
        write_values(args, piece);
      }
    }
  }
}

}  // namespace tessera
