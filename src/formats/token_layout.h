#pragma once

#include <cstdint>
#include <vector>

namespace tessera {

// The only form of a batch: the rows of all sequences one after another, without padding.
struct TokenLayout {
  std::vector<int32_t> offsets = {
      0};  // [sequences + 1]: sequence s has rows offsets[s] .. offsets[s+1]
  std::vector<int32_t> positions;  // [rows]: a row's original position in its sequence

  int64_t sequences() const { return static_cast<int64_t>(offsets.size()) - 1; }
  int64_t rows() const { return offsets.back(); }
  int32_t length(int64_t sequence) const {
    return offsets[static_cast<size_t>(sequence) + 1] - offsets[static_cast<size_t>(sequence)];
  }
  // Adds a sequence whose rows stand at first_position, first_position + 1, ...
  void append(int32_t length, int32_t first_position) {
    for (int32_t i = 0; i < length; ++i) positions.push_back(first_position + i);
    offsets.push_back(offsets.back() + length);
  }
};

}  // namespace tessera
