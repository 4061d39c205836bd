#pragma once

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "model/architecture.h"

namespace tessera {

// For each of an architecture's rotaries the cosines and sines of the angles p *
// inverse_frequencies[j] at every position p, times its scale, in f32: transformers rounds the
// angle before it takes them.
class RotaryTables {
 public:
  struct Table {
    Rotary rotary;
    std::vector<float> cosines;  // [positions, inverse_frequencies]
    std::vector<float> sines;
  };

  explicit RotaryTables(const Architecture& architecture);

  // Makes every table good for positions below `positions`. kOutOfMemory; then all stay as they
  // are.
  Status extend(int32_t positions);
  // The table of a layer; null where it rotates nothing.
  const Table* of(const LayerRecord& layer) const;

 private:
  std::vector<Table> tables_;
  int32_t positions_ = 0;
  int32_t max_positions_;
};

}  // namespace tessera
