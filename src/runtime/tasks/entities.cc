#include "runtime/tasks/entities.h"

#include <utility>

namespace tessera::tasks {
namespace {

struct Prefix {
  std::string_view text;
  Place place;
};
// IOB, BIOES and BILOU.
constexpr Prefix kPrefixes[] = {
    {"B-", Place::kBegin}, {"I-", Place::kInside}, {"E-", Place::kEnd},
    {"L-", Place::kEnd},   {"S-", Place::kSingle}, {"U-", Place::kSingle},
};

bool continues(const LabelParts& before, const LabelParts& after) {
  return before.type == after.type &&
         (before.place == Place::kBegin || before.place == Place::kInside) &&
         (after.place == Place::kInside || after.place == Place::kEnd);
}

}  // namespace

LabelParts parts_of(std::string_view label) {
  LabelParts parts{Place::kInside, label};
  for (const Prefix& prefix : kPrefixes) {
    if (label.starts_with(prefix.text)) parts = {prefix.place, label.substr(prefix.text.size())};
  }
  // Some data sets write B-O and I-O.
  if (parts.type == "O") parts.place = Place::kOutside;
  return parts;
}

std::vector<Entity> join_entities(std::span<const Unit> units) {
  std::vector<Entity> entities;
  LabelParts before{Place::kOutside, {}};
  double sum = 0;
  int64_t count = 0;
  for (const Unit& unit : units) {
    const LabelParts parts = parts_of(unit.label);
    if (parts.place != Place::kOutside) {
      if (!continues(before, parts)) {
        entities.push_back({.label = std::string(parts.type), .span = unit.span});
        sum = 0;
        count = 0;
      }
      Entity& entity = entities.back();
      entity.span.end_byte = unit.span.end_byte;
      entity.span.end_token = unit.span.end_token;
      sum += unit.score;
      entity.score = static_cast<float>(sum / static_cast<double>(++count));
    }
    before = parts;
  }
  return entities;
}

}  // namespace tessera::tasks
