#pragma once

#include <cstdint>

#include "base/status.h"

namespace tessera {

// What the formats' validate functions have in common. Messages have expected and found, and no
// name: the caller puts the tensor's before them.

Status check_extents(int64_t rows, int64_t cols);

// offsets: [count + 1], from 0 to `kept` without going down.
struct OffsetList {
  const char* of;  // "row of tiles"
  const int32_t* offsets = nullptr;
  int64_t count = 0;
};
Status check_offsets(const OffsetList& list, int64_t kept);

// indices[begin .. end) are each at least 0, less than limit, and greater than the one before.
struct IndexList {
  const char* what;  // "columns"
  const int32_t* indices = nullptr;
  int64_t begin = 0;
  int64_t end = 0;
  int64_t limit = 0;
};
Status check_ascending(const IndexList& list);

// Scales by which inputs are divided: each has an inverse. Null is all 1.
Status check_input_scales(const float* scales, int64_t count);

}  // namespace tessera
