#include "base/trace.h"

namespace tessera {

std::string_view name(Operation operation) {
  constexpr std::array<std::string_view, kOperations> kNames = {
      "embedding",        "norm",   "qkv",        "positions", "append", "attention",
      "attention_output", "ffn_in", "activation", "ffn_out",   "head"};
  return kNames[static_cast<size_t>(operation)];
}

}  // namespace tessera
