#include "model/rotary_tables.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/guarded.h"
#include "model/rotary_frequencies.h"

namespace tessera {
namespace {

constexpr size_t at(int64_t index) { return static_cast<size_t>(index); }

// How long each row's sequence counts as, [rows].
std::vector<int32_t> lengths_of_rows(const ForwardInput& input) {
  const TokenLayout& layout = *input.layout;
  std::vector<int32_t> lengths;
  for (int64_t s = 0; s < layout.sequences(); ++s) {
    const int32_t first = layout.offsets[at(s)], end = layout.offsets[at(s) + 1];
    const int32_t whole = first == end ? 0 : layout.positions[at(end) - 1] + 1;
    const int32_t prompt = input.prompt_tokens.empty() ? whole : input.prompt_tokens[at(s)];
    for (int32_t row = first; row < end; ++row)
      lengths.push_back(std::max(prompt, layout.positions[at(row)] + 1));
  }
  return lengths;
}

}  // namespace

RotaryTables::RotaryTables(const Architecture& architecture)
    : max_positions_(architecture.max_positions) {
  for (const Rotary& rotary : architecture.rotaries) tables_.push_back({.rotary = rotary});
}

void RotaryTables::Angles::add(const Rotary& rotary, const std::vector<float>& frequencies,
                               int32_t position) {
  for (const float frequency : frequencies) {
    const auto angle = static_cast<double>(static_cast<float>(position) * frequency);
    cosines.push_back(static_cast<float>(std::cos(angle)) * rotary.scale);
    sines.push_back(static_cast<float>(std::sin(angle)) * rotary.scale);
  }
}

void RotaryTables::extend(int32_t positions) {
  if (positions <= positions_) return;
  // At least doubled, up to the context, so that a long generation does not copy them every step.
  positions = std::min(std::max(positions, 2 * positions_), std::max(positions, max_positions_));
  for (Table& table : tables_) {
    table.by_position.cosines.reserve(at(positions) * table.rotary.inverse_frequencies.size());
    table.by_position.sines.reserve(at(positions) * table.rotary.inverse_frequencies.size());
  }
  for (Table& table : tables_) {
    for (int32_t p = positions_; p < positions; ++p)
      table.by_position.add(table.rotary, table.rotary.inverse_frequencies, p);
  }
  positions_ = positions;
}

Status RotaryTables::prepare(const ForwardInput& input) {
  if (tables_.empty()) return {};
  return guarded("rotary tables", [&]() -> Status {
    const std::vector<int32_t>& positions = input.layout->positions;
    extend(*std::max_element(positions.begin(), positions.end()) + 1);
    const std::vector<int32_t> lengths = lengths_of_rows(input);
    const int32_t longest = *std::max_element(lengths.begin(), lengths.end());
    for (Table& table : tables_) {
      table.by_row = {};
      const int32_t usual = table.rotary.longer.usual_tokens;
      if (usual == 0 || longest <= usual) continue;
      rows_.resize(positions.size());
      std::iota(rows_.begin(), rows_.end(), 0);
      std::vector<float> frequencies;
      int32_t length = -1;  // whose frequencies they are
      for (size_t row = 0; row < positions.size(); ++row) {
        if (lengths[row] != length) {
          length = lengths[row];
          frequencies = length <= usual ? table.rotary.inverse_frequencies
                                        : frequencies_of_length(table.rotary, length);
        }
        table.by_row.add(table.rotary, frequencies, positions[row]);
      }
    }
    return {};
  });
}

std::optional<RotaryTables::View> RotaryTables::of(const LayerRecord& layer,
                                                   const RowSet& set) const {
  if (layer.rotary == kNoRotary) return std::nullopt;
  const Table& table = tables_[at(layer.rotary)];
  const bool by_row = !table.by_row.cosines.empty();
  const Angles& angles = by_row ? table.by_row : table.by_position;
  const std::vector<int32_t>& rows = set.origins.empty() ? rows_ : set.origins;
  return View{.rotated = table.rotary.rotated(),
              .cosines = angles.cosines.data(),
              .sines = angles.sines.data(),
              .entries = (by_row ? rows : set.layout.positions).data()};
}

}  // namespace tessera
