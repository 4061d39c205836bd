#include "model/live_heads.h"

#include <algorithm>

namespace tessera {
namespace {

constexpr size_t at(int64_t index) { return static_cast<size_t>(index); }

// What it takes to read the weights of a product, in rows that are multiplied meanwhile.
constexpr int64_t kWeightRows = 16;

int64_t count_of(std::span<const uint8_t> live) {
  return std::count_if(live.begin(), live.end(), [](uint8_t flag) { return flag != 0; });
}

// Ranges of one side of a product, at the end of those of the others.
class Ranges {
 public:
  explicit Ranges(std::vector<Range>& all) : all_(all), first_(all.size()) {}

  void add(int64_t begin, int64_t size) {
    if (all_.size() > first_ && all_.back().end == begin) {
      all_.back().end += size;
    } else {
      all_.push_back({begin, begin + size});
    }
  }
  std::span<const Range> found() const { return std::span(all_).subspan(first_); }

 private:
  std::vector<Range>& all_;
  size_t first_;
};

// The live ones of `count` heads, each of `size` numbers, that share the query heads evenly.
void add_heads(std::span<const uint8_t> live, int32_t count, Range numbers, Ranges& ranges) {
  const int64_t size = numbers.size() / count;
  const size_t group = live.size() / at(count);
  for (int64_t head = 0; head < count; ++head) {
    if (count_of(live.subspan(at(head) * group, group)) > 0)
      ranges.add(numbers.begin + head * size, size);
  }
}

}  // namespace

void LiveHeads::prepare(const PassShape& pass, const ForwardInput& input,
                        const Architecture& architecture, const Weights& weights) {
  schedule_ = input.heads;
  if (schedule_ == nullptr) return;
  architecture_ = &architecture;
  weights_ = &weights;
  first_layer_ = pass.first_layer;
  sequences_ = pass.sequences();
  heads_ = architecture.layer(first_layer_).query_heads;
  flags_.assign(pass.layers.size() * at(sequences_ * heads_), 1);
  joined_.resize(at(heads_));
  for (Room& room : rooms_) {
    room.parts.reserve(at(sequences_));
    // Queries, keys, values and what the output map reads, each with a range for a head at most.
    room.ranges.reserve(at(4 * sequences_ * heads_));
  }
}

void LiveHeads::enter(const LayerPass& layer, const PassShape& pass) {
  const std::span flags =
      std::span(flags_).subspan(at(first_flag(layer.layer, 0)), at(sequences_ * heads_));
  schedule_->choose(layer.layer, flags);
  Room& room = rooms_[layer.layer % 2];
  room.parts.clear();
  room.ranges.clear();
  const TokenLayout& layout = pass.layout(layer);
  Range rows;
  for (int64_t s = 0; s < sequences_; ++s) {
    const std::span live = flags.subspan(at(s * heads_), at(heads_));
    const int64_t length = layout.length(s), end = rows.end + length;
    if (length == 0) continue;
    int64_t both = 0;
    for (size_t h = 0; h < live.size(); ++h) both += (live[h] | joined_[h]) != 0 ? 1 : 0;
    const int64_t apart =
        count_of(joined_) * (rows.size() + kWeightRows) + count_of(live) * (length + kWeightRows);
    if (rows.size() > 0 && both * (end - rows.begin + kWeightRows) > apart) {
      close(rows, layer.layer, room);
      rows.begin = rows.end;
    }
    if (rows.size() == 0) std::fill(joined_.begin(), joined_.end(), uint8_t{0});
    for (size_t h = 0; h < live.size(); ++h) joined_[h] |= live[h];
    rows.end = end;
  }
  // What all rows have needs no division.
  if (room.parts.empty() && count_of(joined_) == heads_) return;
  close(rows, layer.layer, room);
}

void LiveHeads::close(Range rows, int32_t layer, Room& room) const {
  HeadPart part{.rows = rows};
  const AttentionShape& shape = weights_->attention_shape(layer);
  if (count_of(joined_) < heads_) {
    const bool summed = shape.outputs == HeadOutputs::kSummed;
    const int32_t kv_heads = shape.pages.kv_heads;
    const int64_t keys = shape.query_width(), values = keys + shape.pages.key_width();
    Ranges outputs(room.ranges);
    if (architecture_->layer(layer).qk_norm == QkNorm::kWholeWidth) {
      // The norm is of all heads, dead ones as well.
      outputs.add(0, values);
    } else {
      add_heads(joined_, static_cast<int32_t>(heads_), {0, keys}, outputs);
      add_heads(joined_, kv_heads, {keys, values}, outputs);
    }
    add_heads(joined_, summed ? static_cast<int32_t>(heads_) : kv_heads,
              {values, shape.qkv_width()}, outputs);
    part.outputs = outputs.found();
    Ranges inputs(room.ranges);
    if (!summed)
      add_heads(joined_, static_cast<int32_t>(heads_), {0, shape.output_width()}, inputs);
    part.inputs = inputs.found();
  }
  room.parts.push_back(part);
}

}  // namespace tessera
