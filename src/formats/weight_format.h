#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "formats/stored_matrix.h"

// What there is to know of a way to store a matrix, but for how it is multiplied, which its row in
// linear/ says. Reading, writing, packing and fuzzing go by the rows alone.
namespace tessera {

struct PackedMatrix;

// A key that an entry of a config's `tessera` section has besides format and shape.
struct AttributeSpec {
  enum class Kind { kInteger, kPair, kWord };
  const char* key;
  Kind kind = Kind::kInteger;
  // The limits of each integer.
  int64_t least = 0;
  int64_t most = 0;
  // The words that a word may be; it is kept as its place among them.
  std::span<const std::string_view> words = {};
};

// A tensor that holds a part of a matrix. Its name is that of the matrix with the suffix behind it.
struct PartSpec {
  enum class Presence { kNeeded, kOptional };
  const char* suffix;
  Presence presence = Presence::kNeeded;
};

// What a part may hold. Matrices keep kF32 and kIndices aligned in memory of their own, indices as
// I32; the others stay where they are, at any address.
enum class PartType {
  kFloats,  // F32, F16 or BF16
  kI8,
  kU8,
  kF32,      // such as scales
  kIndices,  // I32, or I16 where the limit allows
};
struct PartRule {
  PartType type;
  std::vector<int64_t> shape;  // -1: any extent
  // All indices are less. Only those with a limit are written as I16.
  int64_t limit = std::numeric_limits<int64_t>::max();
};

struct WeightFormat {
  // How the stored matrix lies to the one written out.
  enum class Rows { kAsOrdered, kOutputs };

  const char* name;  // in config.json
  std::span<const AttributeSpec> attributes;
  std::span<const PartSpec> parts;
  Rows rows = Rows::kAsOrdered;

  // What part `index` must be, given the extents, the attributes, the parts before it and which
  // optional parts are present. Extents and attributes are in range, nothing else need be.
  PartRule (*rule)(const StoredMatrix& matrix, size_t index);
  // Everything that a file can be wrong in and the rules do not say. The parts are as the rules
  // have them. Messages have expected and found, and no name.
  Status (*validate)(const StoredMatrix& matrix);
  // target: the matrix written out, of dtype(matrix), in its order; every element is written.
  void (*to_dense)(const StoredMatrix& matrix, void* target);
  // The FLOPs of a product with one row.
  int64_t (*flops_per_row)(const StoredMatrix& matrix);
  // A dense f32, f16 or bf16 matrix with nothing left out, as near as the format has it.
  Result<PackedMatrix> (*pack)(const DenseView& dense);
};

// Every format, one row each of formats/table.inc.
std::span<const WeightFormat* const> all_weight_formats();
// Null: there is none of that name.
const WeightFormat* find_weight_format(std::string_view name);

// Extents and attributes, as a reader of entries checks them.
Status check_entry(const StoredMatrix& matrix);
// Those, the rules of every part that is present, then the format's own checks.
Status validate(const StoredMatrix& matrix);

}  // namespace tessera
