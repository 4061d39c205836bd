#include "attention/methods.h"

#include <array>

namespace tessera {

std::span<const AttentionMethod* const> attention_methods() {
  static const std::array methods = {&attention::flash(), &attention::on_the_fly(),
                                     &attention::unfused()};
  return methods;
}

const AttentionMethod* find_attention_method(std::string_view name) {
  for (const AttentionMethod* method : attention_methods()) {
    if (method->name() == name) return method;
  }
  return nullptr;
}

}  // namespace tessera
