#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/team.h"
#include "model/pass.h"
#include "model/weights.h"

namespace tessera {

// Rows of a layer whose products are of the same heads, and what that is of the projection's
// outputs and of the output map's inputs; none: all.
struct HeadPart {
  Range rows;
  std::span<const Range> outputs;
  std::span<const Range> inputs;
};

// Which query heads are alive in each layer of a pass, where a schedule has them leave.
// Neighbouring sequences with unlike heads are one product of all that either has where that is
// less work.
class LiveHeads {
 public:
  // Takes memory for a pass, so that nothing is allocated while it runs. Without a schedule every
  // head is alive.
  void prepare(const PassShape& pass, const ForwardInput& input, const Architecture& architecture,
               const Weights& weights);
  // Asks which heads are alive in the layer. One thread, in front of it.
  void enter(const LayerPass& layer, const PassShape& pass);

  // [query heads] of a sequence in a layer; null: all.
  const uint8_t* of(const LayerPass& layer, int64_t sequence) const {
    return flags_.empty() ? nullptr : flags_.data() + first_flag(layer.layer, sequence);
  }
  // What the rows of the layer that was entered last, or of the one before, are divided into; none:
  // all rows have every head.
  std::span<const HeadPart> parts(const LayerPass& layer) const {
    if (flags_.empty()) return {};
    return rooms_[layer.layer % 2].parts;
  }

 private:
  // Of a layer; two are kept, as members may still be in one while another enters the next.
  struct Room {
    std::vector<HeadPart> parts;
    std::vector<Range> ranges;
  };

  int64_t first_flag(int32_t layer, int64_t sequence) const {
    return ((layer - first_layer_) * sequences_ + sequence) * heads_;
  }
  void close(Range rows, int32_t layer, Room& room) const;

  const HeadSchedule* schedule_ = nullptr;
  const Architecture* architecture_ = nullptr;
  const Weights* weights_ = nullptr;
  int32_t first_layer_ = 0;
  int64_t sequences_ = 0;
  int64_t heads_ = 0;
  std::vector<uint8_t> flags_;   // [layers][sequences][heads]
  std::vector<uint8_t> joined_;  // [heads], of the part that is being made
  Room rooms_[2];
};

}  // namespace tessera
