#pragma once

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "model/architecture.h"

namespace tessera {

// Cosines and sines of the angles p * inverse_frequencies[j] at every position p, in f32:
// transformers rounds the angle before it takes them. Layers of the same frequencies share a table.
class RotaryTables {
 public:
  struct Table {
    std::vector<float> inverse_frequencies;
    std::vector<float> cosines;  // [positions, inverse_frequencies]
    std::vector<float> sines;

    int32_t rotated() const { return static_cast<int32_t>(2 * inverse_frequencies.size()); }
  };

  explicit RotaryTables(const Architecture& architecture);

  // Makes every table good for positions below `positions`. kOutOfMemory; then all stay as they
  // are.
  Status extend(int32_t positions);
  // The table of a layer; null where it rotates nothing.
  const Table* of(int32_t layer) const;

 private:
  std::vector<Table> tables_;
  std::vector<int32_t> table_of_layer_;  // -1: none
  int32_t positions_ = 0;
  int32_t max_positions_;
};

}  // namespace tessera
