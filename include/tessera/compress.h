#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "tessera/export.h"
#include "tessera/model.h"
#include "tessera/names.h"
#include "tessera/status.h"

// Making a checkpoint smaller and faster: from one directory to another.
namespace tessera {

// What is removed of a matrix W [outputs, inputs].
enum class PruneUnit {
  kTiles,     // E.T.'s tensor tiles
  kElements,  // single weights: irregular, the baseline
  kOutputs,   // whole rows of W
  kInputs,    // whole columns of W
  // E.T.'s attention-aware pruning: the unit follows from the matrix, see docs/verbs/compress.md.
  kAttentionAware,
};
constexpr auto names_of(PruneUnit) {
  return enum_names("tiles", "elements", "outputs", "inputs", "attention_aware");
}

// Among which units the smallest are sought.
enum class PruneScope {
  kMatrix,    // every matrix loses the same share
  kBalanced,  // every row of tiles loses the same share, so that threads have equal work
  kGlobal,    // one ranking over all matrices
  // Per-layer shares that spend the budget where the error on the calibration text is least.
  kAllocated,
};
constexpr auto names_of(PruneScope) {
  return enum_names("matrix", "balanced", "global", "allocated");
}

// What a unit's score is.
enum class PruneScore {
  kMagnitude,   // its Frobenius norm
  kCalibrated,  // each weight times the norm of the input it reads on the calibration text
                // (Wanda's)
};
constexpr auto names_of(PruneScore) { return enum_names("magnitude", "calibrated"); }

struct PruneOptions {
  PruneUnit unit = PruneUnit::kTiles;
  double share = 0.8;  // of the weights of the chosen matrices, 0 to 1
  int32_t tile_rows = 16, tile_cols = 16;
  PruneScope scope = PruneScope::kMatrix;
  PruneScore score = PruneScore::kMagnitude;
  // Least squares on the calibration activations over what survives (SparseGPT's idea for tiles).
  enum class Repair { kNone, kLeastSquares } repair = Repair::kNone;
  enum class PrecomputeVo { kNo, kYes } precompute_vo = PrecomputeVo::kNo;  // of kAttentionAware
};
constexpr auto names_of(PruneOptions::PrecomputeVo) { return enum_names("no", "yes"); }
constexpr auto names_of(PruneOptions::Repair) { return enum_names("none", "least_squares"); }

// How a weight becomes an integer.
enum class Rounding {
  kNearest,
  // Each weight's error is made up for by those behind it, on the calibration text (GPTQ).
  kCompensated,
};
constexpr auto names_of(Rounding) { return enum_names("nearest", "compensated"); }

struct QuantizeOptions {
  WeightType weights = WeightType::kInt8;  // or kInt4, kW8, kW4
  std::optional<int32_t> group = {};       // inputs that share a scale, 0: all; see docs/format.md
  Rounding rounding = Rounding::kNearest;
  // How much of the inputs' outliers the weights of kInt8 and kInt4 take over, 0 to 1
  // (SmoothQuant's alpha); 0: nothing. Needs a calibration text.
  double smooth = 0;
};

struct CalibrationOptions {
  // UTF-8, a text a line; it, or sequences, are needed by calibrated scores, allocation, repair,
  // compensated rounding and smoothing.
  std::string text_file = {};
  int64_t tokens = 16384;                     // read at most so many of the text
  std::vector<TokenSequence> sequences = {};  // in its place, whole
  int32_t threads = 0;
};

struct MatrixReport {
  std::string name = {};               // of the tensor
  std::string format = {};             // "dense", "tiles", "csr", "compact", "quantized"
  std::string precision = {};          // "int8", "int4", "w8", "w4"; empty: floats
  int64_t dense_bytes = 0, bytes = 0;  // in the file, as floats in full and as it is
  double share = 0;                    // pruned, of its weights
  double weight_error = 0;             // |W - W'| / |W|, Frobenius
  double output_error = 0;  // |(W - W') X| / |W X| on the calibration text; NaN without one
  double expected_speedup = 0;
  double measured_speedup = 0;  // against dense at 128 rows; NaN where not measured
};

// Time spent in a pass, without what runs through the model to calibrate it, reads and writes.
struct PassReport {
  std::string name = {};  // as in provenance
  double seconds = 0;
};

// How fast a whole model is on this machine: medians of several runs.
struct ModelSpeed {
  int32_t tokens = 0;            // of the sequence that is read
  double pass_seconds = 0;       // reading it
  double tokens_per_second = 0;  // generated behind it; 0 for models that do not generate
};

struct CompressReport {
  std::vector<PassReport> passes = {};  // in their order
  std::vector<MatrixReport> matrices = {};
  int64_t bytes_before = 0, bytes_after = 0;  // of the safetensors files
  double share = 0;                           // reached, of the weights of the pruned matrices
  std::optional<ModelSpeed> speed_before = {}, speed_after = {};  // where measured
  Head head = Head::kNone;                                        // of the model
  // Commands of the program: to run the result, then to compare it with its source.
  std::vector<std::string> next = {};
};

// If something stands at a result's place: an error, or what Tessera wrote, with no files of others
// at its top, is replaced once the new one is whole. Anything else is never touched.
enum class Existing { kRefuse, kReplace };
constexpr auto names_of(Existing) { return enum_names("refuse", "replace"); }

// Matrices are pruned first, and what is left dense, or for products with integer rows in tiles, is
// quantized then; one of the two or a schedule is needed.
struct CompressOptions {
  // A directory with a LoRA adapter, of PEFT or of tune(), whose updates are added to the weights,
  // in a run of its own. What was pruned stays pruned.
  std::string merge_adapter = {};
  // Heads of keys and values are averaged so that so many are left (grouped queries, Ainslie et al.
  // 2023), in a run of its own. What the model computes changes much: train it behind that.
  std::optional<int32_t> kv_heads = {};
  std::optional<PruneOptions> prune = {};
  std::optional<QuantizeOptions> quantize = {};
  // Some of "qkv", "query", "key", "value", "attention_output", "ffn"; empty: all maps of all
  // layers, and for quantization the token embedding and a language model's head too.
  std::vector<std::string> matrices = {};
  std::vector<int32_t> layers = {};  // empty: all
  // A schedule of cascade pruning that is saved with the model and used where it is loaded, as
  // LoadOptions::pruning says it; empty: the source's, if it has one; "none": none.
  std::string pruning = {};
  CalibrationOptions calibration = {};
  // kModel: how fast the whole model is before and after; kMatrices: each matrix as well.
  enum class Measure { kNo, kModel, kMatrices } measure = Measure::kMatrices;
  Existing existing = Existing::kRefuse;
  // The words of the command that asks for this, for the model card; empty: it names none.
  std::vector<std::string> command = {};
  // Called with what is being done, steps done and their number; false stops with kCancelled, but
  // while speeds are measured, when all is written: then the rest stays unmeasured.
  std::function<bool(const std::string&, int64_t, int64_t)> on_progress = {};
};
constexpr auto names_of(CompressOptions::Measure) { return enum_names("no", "model", "matrices"); }

// Writes the compressed checkpoint as a new directory, not inside the source, with every other file
// of the source and a model card of its own, README.md. The target appears whole, by a rename;
// while a run puts it together in TARGET.part, another one to the same target is refused. What an
// interrupted run of the same options left there is resumed. Equal inputs give equal bytes.
TESSERA_API Result<CompressReport> compress(const std::string& source, const std::string& target,
                                            const CompressOptions& options);

// The numbers of an exported checkpoint: as each tensor is stored, of which integers become f32, or
// all floats in one type.
enum class ExportType { kStored, kF32, kF16, kBF16 };
constexpr auto names_of(ExportType) { return enum_names("stored", "f32", "f16", "bf16"); }

struct ExportOptions {
  ExportType type = ExportType::kStored;
  // Whether masks.safetensors is written too: for each matrix of a layer that was pruned a BOOL
  // tensor of its name and shape, true where a weight was kept.
  enum class Masks { kNo, kYes } masks = Masks::kNo;
  Existing existing = Existing::kRefuse;
  // As of CompressOptions.
  std::function<bool(const std::string&, int64_t, int64_t)> on_progress = {};
};

constexpr auto names_of(ExportOptions::Masks) { return enum_names("no", "yes"); }

struct ExportReport {
  int64_t matrices = 0;                       // that were multiplied out
  int64_t masks = 0;                          // that were written
  int64_t bytes_before = 0, bytes_after = 0;  // of the weights' files
};

// Writes a compressed model as a plain checkpoint, which any program reads that read the model it
// was made from: every matrix multiplied out, under the names and in the shapes that it had, and
// every other file. A plain model is copied, in another type where one is given. The target as in
// compress.
TESSERA_API Result<ExportReport> export_dense(const std::string& source, const std::string& target,
                                              const ExportOptions& options = {});

}  // namespace tessera
