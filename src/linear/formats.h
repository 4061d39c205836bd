#pragma once

#include <algorithm>
#include <any>
#include <memory>
#include <string>
#include <vector>

#include "base/device.h"
#include "formats/packed.h"
#include "formats/tile_panels.h"
#include "linear/linear.h"

// What prepare_linear is made of. Every prepare function takes matrices of equal inputs, already
// validated, and a bias of all their outputs or null, and keeps none of it.
namespace tessera {

// What rows [rows.begin, rows.end) of a call are for a kernel that reads them in another form:
// where they are written, and the activation.
template <typename Product>
void take_results(const LinearArgs& args, Range rows, Product& product) {
  product.rows = rows.size();
  product.activation = args.activation;
  if (args.residual != nullptr) {
    product.residual = args.residual + rows.begin * args.residual_stride;
    product.residual_stride = args.residual_stride;
  }
  product.y = args.y + rows.begin * args.y_stride;
  product.y_stride = args.y_stride;
}

// And where they are read.
template <typename Product>
void take_rows(const LinearArgs& args, Range rows, Product& product) {
  product.x = args.x + rows.begin * args.x_stride;
  product.x_stride = args.x_stride;
  take_results(args, rows, product);
}

// Matrices that become one map, in the form in which they are run.
struct Run {
  MatrixStack matrices;
  std::string
      instead;     // why they are run in another form than they are stored in, if they need not
  std::any found;  // what a format's choice leaves to its preparation

  int64_t outputs() const;
  // All of them, which are of the view's format.
  template <typename View>
  std::vector<View> all_of() const {
    std::vector<View> all;
    for (const StoredMatrix& matrix : matrices) all.push_back(get<View>(matrix));
    return all;
  }
};

// What a map is to be prepared for, and the matrices that are made on the way, which live until it
// is.
class Preparation {
 public:
  Preparation(Precision precision, Team& team) : precision_(precision), team_(team) {}

  Precision precision() const { return precision_; }
  Team& team() { return team_; }

  // Puts a packed matrix in another's place.
  void keep(PackedMatrix packed, StoredMatrix& matrix);
  // A dense matrix to integers, where these are asked for; others stay as they are.
  Status round(StoredMatrix& matrix);
  // A matrix of any format to a dense one of the precision asked for.
  Status write_out(StoredMatrix& matrix);
  Status write_out(Run& run);
  // The floats in which what is not quantized is kept.
  DType floats(const StoredMatrix& matrix) const { return float_type(precision_, dtype(matrix)); }
  DType floats(const Run& run) const { return floats(run.matrices.front()); }

 private:
  Precision precision_;
  Team& team_;
  std::vector<PackedMatrix> packed_;
  std::vector<Buffer> written_out_;
};

// How a weight format is multiplied: its row beside the one in formats/. prepare_linear goes by
// these alone. `convert`, `joins` and `choose` may be null.
struct LinearFormat {
  // Brings a matrix to the precision asked for, perhaps in another format. Null: it stays.
  Status (*convert)(Preparation& preparation, StoredMatrix& matrix) = nullptr;
  // Whether two matrices of the format, which will be kept in the same floats, may be one product.
  // Null: none may.
  bool (*joins)(const StoredMatrix& a, const StoredMatrix& b) = nullptr;
  // Brings a run to the form in which it is run, where that is another, and says why. Null: it is
  // run as it is. A run for which it leaves something in `found` is not joined with others.
  Status (*choose)(Preparation& preparation, Run& run) = nullptr;
  // bias: of all outputs of the run, or null.
  Result<std::unique_ptr<Linear>> (*prepare)(Preparation& preparation, Run& run, const float* bias);
};

namespace linear_formats {
#define TESSERA_WEIGHT_FORMAT(name) extern const LinearFormat name;
#include "formats/table.inc"
#undef TESSERA_WEIGHT_FORMAT
}  // namespace linear_formats

// Whether two matrices with input scales divide their rows by the same.
template <typename Matrix>
bool reads_alike(const Matrix& a, const Matrix& b) {
  if (a.input_scales == nullptr || b.input_scales == nullptr)
    return a.input_scales == b.input_scales;
  return std::equal(a.input_scales, a.input_scales + a.inputs(), b.input_scales);
}

// Memory for what a map keeps, or an error that says how much it needs.
Result<Buffer> allocate_packed(int64_t bytes);

// One product of a stack of tile-pruned matrices with integer rows; pattern: its blocks. Of int8
// tiles of equal input scales and at most tile_int8_matmul::kMaxInputs inputs.
Result<std::unique_ptr<Linear>> prepare_int8_tiles(const TileStack& stack, TilePattern pattern,
                                                   const float* bias, Team& team);

using QuantizedStack = std::vector<QuantizedMatrix>;

// One product of a stack of integer matrices with integer rows (kInt8 without groups).
Result<std::unique_ptr<Linear>> prepare_int8(const QuantizedStack& stack, const float* bias,
                                             Team& team);

// One product of a stack of integer matrices with scales for groups of inputs, or of 4 bits: of
// equal precision and group.
Result<std::unique_ptr<Linear>> prepare_groups(const QuantizedStack& stack, const float* bias,
                                               Team& team);

}  // namespace tessera
