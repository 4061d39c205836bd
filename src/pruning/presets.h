#pragma once

#include <string>
#include <string_view>

#include "base/status.h"

namespace tessera {

// What asks for no schedule where a model has one saved.
inline constexpr std::string_view kNoPruning = "none";

// A schedule as it is asked for: the JSON itself, or that of the preset of this name.
struct NamedSchedule {
  std::string json;
  std::string source;  // opens messages: "pruning", or the preset's name
};
// kInvalidInput for what is neither.
Result<NamedSchedule> find_schedule(std::string_view text);

}  // namespace tessera
