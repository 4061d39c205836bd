#pragma once

#include <stdint.h>

#include "kernels/line_sums/line_sums.h"

// Included by files compiled for different instruction sets, so everything has internal linkage.
namespace tessera::line_sums {
namespace {

inline int64_t place(const int32_t* places, int64_t i) {
  return kLine * (places != nullptr ? int64_t{places[i]} : i);
}

}  // namespace
}  // namespace tessera::line_sums
