#pragma once

#include <bit>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/charsmap_testing.h"

// Writes protobuf messages and tokenizer.model files, for tests.
namespace tessera::tokenizer {

inline std::string proto_varint(uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes.push_back(static_cast<char>(value | 0x80));
  bytes.push_back(static_cast<char>(value));
  return bytes;
}

inline std::string proto_integer(uint32_t number, uint64_t value) {
  return proto_varint(number << 3) + proto_varint(value);
}

inline std::string proto_bytes(uint32_t number, std::string_view bytes) {
  return proto_varint(number << 3 | 2) + proto_varint(bytes.size()) + std::string(bytes);
}

inline std::string proto_float(uint32_t number, float value) {
  return proto_varint(number << 3 | 5) + little_endian(std::bit_cast<uint32_t>(value));
}

struct TestPiece {
  std::string text;
  float score = 0;
  int type = 1;  // 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte
};

inline std::string proto_piece(const TestPiece& piece) {
  return proto_bytes(1, proto_bytes(1, piece.text) + proto_float(2, piece.score) +
                            proto_integer(3, static_cast<uint64_t>(piece.type)));
}

struct TestSentencePiece {
  std::vector<TestPiece> pieces = {{"<unk>", 0, 2}, {"<s>", 0, 3}, {"</s>", 0, 3}};
  int algorithm = 1;    // 2 BPE
  std::string trainer;  // further fields
  std::string normalizer;
  std::string to_bytes() const {
    std::string bytes;
    for (const TestPiece& piece : pieces) bytes += proto_piece(piece);
    return bytes + proto_bytes(2, proto_integer(3, static_cast<uint64_t>(algorithm)) + trainer) +
           proto_bytes(3, normalizer);
  }
};

}  // namespace tessera::tokenizer
