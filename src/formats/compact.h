#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "base/status.h"
#include "formats/dense.h"

namespace tessera {

// Which whole vectors of a matrix are kept.
enum class KeptAxis { kOutputs, kInputs };

// A matrix of which only whole outputs (E.T.'s row pruning of W in y = W x) or whole inputs (column
// pruning) are kept, the others are zero. The memory belongs to the checkpoint.
//   kept:  the dense matrix of what is kept, of the same order
//   index: [kept outputs or inputs]: where each stands in the whole, ascending
struct CompactMatrix {
  DenseView kept;
  KeptAxis axis = KeptAxis::kOutputs;
  const int32_t* index = nullptr;
  int64_t whole = 0;  // outputs or inputs of the whole matrix

  int64_t outputs() const { return axis == KeptAxis::kOutputs ? whole : kept.outputs(); }
  int64_t inputs() const { return axis == KeptAxis::kInputs ? whole : kept.inputs(); }
  int64_t kept_count() const { return axis == KeptAxis::kOutputs ? kept.outputs() : kept.inputs(); }

  static constexpr const WeightFormat& kFormat = weight_formats::compact;
  static CompactMatrix of(const StoredMatrix& matrix);
  operator StoredMatrix() const;
};

// The index has as many entries as `kept` has outputs (or inputs), perhaps none.
Status validate(const CompactMatrix& matrix);
// target: the whole matrix, of the kept matrix's dtype and order, every element is written.
void to_dense(const CompactMatrix& matrix, void* target);
int64_t flops_per_row(const CompactMatrix& matrix);  // of a product with one row

}  // namespace tessera
