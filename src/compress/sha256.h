#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace tessera {

// SHA-256 (FIPS 180-4) of bytes that come in pieces.
class Sha256 {
 public:
  void add(const void* data, size_t size_bytes);
  // 64 hexadecimal digits; nothing may be added after it.
  std::string finish();

 private:
  void add_block(const unsigned char* block);

  std::array<uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<unsigned char, 64> waiting_{};
  size_t waiting_bytes_ = 0;
  uint64_t total_bytes_ = 0;
};

}  // namespace tessera
