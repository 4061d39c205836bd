#include "model/embedding.h"

#include "model/normalise.h"

namespace tessera {
namespace {

constexpr size_t at(int64_t index) { return static_cast<size_t>(index); }

}  // namespace

std::vector<int32_t> position_rows(const Architecture& architecture, const Weights& weights,
                                   std::span<const int32_t> ids, const TokenLayout& layout) {
  std::vector<int32_t> rows;
  if (weights.positions.empty()) return rows;
  const int32_t padding = architecture.position_padding_id;
  rows.reserve(ids.size());
  for (int64_t s = 0; s < layout.sequences(); ++s) {
    int32_t skipped = 0;
    for (int32_t r = layout.offsets[at(s)]; r < layout.offsets[at(s) + 1]; ++r) {
      const bool is_padding = padding >= 0 && ids[at(r)] == padding;
      skipped += is_padding ? 1 : 0;
      rows.push_back(is_padding ? padding
                                : layout.positions[at(r)] - skipped + architecture.position_offset);
    }
  }
  return rows;
}

void embed(const Architecture& architecture, const Weights& weights, const Embedding& embedding,
           Range rows, float* x) {
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    float* row = x + r * architecture.hidden_size;
    weights.tokens.copy_row(embedding.ids[at(r)], row);
    if (architecture.embedding_scale != 1) {
      for (int64_t c = 0; c < architecture.hidden_size; ++c) row[c] *= architecture.embedding_scale;
    }
    if (!weights.positions.empty()) weights.positions.add_row(embedding.position_rows[at(r)], row);
    if (!weights.types.empty()) {
      weights.types.add_row(embedding.type_ids.empty() ? 0 : embedding.type_ids[at(r)], row);
    }
  }
  if (!weights.embedding_norm.empty()) normalise(architecture, weights.embedding_norm, x, x, rows);
}

}  // namespace tessera
