#include "formats/dense.h"

#include <cstring>

#include "formats/packed.h"
#include "formats/weight_format.h"

namespace tessera {

DenseView DenseView::of(const StoredMatrix& matrix) {
  return {matrix.part(0).data, matrix.part(0).dtype, matrix.rows, matrix.cols, matrix.order};
}

DenseView::operator StoredMatrix() const {
  return {&kFormat, rows, cols, order, {}, {{data, dtype, {rows, cols}}}};
}

namespace {

constexpr PartSpec kParts[] = {{""}};

PartRule rule(const StoredMatrix& matrix, size_t) {
  return {PartType::kFloats, {matrix.rows, matrix.cols}};
}

void copy(const StoredMatrix& matrix, void* target) {
  std::memcpy(target, matrix.part(0).data, static_cast<size_t>(matrix.part(0).bytes()));
}

}  // namespace

constinit const WeightFormat weight_formats::dense = {
    .name = "dense",
    .parts = kParts,
    .rule = rule,
    .validate = [](const StoredMatrix&) { return Status(); },
    .to_dense = copy,
    .flops_per_row = [](const StoredMatrix& matrix) { return 2 * matrix.rows * matrix.cols; },
    .pack = [](const DenseView& dense) -> Result<PackedMatrix> { return copy_of(dense); },
};

}  // namespace tessera
