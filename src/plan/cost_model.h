#pragma once

#include <cstdint>
#include <optional>

#include "base/caches.h"
#include "base/isa.h"
#include "formats/tile_panels.h"
#include "linear/choice.h"
#include "tessera/machine.h"

// How long a product takes in each form in which it could be run, as a formula whose coefficients
// were fitted to measurements (coefficients.inc).
namespace tessera {

// kTiles, kNarrowTiles, kSingleInputs: blocks of 16 outputs, of 8, and of 16 by single inputs.
enum class CostForm : uint8_t { kDense, kTiles, kNarrowTiles, kSingleInputs, kSingleWeights };
// The type of the weights; rows are f32 beside floats, but for kBF16Rows, and integers beside
// integers.
enum class CostNumbers : uint8_t { kF32, kBF16, kBF16Rows, kInt8, kInt4, kW8, kW4 };

// What a machine can do.
struct CostMachine {
  Isa isa = Isa::kAny;  // the strongest that may be used
  int32_t threads = 1;
  int64_t l2_bytes = kUsualL2Bytes;  // of a core
  double speed = 1;                  // beside the machine that the coefficients were measured on
  double read_gb_per_s = 0;          // of memory, by all threads; 0: as that machine
  bool gains_by_bf16_rows = false;   // beside f32 ones
};

// This machine within the cap of instruction sets, with what its table says if there is one.
CostMachine cost_machine(int32_t threads, int64_t l2_bytes,
                         const std::optional<MachineTable>& table);

struct CostProduct {
  CostForm form = CostForm::kDense;
  CostNumbers numbers = CostNumbers::kF32;
  int64_t rows = 0;
  int64_t inputs = 0;
  int64_t outputs = 0;
  int64_t multiplied = 0;  // weights that meet each row
};

struct Prediction {
  double ns = 0;
  double deviation = 0;  // the largest of the formula from what it was fitted to, relative
};

// Predicted time; nothing where no such product was measured:
//   max(rows (multiplied a + inputs b + outputs c) / (threads speed), passes bytes / read)
// with a, b, c of the strongest instruction set measured that the machine has: multiplying, reading
// a row (to pack, round or transpose it), and finishing an output; passes: how often all weights
// are read, once for each group of rows that half an L2 holds.
std::optional<Prediction> predict(const CostProduct& product, const CostMachine& machine);

// The coefficients of such tiles as TileShares takes them; all 0 where they were not measured.
TileCosts tile_costs(CostForm form, CostNumbers numbers, const CostMachine& machine);

}  // namespace tessera
