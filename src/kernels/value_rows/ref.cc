#include "base/dtype.h"
#include "kernels/value_rows/value_rows.h"

namespace tessera::value_rows {
namespace {

int64_t row_bytes(const Args& args) {
  switch (args.numbers) {
    case Numbers::kF32:
      return 4 * args.cols;
    case Numbers::kBF16:
      return 2 * args.cols;
    case Numbers::kInt8:
      return args.cols;
    default:
      return (args.cols + 1) / 2;
  }
}

double number(const Args& args, const std::byte* row, int64_t c) {
  switch (args.numbers) {
    case Numbers::kF32:
      return reinterpret_cast<const float*>(row)[c];
    case Numbers::kBF16:
      return bf16_to_f32(reinterpret_cast<const uint16_t*>(row)[c]);
    case Numbers::kInt8:
      return reinterpret_cast<const int8_t*>(row)[c];
    default: {
      const int64_t half = (args.cols + 1) / 2;
      const auto byte = std::to_integer<int32_t>(row[c < half ? c : c - half]);
      const int32_t bits = c < half ? byte & 15 : byte >> 4;
      return bits < 8 ? bits : bits - 16;
    }
  }
}

}  // namespace

void ref(const Args& args, Exec exec) noexcept {
  const bool has_scales = args.numbers == Numbers::kInt8 || args.numbers == Numbers::kInt4;
  for (int64_t q = exec.begin; q < exec.end; ++q) {
    const int32_t* places = args.places + q * args.places_stride;
    for (int64_t c = 0; c < args.cols; ++c) {
      double sum = 0;
      for (int32_t i = 0; i < args.counts[q]; ++i) {
        const int32_t place = places[i], row = place % kPageRows;
        const std::byte* page = args.pages[place / kPageRows];
        const double weight = args.weights[q * args.weights_stride + place];
        if (weight == 0) continue;
        const double scale =
            has_scales ? reinterpret_cast<const float*>(page + args.scales_at)[row] : 1;
        sum += weight * scale * number(args, page + args.rows_at + row * row_bytes(args), c);
      }
      args.y[q * args.y_stride + c] = static_cast<float>(sum);
    }
  }
}

}  // namespace tessera::value_rows
