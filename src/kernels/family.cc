#include "kernels/family.h"

#include <cstdlib>

namespace tessera {
namespace {

std::string& specification() {
  static std::string value = [] {
    const char* wanted = std::getenv("TESSERA_KERNEL");
    return std::string(wanted != nullptr ? wanted : "");
  }();
  return value;
}

}  // namespace

std::string_view forced_kernel(std::string_view family) {
  std::string_view rest = specification();
  while (!rest.empty()) {
    const size_t comma = rest.find(',');
    const std::string_view item = rest.substr(0, comma);
    const size_t colon = item.find(':');
    if (colon != std::string_view::npos && item.substr(0, colon) == family)
      return item.substr(colon + 1);
    rest = comma == std::string_view::npos ? std::string_view() : rest.substr(comma + 1);
  }
  return {};
}

const std::string& forced_kernels() { return specification(); }

void force_kernel(std::string value) { specification() = std::move(value); }

}  // namespace tessera
