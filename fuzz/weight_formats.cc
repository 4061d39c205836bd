// Any bytes as the attributes and parts of a matrix of any format are refused with a sentence, or
// are a matrix that can be written out and is read as it is written. The first bytes choose the
// format, its extents and attributes, then each part has an extent of its own where its rule leaves
// one, and the bytes that follow.

#include <algorithm>
#include <cstring>
#include <vector>

#include "formats/weight_format.h"
#include "io/compressed.h"
#include "support/target.h"

namespace tessera::fuzz {
namespace {

// What an input can make the target write.
constexpr int64_t kMostBytes = int64_t{1} << 20;
constexpr int64_t kMostExtent = 300;

class Bytes {
 public:
  explicit Bytes(std::string_view input) : left_(input) {}

  uint8_t byte() {
    if (left_.empty()) return 0;
    const auto first = static_cast<uint8_t>(left_.front());
    left_.remove_prefix(1);
    return first;
  }
  int64_t extent() { return (byte() | byte() << 8) % kMostExtent; }
  // Zeros where there are no more.
  std::vector<char> take(int64_t count) {
    std::vector<char> taken(static_cast<size_t>(count));
    const size_t some = std::min(left_.size(), taken.size());
    std::copy_n(left_.begin(), some, taken.begin());
    left_.remove_prefix(some);
    return taken;
  }

 private:
  std::string_view left_;
};

Attribute attribute_of(const AttributeSpec& spec, Bytes& bytes) {
  if (spec.kind == AttributeSpec::Kind::kWord)
    return {bytes.byte() % static_cast<int64_t>(spec.words.size()), 0};
  return {bytes.extent(), bytes.extent()};
}

DType dtype_of(PartType type, Bytes& bytes) {
  constexpr DType kFloatTypes[] = {DType::kF32, DType::kF16, DType::kBF16};
  switch (type) {
    case PartType::kFloats:
      return kFloatTypes[bytes.byte() % 3];
    case PartType::kI8:
      return DType::kI8;
    case PartType::kU8:
      return DType::kU8;
    case PartType::kF32:
      return DType::kF32;
    case PartType::kIndices:
      break;
  }
  return DType::kI32;
}

// False where a part would take more than the target has.
bool add_part(size_t index, Bytes& bytes, PackedMatrix& packed) {
  StoredMatrix& matrix = packed.matrix;
  const PartRule rule = matrix.format->rule(matrix, index);
  MatrixPart part{nullptr, dtype_of(rule.type, bytes), rule.shape};
  for (int64_t& extent : part.shape) {
    if (extent == -1) extent = bytes.extent();
    if (extent < 0 || extent > kMostBytes) return false;
  }
  if (part.bytes() > kMostBytes) return false;
  matrix.parts[index] = part;
  packed.own(index, bytes.take(part.bytes()));
  return true;
}

void write_out(const PackedMatrix& packed) {
  const int64_t size = dense_bytes(packed.matrix);
  if (size > kMostBytes) return;
  std::vector<char> target(static_cast<size_t>(size), '\x55');
  to_dense(packed.matrix, target.data());
  require(packed_bytes(packed.matrix) >= 0 && flops_per_row(packed.matrix) >= 0);
  TensorList list;
  const TensorFormat entry = add_matrix("w", packed, list);
  require(!list.tensors.empty() && !to_json(entry).empty());
}

}  // namespace

void check(std::string_view input) {
  Bytes bytes(input);
  const auto formats = all_weight_formats();
  const WeightFormat& format = *formats[bytes.byte() % formats.size()];
  const uint8_t choices = bytes.byte();
  const bool by_input = format.rows == WeightFormat::Rows::kAsOrdered && choices % 2 == 1;
  PackedMatrix packed(StoredMatrix{&format,
                                   bytes.extent(),
                                   bytes.extent(),
                                   by_input ? MatrixOrder::kInputRows : MatrixOrder::kOutputRows,
                                   {},
                                   std::vector<MatrixPart>(format.parts.size())});
  for (const AttributeSpec& spec : format.attributes)
    packed.matrix.attributes.push_back(attribute_of(spec, bytes));
  // Rules take what a reader has checked before.
  if (!check_entry(packed.matrix).ok()) return;
  for (size_t i = 0; i < format.parts.size(); ++i) {
    if (format.parts[i].presence == PartSpec::Presence::kOptional && (choices >> (i % 7 + 1)) % 2)
      packed.matrix.parts[i].shape = {-1};
  }
  for (size_t i = 0; i < format.parts.size(); ++i) {
    const bool needed = format.parts[i].presence == PartSpec::Presence::kNeeded;
    if ((needed || packed.matrix.part(i).is_present()) && !add_part(i, bytes, packed)) return;
  }
  const Status status = validate(packed.matrix);
  require(status.ok() || !status.message().empty());
  if (status.ok()) write_out(packed);
}

}  // namespace tessera::fuzz
