#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/team.h"
#include "compress/item.h"
#include "compress/layer.h"
#include "compress/matrix.h"
#include "compress/statistics.h"
#include "formats/precision.h"
#include "io/safetensors.h"
#include "model/architecture.h"
#include "tessera/compress.h"

namespace tessera {

struct PassInfo {
  const char* name;      // in provenance
  const char* summary;   // one sentence
  const char* citation;  // where the method is from
  const char* reads;     // formats it can start from
  const char* writes;    // formats
  const char* doing;     // what progress says: "pruning"
  // Whether what it changes counts in the share that a run reaches.
  enum class Removes { kNothing, kWeights } removes = Removes::kNothing;
};

// A checkpoint before any of its weights is read.
struct SourceModel {
  Source source;
  Architecture architecture;
  std::vector<Item> items;
};

// What is left of a matrix, about, before any of its weights is read.
struct Estimate {
  int64_t bytes = 0;        // in the file
  double kept = 1;          // share of the weights that are stored
  double weight_error = 0;  // |W - W'| / |W|, at most, as expected of normally distributed weights
};

// One map of a layer while a pass works on it.
struct MapWork {
  const SourceModel& model;
  LayerOnTheWay& layer;           // with all of its matrices
  std::vector<Matrix*> matrices;  // of the map, those that the pass works on
  MapInputs& inputs;              // which all of them read
  Team& team;
};

// A way to change the matrices of a model: one file in passes/ and one row in passes/table.inc. A
// pass changes `pruned`, the bias, the mask and the integers of matrices; the pipeline alone reads,
// calibrates, verifies, times, writes, takes up interrupted runs and reports.
class Pass {
 public:
  virtual ~Pass() = default;
  virtual PassInfo info() const = 0;
  // A JSON object that begins with "pass" and its name: what provenance says of it, and by what two
  // runs are the same.
  virtual std::string options() const = 0;
  enum class Text { kNotNeeded, kNeeded };
  virtual Text calibration_text() const { return Text::kNotNeeded; }

  // Whether the options make sense for the model.
  virtual Status check(const SourceModel&) const { return {}; }
  // How queries, keys and values in one tensor are listed, asked of the first pass of a run.
  virtual FusedQkv fused(const Source&) const { return FusedQkv::kWhole; }
  // Whether the pass changes a selected item, and whether it can start from what the source holds,
  // which is asked where no pass before it changes the item.
  virtual bool takes(const Item&) const { return true; }
  virtual bool reads(const Source&, const Item&) const { return true; }
  // What becomes of what an earlier run removed from an item.
  enum class RemovedBefore { kStays, kChosenAnew };
  virtual RemovedBefore removed_before() const { return RemovedBefore::kStays; }
  virtual Estimate estimate(const Item&, const Estimate& before) const { return before; }
  // What the pass saves as the model's schedule of cascade pruning, as JSON, where it changes no
  // matrix; null: that there is none.
  virtual std::optional<std::string> schedule() const { return {}; }
  // How many heads of keys and values the pass leaves, where that is not as many as there were.
  virtual std::optional<int32_t> kv_heads() const { return {}; }
  // Whether what it makes of a plain model is one as well, without a section of its own in
  // config.json, so that any program reads it.
  enum class Leaves { kSection, kPlain };
  virtual Leaves leaves() const { return Leaves::kSection; }
  // Tensors that are no matrices of layers and that the pass has anew, of a model that it was
  // checked with.
  virtual Result<std::vector<TensorToWrite>> other_tensors(const SourceModel&) const {
    return std::vector<TensorToWrite>();
  }
  // The precision of the matrices with a row a token, where the pass rounds them.
  virtual std::optional<Precision> table_precision() const { return {}; }

  // Passes that choose over all matrices are shown every map of the source, in the order in which
  // they run, before any is changed, and decide then.
  enum class Looks { kNever, kFirst };
  virtual Looks looks() const { return Looks::kNever; }
  virtual Status look(const MapWork&) { return {}; }
  virtual Status decide(const SourceModel&) { return {}; }

  // Changes the matrices of a map, as the passes before it left them.
  virtual Status apply(const MapWork& work) = 0;
};

using Passes = std::vector<std::unique_ptr<Pass>>;

// Null where the options do not ask for the pass; kInvalidInput where they make no sense.
using MadePass = Result<std::unique_ptr<Pass>>;
#define TESSERA_PASS(name) MadePass make_##name##_pass(const CompressOptions& options);
#include "compress/passes/table.inc"
#undef TESSERA_PASS

// Those that the options ask for, in the order of the table.
Result<Passes> make_passes(const CompressOptions& options);

// Why there is no matrix to work on: the options choose none, or none of `items` that a pass can
// work on in the form in which the model in `directory` stores it.
Status nothing_chosen();
Status nothing_to_do(const Passes& passes, const std::vector<Item>& items,
                     const std::string& directory);

}  // namespace tessera
