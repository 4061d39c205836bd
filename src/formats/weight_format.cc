#include "formats/weight_format.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "formats/checks.h"

namespace tessera {
namespace {

constexpr const WeightFormat* kFormats[] = {
#define TESSERA_WEIGHT_FORMAT(name) &weight_formats::name,
#include "formats/table.inc"
#undef TESSERA_WEIGHT_FORMAT
};

const char* expected_type(PartType type) {
  switch (type) {
    case PartType::kFloats:
      return "F32, F16 or BF16";
    case PartType::kI8:
      return "I8";
    case PartType::kU8:
      return "U8";
    case PartType::kF32:
      return "F32";
    case PartType::kIndices:
      return "I32";
  }
  return "";
}

bool has_type(const MatrixPart& part, PartType type) {
  return type == PartType::kFloats ? is_weight_type(part.dtype)
                                   : name(part.dtype) == expected_type(type);
}

bool has_shape(const MatrixPart& part, const std::vector<int64_t>& shape) {
  return std::equal(part.shape.begin(), part.shape.end(), shape.begin(), shape.end(),
                    [](int64_t found, int64_t expected) {
                      return found >= 0 && (expected == -1 || found == expected);
                    });
}

Status check_part(const StoredMatrix& matrix, size_t index) {
  const PartSpec& spec = matrix.format->parts[index];
  const MatrixPart& part = matrix.part(index);
  if (!part.is_present()) {
    if (spec.presence == PartSpec::Presence::kOptional) return {};
    return invalid_input(fmt::format("{}: expected a tensor, found none", spec.suffix));
  }
  const PartRule rule = matrix.format->rule(matrix, index);
  if (!has_shape(part, rule.shape)) {
    return invalid_input(fmt::format("{}: expected shape [{}], found [{}]", spec.suffix,
                                     fmt::join(rule.shape, ", "), fmt::join(part.shape, ", ")));
  }
  if (has_type(part, rule.type)) return {};
  return invalid_input(fmt::format("{}: expected {}, found {}", spec.suffix,
                                   expected_type(rule.type), name(part.dtype)));
}

Status check_attributes(const StoredMatrix& matrix) {
  const std::span<const AttributeSpec> specs = matrix.format->attributes;
  for (size_t i = 0; i < specs.size(); ++i) {
    const AttributeSpec& spec = specs[i];
    const bool is_word = spec.kind == AttributeSpec::Kind::kWord;
    const int64_t least = is_word ? 0 : spec.least;
    const int64_t most = is_word ? static_cast<int64_t>(spec.words.size()) - 1 : spec.most;
    for (size_t k = 0; k < (spec.kind == AttributeSpec::Kind::kPair ? 2u : 1u); ++k) {
      const int64_t found = matrix.attributes[i][k];
      if (found >= least && found <= most) continue;
      return invalid_input(
          fmt::format("{}: expected {} to {}, found {}", spec.key, least, most, found));
    }
  }
  return {};
}

}  // namespace

std::span<const WeightFormat* const> all_weight_formats() { return kFormats; }

const WeightFormat* find_weight_format(std::string_view name) {
  const auto* found =
      std::find_if(std::begin(kFormats), std::end(kFormats),
                   [name](const WeightFormat* format) { return format->name == name; });
  return found == std::end(kFormats) ? nullptr : *found;
}

Status check_entry(const StoredMatrix& matrix) {
  TESSERA_RETURN_IF_ERROR(check_extents(matrix.rows, matrix.cols));
  return check_attributes(matrix);
}

Status validate(const StoredMatrix& matrix) {
  TESSERA_RETURN_IF_ERROR(check_entry(matrix));
  for (size_t i = 0; i < matrix.parts.size(); ++i) TESSERA_RETURN_IF_ERROR(check_part(matrix, i));
  return matrix.format->validate(matrix);
}

}  // namespace tessera
