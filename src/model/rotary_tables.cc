#include "model/rotary_tables.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <new>

namespace tessera {
namespace {

constexpr size_t at(int64_t index) { return static_cast<size_t>(index); }

}  // namespace

RotaryTables::RotaryTables(const Architecture& architecture)
    : max_positions_(architecture.max_positions) {
  for (const Rotary& rotary : architecture.rotaries) tables_.push_back({.rotary = rotary});
}

Status RotaryTables::extend(int32_t positions) {
  if (positions <= positions_ || tables_.empty()) return {};
  // At least doubled, up to the context, so that a long generation does not copy them every step.
  positions = std::min(std::max(positions, 2 * positions_), std::max(positions, max_positions_));
  try {
    for (Table& table : tables_) {
      table.cosines.reserve(at(positions) * table.rotary.inverse_frequencies.size());
      table.sines.reserve(at(positions) * table.rotary.inverse_frequencies.size());
    }
  } catch (const std::bad_alloc&) {
    return out_of_memory(
        fmt::format("cannot get memory for the rotary tables of {} positions", positions));
  }
  for (Table& table : tables_) {
    for (int32_t p = positions_; p < positions; ++p) {
      for (const float frequency : table.rotary.inverse_frequencies) {
        const auto angle = static_cast<double>(static_cast<float>(p) * frequency);
        table.cosines.push_back(static_cast<float>(std::cos(angle)) * table.rotary.scale);
        table.sines.push_back(static_cast<float>(std::sin(angle)) * table.rotary.scale);
      }
    }
  }
  positions_ = positions;
  return {};
}

const RotaryTables::Table* RotaryTables::of(const LayerRecord& layer) const {
  return layer.rotary == kNoRotary ? nullptr : &tables_[at(layer.rotary)];
}

}  // namespace tessera
