#include "tokenizer/protobuf.h"

#include <fmt/format.h>

#include <bit>

namespace tessera::tokenizer {
namespace {

Status damaged(size_t pos, std::string_view what) {
  return invalid_input(
      fmt::format("expected a protobuf message, found {} at byte {} of it", what, pos));
}

// Base-128 integer, the low groups first.
Status read_varint(std::string_view message, size_t& pos, uint64_t& value) {
  const size_t begin = pos;
  value = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    if (pos == message.size()) return damaged(begin, "the end inside an integer");
    const auto byte = static_cast<uint8_t>(message[pos++]);
    value |= static_cast<uint64_t>(byte & 0x7F) << shift;
    if (byte < 0x80) return {};
  }
  return damaged(begin, "an integer of more than 10 bytes");
}

Status read_fixed(std::string_view message, size_t& pos, size_t size, uint64_t& value) {
  if (message.size() - pos < size) return damaged(pos, "the end inside a number");
  value = 0;
  for (size_t i = 0; i < size; ++i) {
    value |= static_cast<uint64_t>(static_cast<uint8_t>(message[pos + i])) << (8 * i);
  }
  pos += size;
  return {};
}

Status read_field(std::string_view message, size_t& pos, ProtoField& field) {
  const size_t begin = pos;
  uint64_t tag = 0;
  TESSERA_RETURN_IF_ERROR(read_varint(message, pos, tag));
  const uint64_t number = tag >> 3;
  constexpr uint64_t kLargestNumber = (1 << 29) - 1;
  if (number == 0 || number > kLargestNumber) {
    return damaged(begin, fmt::format("field number {}", number));
  }
  field.number = static_cast<uint32_t>(number);
  field.wire = static_cast<ProtoField::Wire>(tag & 7);
  field.bytes = {};
  switch (field.wire) {
    case ProtoField::Wire::kVarint:
      return read_varint(message, pos, field.value);
    case ProtoField::Wire::kFixed64:
      return read_fixed(message, pos, 8, field.value);
    case ProtoField::Wire::kFixed32:
      return read_fixed(message, pos, 4, field.value);
    case ProtoField::Wire::kBytes:
      break;
    default:
      return damaged(begin, fmt::format("wire type {}", tag & 7));
  }
  uint64_t size = 0;
  TESSERA_RETURN_IF_ERROR(read_varint(message, pos, size));
  if (size > message.size() - pos) {
    return damaged(begin, fmt::format("field {} of {} bytes where {} are left", number, size,
                                      message.size() - pos));
  }
  field.bytes = message.substr(pos, size);
  pos += size;
  return {};
}

}  // namespace

Status ProtoField::expect(Wire wanted, std::string_view name) const {
  if (wire == wanted) return {};
  return invalid_input(fmt::format("expected {} in field {}, found wire type {}", name, number,
                                   static_cast<int>(wire)));
}

Status ProtoField::read(std::string_view& target) const {
  TESSERA_RETURN_IF_ERROR(expect(Wire::kBytes, "bytes"));
  target = bytes;
  return {};
}

Status ProtoField::read(bool& target) const {
  TESSERA_RETURN_IF_ERROR(expect(Wire::kVarint, "a truth value"));
  target = value != 0;
  return {};
}

Status ProtoField::read(int64_t& target) const {
  TESSERA_RETURN_IF_ERROR(expect(Wire::kVarint, "an integer"));
  target = static_cast<int64_t>(value);
  return {};
}

Status ProtoField::read(float& target) const {
  TESSERA_RETURN_IF_ERROR(expect(Wire::kFixed32, "a 32-bit float"));
  target = std::bit_cast<float>(static_cast<uint32_t>(value));
  return {};
}

Status for_each_field(std::string_view message,
                      const std::function<Status(const ProtoField&)>& visit) {
  for (size_t pos = 0; pos < message.size();) {
    ProtoField field;
    TESSERA_RETURN_IF_ERROR(read_field(message, pos, field));
    TESSERA_RETURN_IF_ERROR(visit(field));
  }
  return {};
}

}  // namespace tessera::tokenizer
