#include "formats/stored_matrix.h"

#include <cstring>

namespace tessera {
namespace {

template <typename... Visitors>
struct Overloaded : Visitors... {
  using Visitors::operator()...;
};
template <typename... Visitors>
Overloaded(Visitors...) -> Overloaded<Visitors...>;

int64_t bytes_of(const DenseView& matrix) {
  return matrix.rows * matrix.cols * static_cast<int64_t>(size_bytes(matrix.dtype));
}

}  // namespace

DType dtype(const StoredMatrix& matrix) {
  return std::visit(Overloaded{[](const CompactMatrix& compact) { return compact.kept.dtype; },
                               [](const QuantizedMatrix&) { return DType::kF32; },
                               [](const TileMatrix& tiles) {
                                 return tiles.is_quantized() ? DType::kF32 : tiles.dtype;
                               },
                               [](const auto& one) { return one.dtype; }},
                    matrix);
}

MatrixOrder order(const StoredMatrix& matrix) {
  return std::visit(Overloaded{[](const CompactMatrix& compact) { return compact.kept.order; },
                               [](const QuantizedMatrix&) { return MatrixOrder::kOutputRows; },
                               [](const auto& one) { return one.order; }},
                    matrix);
}

int64_t dense_bytes(const StoredMatrix& matrix) {
  return outputs(matrix) * inputs(matrix) * static_cast<int64_t>(size_bytes(dtype(matrix)));
}

void to_dense(const StoredMatrix& matrix, void* target) {
  std::visit(Overloaded{[target](const DenseView& dense) {
                          std::memcpy(target, dense.data, static_cast<size_t>(bytes_of(dense)));
                        },
                        [target](const auto& one) { to_dense(one, target); }},
             matrix);
}

int64_t packed_bytes(const StoredMatrix& matrix) {
  return std::visit(Overloaded{[](const DenseView& dense) { return bytes_of(dense); },
                               [](const auto& one) { return packed_bytes(one); }},
                    matrix);
}

int64_t flops_per_row(const StoredMatrix& matrix) {
  return std::visit(Overloaded{[](const DenseView& dense) { return 2 * dense.rows * dense.cols; },
                               [](const auto& one) { return flops_per_row(one); }},
                    matrix);
}

const char* format_name(const StoredMatrix& matrix) {
  constexpr const char* kNames[] = {"dense", "tiles", "csr", "compact", "quantized"};
  static_assert(std::variant_size_v<StoredMatrix> == std::size(kNames));
  return kNames[matrix.index()];
}

}  // namespace tessera
