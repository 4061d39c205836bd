#include "model/execution.h"

namespace tessera {
namespace {

constexpr double kFloatBytes = sizeof(float);

}  // namespace

Work work_of(const Linear& linear, int64_t rows) {
  const LinearInfo info = linear.info();
  const auto n = static_cast<double>(rows);
  return {.flops = n * static_cast<double>(info.flops_per_row),
          .dense_flops = n * static_cast<double>(info.dense_flops_per_row),
          .bytes = static_cast<double>(info.bytes) +
                   n * kFloatBytes * static_cast<double>(info.inputs + info.outputs)};
}

Work moved(int64_t floats) { return {.bytes = kFloatBytes * static_cast<double>(floats)}; }

double cached_bytes(const PageShape& shape, int64_t tokens) {
  return static_cast<double>(shape.page_bytes()) / kPageTokens * static_cast<double>(tokens);
}

}  // namespace tessera
