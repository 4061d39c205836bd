#include "attention/methods.h"

#include <array>

namespace tessera {

std::span<const AttentionMethod* const> attention_methods() {
#define TESSERA_ATTENTION(name) &attention::name(),
  static const std::array methods = {
#include "attention/table.inc"
  };
#undef TESSERA_ATTENTION
  return methods;
}

const AttentionMethod* find_attention_method(std::string_view name) {
  for (const AttentionMethod* method : attention_methods()) {
    if (method->name() == name) return method;
  }
  return nullptr;
}

}  // namespace tessera
