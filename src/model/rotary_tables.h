#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/status.h"
#include "model/architecture.h"
#include "model/pass.h"

namespace tessera {

// For each of an architecture's rotaries the cosines and sines of the angles p *
// inverse_frequencies[j], times its scale, in f32: transformers rounds the angle before it takes
// them. They stand by position, and are kept; but where sequences of a pass are so long that they
// have other frequencies, they stand by row of the pass. transformers chooses frequencies by the
// largest position of a forward pass, so a row at position p has those of the length
//   max(p + 1, tokens of the prompt),
// and what is in the cache stays as it was rotated.
class RotaryTables {
 public:
  struct View {
    int32_t rotated = 0;
    const float* cosines = nullptr;  // [entries, rotated / 2]
    const float* sines = nullptr;
    const int32_t* entries = nullptr;  // [rows of the set]: where a row's angles stand
  };

  explicit RotaryTables(const Architecture& architecture);

  // Makes the tables good for a pass. kOutOfMemory; then the pass must not run.
  Status prepare(const ForwardInput& input);
  // What rotates the rows of a set of that pass; none where the layer rotates nothing.
  std::optional<View> of(const LayerRecord& layer, const RowSet& set) const;

 private:
  struct Angles {
    std::vector<float> cosines;
    std::vector<float> sines;

    void add(const Rotary& rotary, const std::vector<float>& frequencies, int32_t position);
  };
  struct Table {
    Rotary rotary;
    Angles by_position = {};
    Angles by_row = {};  // empty where every row of the pass has the usual frequencies
  };
  void extend(int32_t positions);

  std::vector<Table> tables_;
  int32_t positions_ = 0;
  int32_t max_positions_;
  std::vector<int32_t> rows_;  // 0, 1, ...
};

}  // namespace tessera
