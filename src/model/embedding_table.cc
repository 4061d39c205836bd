#include "model/embedding_table.h"

#include <algorithm>
#include <variant>

namespace tessera {

int64_t EmbeddingTable::bytes() const {
  return data.empty() ? packed_bytes(rounded.matrix)
                      : rows * width * static_cast<int64_t>(size_bytes(dtype));
}

void EmbeddingTable::read(int64_t row, Range columns, float* target) const {
  if (data.empty()) {
    const auto matrix = get<QuantizedMatrix>(rounded.matrix);
    for (int64_t c = columns.begin; c < columns.end; ++c) {
      const float scale = matrix.scale(row, matrix.group == 0 ? 0 : c / matrix.group);
      const float whole = scale * static_cast<float>(matrix.integer(row, c));
      target[c - columns.begin] =
          matrix.input_scales == nullptr ? whole : whole / matrix.input_scales[c];
    }
    return;
  }
  const auto value_bytes = static_cast<int64_t>(size_bytes(dtype));
  convert_to_f32(data.as<char>() + (row * width + columns.begin) * value_bytes, dtype,
                 columns.size(), target);
}

void EmbeddingTable::copy_row(int64_t row, float* target) const { read(row, {0, width}, target); }

void EmbeddingTable::add_row(int64_t row, float* target) const {
  constexpr int64_t kPiece = 256;
  float values[kPiece];
  for (int64_t at = 0; at < width; at += kPiece) {
    const int64_t count = std::min(kPiece, width - at);
    read(row, {at, at + count}, values);
    for (int64_t c = 0; c < count; ++c) target[at + c] += values[c];
  }
}

}  // namespace tessera
