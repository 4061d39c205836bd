#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/caches.h"
#include "base/dtype.h"
#include "formats/precision.h"
#include "formats/tile_panels.h"

// What is decided of linear maps from outside, as data: a planner answers, prepare_linear asks.
namespace tessera {

// A product whose weights may be run as they are pruned, or written out and run dense.
struct PrunedProduct {
  int64_t inputs = 0;
  int64_t outputs = 0;
  int64_t multiplied = 0;       // weights that are multiplied with each row, as they are pruned
  BlockShape block;             // of tiles; 1 x 1: single weights
  DType numbers = DType::kF32;  // as they are pruned: kF32, kBF16 or kI8
  Precision precision = Precision::kF32;  // of the map

  bool is_single_weights() const { return block.outputs == 1; }
};

// Costs of a tile kernel in units of one block of 16 inputs times one row.
struct TileCosts {
  double read = 0;         // to read a block's weights from beyond L2
  double panel = 0;        // a panel's epilogue
  double packed_line = 0;  // to pack 16 inputs of a row
};

enum class ProductForm { kPruned, kDense };

struct FormChoice {
  ProductForm form = ProductForm::kPruned;
  std::string why;  // for LinearInfo::why
  TileCosts tiles;  // by which a team shares a product of tiles
};

struct LinearChoices {
  LinearChoices(Precision of = Precision::kF32) : precision(of) {}  // NOLINT: nothing else decided

  Precision precision;
  // Asked of each product that may be run either way; unset: it is run as it is pruned.
  std::function<FormChoice(const PrunedProduct&)> form;
  // The L2 cache of a core. It decides how many rows are taken at a time, and no result.
  int64_t l2_bytes = kUsualL2Bytes;
  // Rows from which on they are rounded to bf16, where the precision allows it and this CPU gains.
  int64_t bf16_rows_from = 16;
};

}  // namespace tessera
