#include "linear/formats.h"

#include <fmt/format.h>

namespace tessera {

int64_t Run::outputs() const {
  int64_t total = 0;
  for (const StoredMatrix& matrix : matrices) total += tessera::outputs(matrix);
  return total;
}

void Preparation::keep(PackedMatrix packed, StoredMatrix& matrix) {
  matrix = packed.matrix;
  packed_.push_back(std::move(packed));
}

Status Preparation::round(StoredMatrix& matrix) {
  if (!is<DenseView>(matrix) || !is_quantized(precision_)) return {};
  TESSERA_ASSIGN_OR_RETURN(PackedMatrix packed, pack_quantized(get<DenseView>(matrix), precision_,
                                                               default_group(precision_), &team_));
  keep(std::move(packed), matrix);
  return {};
}

Status Preparation::write_out(StoredMatrix& matrix) {
  const int64_t bytes = dense_bytes(matrix);
  Buffer dense = host_device().allocate(static_cast<size_t>(bytes));
  if (dense.empty()) {
    return out_of_memory(
        fmt::format("Writing out a matrix needs {} bytes, which could not be had.", bytes));
  }
  to_dense(matrix, dense.data());
  matrix = DenseView{dense.data(), dtype(matrix), matrix.rows, matrix.cols, matrix.order};
  written_out_.push_back(std::move(dense));
  return round(matrix);
}

Status Preparation::write_out(Run& run) {
  for (StoredMatrix& matrix : run.matrices) TESSERA_RETURN_IF_ERROR(write_out(matrix));
  return {};
}

Result<Buffer> allocate_packed(int64_t bytes) {
  Buffer buffer = weights_device().allocate(static_cast<size_t>(bytes));
  if (!buffer.empty()) return buffer;
  return out_of_memory(
      fmt::format("Packing a linear map needs {} bytes, which could not be had.", bytes));
}

}  // namespace tessera
