#include "formats/precision.h"

#include <array>

namespace tessera {
namespace {

constexpr std::array<std::string_view, 7> kNames = {"stored", "f32", "bf16", "int8",
                                                    "int4",   "w8",  "w4"};

}  // namespace

std::string_view name(Precision precision) { return kNames[static_cast<size_t>(precision)]; }

std::optional<Precision> parse_precision(std::string_view name) {
  for (size_t i = 0; i < kNames.size(); ++i) {
    if (kNames[i] == name) return static_cast<Precision>(i);
  }
  return std::nullopt;
}

}  // namespace tessera
