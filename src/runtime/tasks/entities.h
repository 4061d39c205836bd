#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tessera/tasks.h"

namespace tessera::tasks {

// Where in an entity a label's prefix says that its token stands.
enum class Place { kOutside, kBegin, kInside, kEnd, kSingle };

// A label in its parts: "B-PER" is kBegin of PER, "PER" kInside of PER, "O", "B-O" and the like
// kOutside.
struct LabelParts {
  Place place = Place::kInside;
  std::string_view type;
};
LabelParts parts_of(std::string_view label);

// A token or a word with its label; those without a label of an entity are included, special
// tokens are not.
struct Unit {
  TaskSpan span;
  std::string_view label;
  float score = 0;
};

// Units that stand next to each other and belong together, joined.
std::vector<Entity> join_entities(std::span<const Unit> units);

}  // namespace tessera::tasks
