#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "attention/method.h"
#include "base/status.h"
#include "formats/token_layout.h"
#include "model/architecture.h"
#include "plan/plan.h"

namespace tessera {

// Which rows the model's head is applied to.
enum class HeadRows { kNone, kAll, kLastOfEach, kFirstOfEach, kGiven };

// Rows that leave on the way through the layers. How many stay is known before the pass; which
// ones, only when their layer comes.
struct RowSchedule {
  // [layer][sequence]: rows that enter each layer, at most those of the layer before.
  std::vector<std::vector<int32_t>> lengths;
  // One thread calls it in front of a layer that fewer rows enter, while the others wait. It writes
  // which rows of the layer before stay, ascending, lengths[layer] of each sequence; it must not
  // throw.
  std::function<void(int32_t layer, std::span<int32_t> kept)> choose;
  // One thread calls it in front of a layer's append, while the others wait: it may take keys out
  // of the tables [sequences]. It must not throw.
  std::function<void(int32_t layer, std::span<PageTable* const> tables)> enter = {};
  // [layer][sequence]: keys that a table has at most with the layer's rows. Empty: those that it
  // has and the rows.
  std::vector<std::vector<int32_t>> most_keys = {};
  // Behind the attention of each layer below any of observed_layers [sequences] one thread calls
  // it, with the layer's sequences, of which those that are observed have a column_mass that says
  // what each key was attended to; it must not throw.
  std::function<void(int32_t layer, std::span<const AttentionSequence> sequences)> observe = {};
  std::vector<int32_t> observed_layers = {};
  // Whether the sequences that it gets have their `reads`, which are those of a query that is
  // alone.
  bool counts_reads = false;

  bool observes(int32_t layer, size_t sequence) const {
    return sequence < observed_layers.size() && layer < observed_layers[sequence];
  }
  bool observes(int32_t layer) const {
    return std::any_of(observed_layers.begin(), observed_layers.end(),
                       [&](int32_t layers) { return layer < layers; });
  }
};

// Query heads that leave on the way through the layers, all of which have as many; each sequence
// has its own. A head that left leaves queries, keys, values and the output map.
struct HeadSchedule {
  // One thread calls it in front of each layer in turn, while no other reads what it writes:
  // live[sequence][query heads], 0 for heads that are dead there, 1 for the others, of which each
  // sequence has one at least; it must not throw.
  std::function<void(int32_t layer, std::span<uint8_t> live)> choose;
  // Behind the attention of each layer below observed_layers one thread calls it, with what the
  // heads gave, as AttentionArgs::magnitudes, of the layer's rows; it must not throw.
  std::function<void(int32_t layer, const TokenLayout& layout, const float* magnitudes)> observe =
      {};
  int32_t observed_layers = 0;

  bool observes(int32_t layer) const { return layer < observed_layers; }
};

constexpr int32_t kAllLayers = INT32_MAX;

struct ForwardInput {
  std::span<const int32_t> ids;       // [rows]
  std::span<const int32_t> type_ids;  // [rows], or empty: all 0
  const TokenLayout* layout = nullptr;
  // [sequences]: tokens of each one's prompt, of which this pass may run a part; rotary positions
  // that depend on the length count them. Empty: a prompt ends with the pass.
  std::span<const int32_t> prompt_tokens;
  // [layer][sequence], every layer of the model: page tables that hold what came before and have
  // pages for the new rows; the pass appends to them. Empty: there is nothing before, and keys and
  // values live for the pass only.
  std::span<PageTable* const> tables;
  HeadRows head_rows = HeadRows::kNone;
  std::span<const int32_t> given_head_rows;  // of kGiven
  // A part of a pass: the layers from `first_layer` up to, but not including, `end_layer`. Not
  // empty, `states` [rows, hidden_size] enter the first of them in place of embeddings, and `ids`
  // may be missing. What ends before the last layer has neither final norm nor head.
  int32_t first_layer = 0;
  int32_t end_layer = kAllLayers;
  std::span<const float> states;
  const RowSchedule* schedule = nullptr;  // null: every row enters every layer
  const HeadSchedule* heads = nullptr;    // null: every head does
  // [sequences], each of every layer: how a query that is alone in its sequence reads; null: as the
  // layer's weights say. Empty: all are so.
  std::span<const ReadRules* const> read_rules = {};
};

// The rows that enter some layers. Those of the input come first; every further set holds what is
// left of the one before.
struct RowSet {
  TokenLayout layout;
  // [rows] of every set but the first, written when the rows are chosen, as layout.positions is:
  // where each row stands in the set before, and in the input.
  std::vector<int32_t> kept;
  std::vector<int32_t> origins;
};

// What one layer of a pass works on.
struct LayerPass {
  int32_t layer = 0;
  int32_t set = 0;        // of rows, in PassShape::sets
  int32_t longest = 0;    // rows of any one sequence
  int32_t most_keys = 0;  // of any one sequence, with its new and its dropped ones
  int64_t rows = 0;       // of all sequences
  int64_t ffn_width = 0;  // floats of a row inside the FFN: gate and up stand side by side
  Dealing dealing = Dealing::kShared;
  int64_t group_rows = 0;  // with own rows
  const AttentionMethod* attention = nullptr;
};

// The shape of a pass: all that is known before it runs.
struct PassShape {
  std::vector<RowSet> sets;
  std::vector<LayerPass> layers;
  // [layers][sequences]: tokens in the tables, as long as RowSchedule::enter takes none.
  std::vector<int32_t> keys_before;
  int32_t first_layer = 0;
  bool ends_with_head = true;      // or before the last layer
  std::vector<int32_t> head_rows;  // rows of the input; none where the head reads all
  int64_t head_row_count = 0;

  const TokenLayout& input() const { return sets.front().layout; }
  int64_t rows() const { return input().rows(); }
  int64_t sequences() const { return input().sequences(); }
  const TokenLayout& layout(const LayerPass& layer) const { return set_of(layer).layout; }
  const RowSet& set_of(const LayerPass& layer) const {
    return sets[static_cast<size_t>(layer.set)];
  }
  // The layer behind another; null: that is the last.
  const LayerPass* behind(const LayerPass& layer) const {
    const auto next = static_cast<size_t>(layer.layer - first_layer) + 1;
    return next < layers.size() ? &layers[next] : nullptr;
  }
  // How many keys the layer's tables held before the pass, [sequences].
  const int32_t* keys_before_of(const LayerPass& layer) const {
    return keys_before.data() + (layer.layer - first_layer) * sequences();
  }
};

// The row of a sequence that a head for its last token reads: the last one that is not padding_id,
// or the first where all are; any with a padding_id below 0.
int32_t last_head_row(std::span<const int32_t> ids, const TokenLayout& layout, int64_t sequence,
                      int32_t padding_id);

// Rows are dealt in register tiles of the products.
constexpr int64_t kRowGrain = 6;

// kInvalidInput where the parts of the input do not fit each other or the model. Sequences without
// rows may stand in a batch, unless the head reads a row of each.
Result<PassShape> shape_of_pass(const ForwardInput& input, const Architecture& architecture,
                                const Plan& plan, int32_t members);

}  // namespace tessera
