#pragma once

#include <string>
#include <vector>

#include "base/status.h"
#include "base/team.h"
#include "compress/matrix.h"
#include "model/architecture.h"
#include "model/weights.h"
#include "tessera/compress.h"

namespace tessera {

// A matrix with a row a token: the token embedding, or a language model's head. They are
// rounded apart from the layers: a row of the first is read for a token, and the second's errors
// reach the logits.
struct Table {
  std::string tensor;
  int64_t rows = 0;
  int64_t cols = 0;
};

// Those that the source holds dense.
std::vector<Table> list_tables(const Source& source, const Architecture& architecture);

struct RoundedTable {
  PackedMatrix packed;
  MatrixReport report;
};
Result<RoundedTable> round_table(const Source& source, const Table& table, Precision precision,
                                 Team& team);

}  // namespace tessera
