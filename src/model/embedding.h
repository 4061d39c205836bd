#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/team.h"
#include "formats/token_layout.h"
#include "model/architecture.h"
#include "model/weights.h"

namespace tessera {

// The rows of the table of learned positions that tokens stand at, [rows]; none where a model has
// no such table. Ids equal to position_padding_id take its row and are not counted, in whatever
// place they stand, as transformers has it.
std::vector<int32_t> position_rows(const Architecture& architecture, const Weights& weights,
                                   std::span<const int32_t> ids, const TokenLayout& layout);

// What is embedded. The spans are the caller's.
struct Embedding {
  std::span<const int32_t> ids;
  std::span<const int32_t> type_ids;       // or empty: all 0
  std::span<const int32_t> position_rows;  // as position_rows() gives them
};

// x[r] = norm(scale * tokens[id] + positions[position row] + types[type id]) for the rows of a
// part, of hidden_size floats each; tables and norm that the model lacks are left out.
void embed(const Architecture& architecture, const Weights& weights, const Embedding& embedding,
           Range rows, float* x);

}  // namespace tessera
