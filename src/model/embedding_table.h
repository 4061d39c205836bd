#pragma once

#include <cstdint>

#include "base/device.h"
#include "base/dtype.h"
#include "base/team.h"
#include "formats/packed.h"

namespace tessera {

// A table of rows, kept in the checkpoint's dtype, or as integers, which the checkpoint has or kW8
// makes, and widened as it is read.
struct EmbeddingTable {
  Buffer data;           // empty where it is of integers
  PackedMatrix rounded;  // then that
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t width = 0;

  bool empty() const { return rows == 0; }
  int64_t bytes() const;
  // target[0 .. width) = row, or += row.
  void copy_row(int64_t row, float* target) const;
  void add_row(int64_t row, float* target) const;

 private:
  void read(int64_t row, Range columns, float* target) const;
};

}  // namespace tessera
