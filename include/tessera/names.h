#pragma once

#include <array>
#include <cstddef>
#include <iosfwd>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>

// Names of the values of every public enum, as the program and its files spell them:
//   tessera::name(tessera::WeightType::kInt8)      "int8"
//   tessera::parse<tessera::WeightType>("int8")    the value; nothing for a text that names none
//   tessera::names<tessera::WeightType>()          "auto, f32, bf16, int8, int4, w8 or w4"
//   std::cout << model->info().head                writes "causal_lm"
// The names stand beside the enum, one for each value from 0:
//   constexpr auto names_of(Better) { return enum_names("higher", "lower"); }
namespace tessera {

template <typename... Text>
constexpr std::array<std::string_view, sizeof...(Text)> enum_names(Text... text) {
  return {text...};
}

template <typename Enum>
concept Named = std::is_enum_v<Enum> && requires(Enum value) {
  names_of(value);
};

template <Named Enum>
constexpr std::string_view name(Enum value) {
  constexpr auto all = names_of(Enum{});
  const auto index = static_cast<size_t>(value);
  return index < all.size() ? all[index] : "unknown";
}

template <Named Enum>
constexpr std::optional<Enum> parse(std::string_view text) {
  constexpr auto all = names_of(Enum{});
  for (size_t i = 0; i < all.size(); ++i) {
    if (all[i] == text) return static_cast<Enum>(i);
  }
  return std::nullopt;
}

// For messages: "f32, bf16 or int8".
template <Named Enum>
std::string names() {
  constexpr auto all = names_of(Enum{});
  std::string list;
  for (size_t i = 0; i < all.size(); ++i) {
    if (i > 0) list += i + 1 < all.size() ? ", " : " or ";
    list += all[i];
  }
  return list;
}

template <typename Traits, Named Enum>
std::basic_ostream<char, Traits>& operator<<(std::basic_ostream<char, Traits>& out, Enum value) {
  return out << name(value);
}

}  // namespace tessera
