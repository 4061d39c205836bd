#include <numeric>

#include "io/compressed.h"

namespace tessera {
namespace {

using Kind = TensorFormat::Kind;

// Of a tensor's entry in the header of a safetensors file, and of a matrix's in config.json, with
// shapes and offsets of the most digits there are; both without the name.
constexpr int64_t kHeaderEntryBytes = 120;
constexpr int64_t kConfigEntryBytes = 180;

// What is written for one matrix.
class Writer {
 public:
  Writer(const std::string& name, TensorList& list) : name_(name), list_(list) {}

  TensorFormat dense(const DenseView& matrix) {
    add("", matrix.dtype, {matrix.rows, matrix.cols}, matrix.data);
    return {.kind = Kind::kDense, .rows = matrix.rows, .cols = matrix.cols};
  }

  TensorFormat tiles(const TileMatrix& matrix) {
    add(".tiles", matrix.dtype, {matrix.kept(), matrix.tile.rows, matrix.tile.cols}, matrix.values);
    add(".tile_offsets", DType::kI32, {matrix.tile_rows() + 1}, matrix.offsets);
    indices(".tile_columns", matrix.columns, matrix.kept(), matrix.tile_cols());
    if (matrix.is_quantized()) add(".tile_scales", DType::kF32, {matrix.outputs()}, matrix.scales);
    if (matrix.input_scales != nullptr)
      add(".input_scales", DType::kF32, {matrix.inputs()}, matrix.input_scales);
    return {.kind = Kind::kTiles, .rows = matrix.rows, .cols = matrix.cols, .tile = matrix.tile};
  }

  TensorFormat csr(const CsrMatrix& matrix) {
    add(".csr_values", matrix.dtype, {matrix.kept()}, matrix.values);
    add(".csr_offsets", DType::kI32, {matrix.rows + 1}, matrix.offsets);
    indices(".csr_columns", matrix.columns, matrix.kept(), matrix.cols);
    return {.kind = Kind::kCsr, .rows = matrix.rows, .cols = matrix.cols};
  }

  TensorFormat compact(const CompactMatrix& matrix) {
    const DenseView& kept = matrix.kept;
    const bool rows =
        (matrix.axis == KeptAxis::kOutputs) == (kept.order == MatrixOrder::kOutputRows);
    add(".kept", kept.dtype, {kept.rows, kept.cols}, kept.data);
    indices(".kept_index", matrix.index, matrix.kept_count(), matrix.whole);
    return {.kind = Kind::kCompact,
            .rows = rows ? matrix.whole : kept.rows,
            .cols = rows ? kept.cols : matrix.whole,
            .axis = matrix.axis};
  }

  TensorFormat quantized(const QuantizedMatrix& matrix) {
    const bool bytes = bits(matrix.precision) == 8;
    add(".values", bytes ? DType::kI8 : DType::kU8, {matrix.rows, matrix.row_bytes()},
        matrix.values);
    add(".scales", matrix.scale_type, {matrix.rows, matrix.groups()}, matrix.scales);
    if (matrix.input_scales != nullptr)
      add(".input_scales", DType::kF32, {matrix.cols}, matrix.input_scales);
    return {.kind = Kind::kQuantized,
            .rows = matrix.rows,
            .cols = matrix.cols,
            .precision = matrix.precision,
            .group = matrix.group};
  }

 private:
  void add(const char* suffix, DType dtype, std::vector<int64_t> shape, const void* data) {
    list_.tensors.push_back({name_ + suffix, dtype, std::move(shape), data});
  }

  void indices(const char* suffix, const int32_t* values, int64_t count, int64_t limit) {
    if (limit > INT16_MAX) {
      add(suffix, DType::kI32, {count}, values);
      return;
    }
    list_.short_indices.emplace_back(values, values + count);
    add(suffix, DType::kI16, {count}, list_.short_indices.back().data());
  }

  const std::string& name_;
  TensorList& list_;
};

int64_t tensor_bytes(const TensorToWrite& tensor) {
  int64_t bytes = static_cast<int64_t>(size_bytes(tensor.dtype));
  for (const int64_t extent : tensor.shape) bytes *= extent;
  return bytes;
}

}  // namespace

TensorFormat add_matrix(const std::string& name, const PackedMatrix& matrix, TensorList& list) {
  Writer writer(name, list);
  if (const auto* tiles = std::get_if<TileMatrix>(&matrix.matrix)) return writer.tiles(*tiles);
  if (const auto* csr = std::get_if<CsrMatrix>(&matrix.matrix)) return writer.csr(*csr);
  if (const auto* compact = std::get_if<CompactMatrix>(&matrix.matrix))
    return writer.compact(*compact);
  if (const auto* quantized = std::get_if<QuantizedMatrix>(&matrix.matrix))
    return writer.quantized(*quantized);
  return writer.dense(std::get<DenseView>(matrix.matrix));
}

int64_t tensor_bytes(const PackedMatrix& matrix) {
  TensorList list;
  add_matrix("", matrix, list);
  return std::accumulate(
      list.tensors.begin(), list.tensors.end(), int64_t{0},
      [](int64_t sum, const TensorToWrite& tensor) { return sum + tensor_bytes(tensor); });
}

int64_t file_bytes(const std::string& name, const PackedMatrix& matrix) {
  TensorList list;
  const TensorFormat format = add_matrix(name, matrix, list);
  int64_t total =
      format.kind == Kind::kDense ? 0 : kConfigEntryBytes + static_cast<int64_t>(name.size());
  for (const TensorToWrite& tensor : list.tensors) {
    total += tensor_bytes(tensor) + static_cast<int64_t>(tensor.name.size());
    // The dense form has an entry as well, of fewer digits.
    total += format.kind == Kind::kDense ? kHeaderEntryBytes / 2 : kHeaderEntryBytes;
  }
  return total;
}

}  // namespace tessera
