#pragma once

#include <cstdint>
#include <functional>
#include <string_view>

#include "base/status.h"

namespace tessera::tokenizer {

// A field of a protobuf message; what it says lies in value or bytes.
class ProtoField {
 public:
  enum class Wire { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

  uint32_t number = 0;
  Wire wire = Wire::kVarint;
  uint64_t value = 0;      // of kVarint, kFixed64 and kFixed32
  std::string_view bytes;  // of kBytes; lies in the message

  // Fail when the field is of another kind; the sentence names no place.
  Status read(std::string_view& target) const;
  Status read(bool& target) const;
  Status read(int64_t& target) const;
  Status read(float& target) const;

 private:
  Status expect(Wire wanted, std::string_view name) const;
};

// Calls visit for the fields of a message in their order, until one fails. A message that is cut
// short, or has a length beyond its end, or groups, is an error without a place.
Status for_each_field(std::string_view message,
                      const std::function<Status(const ProtoField&)>& visit);

}  // namespace tessera::tokenizer
