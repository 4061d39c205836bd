#include "compress/matrix.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "io/json.h"

namespace tessera {
namespace {

constexpr size_t at(int64_t index) { return static_cast<size_t>(index); }

Status not_finite(const Source& source, const std::string& name) {
  return invalid_input(fmt::format("{}: tensor {}: expected finite values, found others",
                                   source.checkpoint->directory(), quote(name)));
}

bool is_finite(const std::vector<float>& values) {
  return std::all_of(values.begin(), values.end(), [](float x) { return std::isfinite(x); });
}

// W [outputs, inputs] of what is stored in its order.
void widen(const std::vector<char>& stored, const StoredMatrix& matrix, float* target) {
  const int64_t rows = outputs(matrix), cols = inputs(matrix);
  if (order(matrix) == MatrixOrder::kOutputRows) {
    convert_to_f32(stored.data(), dtype(matrix), rows * cols, target);
    return;
  }
  std::vector<float> line(at(rows));
  const size_t line_bytes = at(rows) * size_bytes(dtype(matrix));
  for (int64_t c = 0; c < cols; ++c) {
    convert_to_f32(stored.data() + at(c) * line_bytes, dtype(matrix), rows, line.data());
    for (int64_t r = 0; r < rows; ++r) target[r * cols + c] = line[at(r)];
  }
}

TileMask mask_of(const TileMatrix& tiles) {
  TileMask mask = TileMask::all(tiles.tile, tiles.rows, tiles.cols);
  std::fill(mask.kept.begin(), mask.kept.end(), uint8_t{0});
  for (int64_t row = 0; row < mask.tile_rows(); ++row) {
    for (int32_t i = tiles.offsets[row]; i < tiles.offsets[row + 1]; ++i)
      mask.kept[at(row * mask.tile_cols() + tiles.columns[i])] = 1;
  }
  return tiles.order == MatrixOrder::kInputRows ? transposed(mask) : mask;
}

TileMask mask_of(const CsrMatrix& csr) {
  TileMatrix tiles{.rows = csr.rows, .cols = csr.cols, .order = csr.order, .tile = {1, 1}};
  tiles.offsets = csr.offsets;
  tiles.columns = csr.columns;
  return mask_of(tiles);
}

TileMask mask_of(const CompactMatrix& compact) {
  const auto outputs = static_cast<int32_t>(compact.outputs());
  const auto inputs = static_cast<int32_t>(compact.inputs());
  const bool by_output = compact.axis == KeptAxis::kOutputs;
  TileMask mask =
      TileMask::all(by_output ? TileShape{1, inputs} : TileShape{outputs, 1}, outputs, inputs);
  std::fill(mask.kept.begin(), mask.kept.end(), uint8_t{0});
  for (int64_t i = 0; i < compact.kept_count(); ++i) mask.kept[at(compact.index[i])] = 1;
  return mask;
}

void keep_mask(const StoredMatrix& stored, Matrix& matrix) {
  if (const auto tiles = as<TileMatrix>(stored)) {
    matrix.removed = Removed::kTiles;
    matrix.mask = mask_of(*tiles);
  } else if (const auto csr = as<CsrMatrix>(stored)) {
    matrix.removed = Removed::kElements;
    matrix.mask = mask_of(*csr);
  } else if (const auto compact = as<CompactMatrix>(stored)) {
    matrix.removed = compact->axis == KeptAxis::kOutputs ? Removed::kOutputs : Removed::kInputs;
    matrix.mask = mask_of(*compact);
  }
}

// first: where the item's outputs begin in what is stored.
void keep_rounding(const StoredMatrix& stored, int64_t first, Matrix& matrix) {
  const Item& item = matrix.item;
  const int64_t end = first + item.outputs;
  if (end > outputs(stored)) return;  // which is refused when all parts are there
  const auto take_inputs = [&](const float* scales) {
    if (scales != nullptr) matrix.rounding->input_scales.assign(scales, scales + item.inputs);
  };
  if (const auto quantized = as<QuantizedMatrix>(stored)) {
    matrix.rounding = {quantized->precision, quantized->group, {}, {}};
    for (int64_t o = first; o < end; ++o) {
      for (int64_t g = 0; g < quantized->groups(); ++g)
        matrix.rounding->scales.push_back(quantized->scale(o, g));
    }
    take_inputs(quantized->input_scales);
  } else if (const auto tiles = as<TileMatrix>(stored); tiles && tiles->is_quantized()) {
    matrix.rounding = {Precision::kInt8, 0, {tiles->scales + first, tiles->scales + end}, {}};
    take_inputs(tiles->input_scales);
  }
}

// All of a tensor, the parts of a stack one after another.
Status read_tensor(const Source& source, const Item& item, Matrix& matrix) {
  Weight whole{item.tensor_outputs, item.inputs, {}};
  whole.values.reserve(at(whole.outputs * whole.inputs));
  for (const std::string& part : parts_of(*source.formats, item.tensor)) {
    const bool output_rows = item.order == MatrixOrder::kOutputRows;
    const DenseView expected{nullptr, DType::kF32, output_rows ? -1 : item.inputs,
                             output_rows ? item.inputs : -1, item.order};
    TESSERA_ASSIGN_OR_RETURN(const ReadMatrix read,
                             read_matrix(*source.checkpoint, *source.formats, part, expected));
    const StoredMatrix& stored = read.packed.matrix;
    if (static_cast<int64_t>(whole.values.size()) + outputs(stored) * item.inputs >
        whole.outputs * whole.inputs) {
      return invalid_input(fmt::format("{}: tensor {}: expected {} outputs, found more",
                                       source.checkpoint->directory(), quote(item.tensor),
                                       item.tensor_outputs));
    }
    std::vector<char> dense(at(dense_bytes(stored)));
    to_dense(stored, dense.data());
    const size_t first = whole.values.size();
    whole.values.resize(first + at(outputs(stored) * item.inputs));
    widen(dense, stored, whole.values.data() + first);
    matrix.dtype = dtype(stored);
    if (part == item.name()) keep_mask(stored, matrix);
    if (part == item.tensor) {
      keep_rounding(stored, item.first, matrix);
    } else if (part == item.name()) {
      keep_rounding(stored, 0, matrix);
    }
    for (const TensorView& tensor : read.tensors) source.checkpoint->release(tensor);
  }
  if (static_cast<int64_t>(whole.values.size()) != whole.outputs * whole.inputs) {
    return invalid_input(fmt::format("{}: tensor {}: expected {} outputs, found {}",
                                     source.checkpoint->directory(), quote(item.tensor),
                                     whole.outputs,
                                     static_cast<int64_t>(whole.values.size()) / whole.inputs));
  }
  if (!is_finite(whole.values)) return not_finite(source, item.tensor);
  matrix.whole = std::move(whole);
  return {};
}

Status read_bias(const Source& source, Matrix& matrix) {
  const Item& item = matrix.item;
  TESSERA_ASSIGN_OR_RETURN(const TensorView tensor,
                           source.checkpoint->tensor(item.bias, {item.tensor_outputs}));
  std::vector<float> values(at(item.tensor_outputs));
  convert_to_f32(tensor.data, tensor.dtype, item.tensor_outputs, values.data());
  if (!is_finite(values)) return not_finite(source, item.bias);
  matrix.bias.assign(values.begin() + item.first, values.begin() + item.first + item.outputs);
  matrix.bias_dtype = tensor.dtype;
  return {};
}

std::vector<float> rounded(const std::vector<float>& values, DType dtype) {
  const std::vector<char> bytes = narrowed(values, dtype);
  std::vector<float> result(values.size());
  convert_to_f32(bytes.data(), dtype, static_cast<int64_t>(values.size()), result.data());
  return result;
}

DenseView view_of(const void* values, DType dtype, const Item& item) {
  const bool output_rows = item.order == MatrixOrder::kOutputRows;
  return {values, dtype, output_rows ? item.outputs : item.inputs,
          output_rows ? item.inputs : item.outputs, item.order};
}

Result<PackedMatrix> pack_unit(const Matrix& matrix, const DenseView& dense) {
  const bool turned = matrix.item.order == MatrixOrder::kInputRows;
  const TileMask mask = turned ? transposed(*matrix.mask) : *matrix.mask;
  switch (matrix.removed) {
    case Removed::kTiles:
      return pack_tiles(dense, mask);
    case Removed::kElements:
      return pack_csr(dense, mask);
    case Removed::kInputs:
    case Removed::kInputsOfValues:
      return pack_compact(dense, KeptAxis::kInputs, mask.kept);
    default:
      return pack_compact(dense, KeptAxis::kOutputs, mask.kept);
  }
}

// Tiles of integers that have a scale for each output.
Result<PackedMatrix> pack_integer_tiles(const Matrix& matrix) {
  const Integers& integers = *matrix.integers;
  const auto* bytes = reinterpret_cast<const char*>(integers.values.data());
  const std::vector<char> values =
      in_order({bytes, bytes + integers.values.size()}, 1, matrix.item);
  TESSERA_ASSIGN_OR_RETURN(PackedMatrix packed,
                           pack_unit(matrix, view_of(values.data(), DType::kI8, matrix.item)));
  set_scales(".tile_scales", integers.scales, packed);
  set_scales(".input_scales", integers.input_scales, packed);
  return packed;
}

// The smaller form, where the integers can be tiles.
Result<PackedMatrix> pack_rounded(const Matrix& matrix) {
  PackedMatrix whole = pack_integers(*matrix.integers);
  const bool may_be_tiles = matrix.mask.has_value() && matrix.removed == Removed::kTiles &&
                            matrix.integers->precision == Precision::kInt8 &&
                            matrix.integers->group == 0;
  if (!may_be_tiles) return whole;
  TESSERA_ASSIGN_OR_RETURN(PackedMatrix tiles, pack_integer_tiles(matrix));
  const std::string name = matrix.item.name();
  return file_bytes(name, tiles) < file_bytes(name, whole) ? std::move(tiles) : std::move(whole);
}

}  // namespace

double Matrix::share() const {
  if (!mask.has_value()) return 0;
  return 1 - static_cast<double>(mask->kept_weights()) /
                 static_cast<double>(item.outputs * item.inputs);
}

double Matrix::weight_error() const {
  double lost = 0, total = 0;
  for (size_t i = 0; i < whole.values.size(); ++i) {
    const double value = whole.values[i], difference = value - pruned.values[i];
    lost += difference * difference;
    total += value * value;
  }
  return lost > 0 ? std::sqrt(lost / total) : 0;
}

std::vector<char> narrowed(const std::vector<float>& values, DType dtype) {
  std::vector<char> bytes(values.size() * size_bytes(dtype));
  if (dtype == DType::kF32) {
    if (!values.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
    return bytes;
  }
  for (size_t i = 0; i < values.size(); ++i) {
    const uint16_t bits = dtype == DType::kBF16 ? f32_to_bf16(values[i]) : f32_to_f16(values[i]);
    std::memcpy(bytes.data() + i * sizeof(bits), &bits, sizeof(bits));
  }
  return bytes;
}

std::vector<char> in_order(const std::vector<char>& values, size_t value_bytes, const Item& item) {
  if (item.order == MatrixOrder::kOutputRows) return values;
  std::vector<char> turned(values.size());
  for (int64_t o = 0; o < item.outputs; ++o) {
    for (int64_t i = 0; i < item.inputs; ++i)
      std::memcpy(turned.data() + at(i * item.outputs + o) * value_bytes,
                  values.data() + at(o * item.inputs + i) * value_bytes, value_bytes);
  }
  return turned;
}

std::optional<Precision> source_precision(const Source& source, const Item& item) {
  for (const std::string& name : {item.name(), item.tensor}) {
    const TensorFormat* entry = source.formats->find(name);
    if (entry == nullptr || entry->is_stack()) continue;
    if (entry->format == &QuantizedMatrix::kFormat) {
      const AttributeSpec& precision = entry->format->attributes.front();
      return parse_precision(precision.words[at(entry->attributes.front()[0])]);
    }
    if (source.checkpoint->has(name + ".tile_scales")) return Precision::kInt8;
  }
  return std::nullopt;
}

Result<Matrix> read_item(const Sources& sources, const Item& item) {
  Matrix matrix{.item = item};
  for (const Source& source : sources) {
    if (!has_matrix(*source.checkpoint, *source.formats, item.tensor) && &source != &sources.back())
      continue;
    TESSERA_RETURN_IF_ERROR(read_tensor(source, item, matrix));
    break;
  }
  for (const Source& source : sources) {
    if (item.bias.empty()) break;
    if (!source.checkpoint->has(item.bias) && &source != &sources.back()) continue;
    TESSERA_RETURN_IF_ERROR(read_bias(source, matrix));
    break;
  }
  Weight& whole = matrix.whole;
  if (!item.is_whole_tensor()) {
    whole.values.erase(whole.values.begin() + (item.first + item.outputs) * item.inputs,
                       whole.values.end());
    whole.values.erase(whole.values.begin(), whole.values.begin() + item.first * item.inputs);
    whole.outputs = item.outputs;
  }
  matrix.pruned = whole;
  return matrix;
}

void round_to_file(Matrix& matrix) {
  matrix.pruned.values = rounded(matrix.pruned.values, matrix.dtype);
  round_bias(matrix);
}

void round_bias(Matrix& matrix) {
  if (!matrix.bias.empty()) matrix.bias = rounded(matrix.bias, matrix.bias_dtype);
}

void move_bias(const std::vector<double>& shift, Matrix& matrix) {
  matrix.shift.resize(shift.size());
  for (size_t o = 0; o < shift.size(); ++o) {
    matrix.bias[o] += static_cast<float>(shift[o]);
    matrix.shift[o] += shift[o];
  }
  matrix.bias_changed = true;
}

Result<PackedMatrix> pack(const Matrix& matrix) {
  if (matrix.integers.has_value()) return pack_rounded(matrix);
  PackedMatrix dense = packed_with(view_of(nullptr, matrix.dtype, matrix.item),
                                   in_order(narrowed(matrix.pruned.values, matrix.dtype),
                                            size_bytes(matrix.dtype), matrix.item));
  if (!matrix.mask.has_value()) return dense;
  TESSERA_ASSIGN_OR_RETURN(PackedMatrix packed, pack_unit(matrix, get<DenseView>(dense.matrix)));
  const std::string name = matrix.item.name();
  if (file_bytes(name, packed) < file_bytes(name, dense)) return packed;
  return dense;
}

}  // namespace tessera
