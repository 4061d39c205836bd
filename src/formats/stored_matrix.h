#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/dtype.h"

namespace tessera {

struct DenseView;
struct WeightFormat;

namespace weight_formats {
#define TESSERA_WEIGHT_FORMAT(name) extern const WeightFormat name;
#include "formats/table.inc"
#undef TESSERA_WEIGHT_FORMAT
}  // namespace weight_formats

// How a stored matrix maps to y = W x: rows are outputs (torch's Linear) or inputs (GPT-2's
// Conv1D).
enum class MatrixOrder { kOutputRows, kInputRows };

// A matrix has at most so many rows and columns, so that the bytes of its values fit 63 bits.
inline constexpr int64_t kMaxMatrixExtent = int64_t{1} << 30;

// One of the tensors that hold a matrix.
struct MatrixPart {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape = {};  // empty: the part, which is optional, is not there

  bool is_present() const { return !shape.empty(); }
  int64_t bytes() const;
};

// An integer, a pair of them, or a word's place (formats/weight_format.h).
using Attribute = std::array<int64_t, 2>;

// A matrix as a checkpoint holds it, in any format, as plain data. What its parts point to belongs
// to the checkpoint, or to a PackedMatrix. The formats' own views (TileMatrix, ...) become one, and
// are had back by `as` and `get`.
struct StoredMatrix {
  const WeightFormat* format = nullptr;
  // The shape of the matrix written out.
  int64_t rows = 0;
  int64_t cols = 0;
  MatrixOrder order = MatrixOrder::kOutputRows;
  // One each of the format's.
  std::vector<Attribute> attributes = {};
  std::vector<MatrixPart> parts = {};

  const MatrixPart& part(size_t index) const { return parts[index]; }
  // What a part holds; null where it is not there.
  template <typename T>
  const T* data(size_t index) const {
    return static_cast<const T*>(parts[index].data);
  }
};

// The matrix as the view of its format, if it is of that.
template <typename View>
bool is(const StoredMatrix& matrix) {
  return matrix.format == &View::kFormat;
}
template <typename View>
std::optional<View> as(const StoredMatrix& matrix) {
  if (!is<View>(matrix)) return std::nullopt;
  return View::of(matrix);
}
// The view of a matrix that is known to be of the format.
template <typename View>
View get(const StoredMatrix& matrix) {
  return View::of(matrix);
}

inline int64_t outputs(const StoredMatrix& matrix) {
  return matrix.order == MatrixOrder::kOutputRows ? matrix.rows : matrix.cols;
}
inline int64_t inputs(const StoredMatrix& matrix) {
  return matrix.order == MatrixOrder::kOutputRows ? matrix.cols : matrix.rows;
}
inline MatrixOrder order(const StoredMatrix& matrix) { return matrix.order; }

// The type of the matrix written out: that of its first part, or f32 where that holds integers.
DType dtype(const StoredMatrix& matrix);
// Bytes of the matrix written out, and that; target as WeightFormat::to_dense has it.
int64_t dense_bytes(const StoredMatrix& matrix);
void to_dense(const StoredMatrix& matrix, void* target);
int64_t packed_bytes(const StoredMatrix& matrix);  // of all its parts
int64_t flops_per_row(const StoredMatrix& matrix);
const char* format_name(const StoredMatrix& matrix);

// Matrices of equal inputs whose outputs are laid one after another.
using MatrixStack = std::vector<StoredMatrix>;

}  // namespace tessera
