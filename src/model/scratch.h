#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/arena.h"
#include "base/status.h"
#include "model/architecture.h"
#include "model/live_heads.h"
#include "model/pass.h"
#include "model/weights.h"

namespace tessera {

// The memory of a pass, cut from an arena: each piece as large as the hungriest layer needs it.
struct PassScratch {
  // The states of the rows, [rows, hidden_size], and room for as many: normalised rows, and the
  // rows that stay where others leave, so that the two change places with every set of rows.
  float* states[2] = {};
  float* settled = nullptr;   // [rows of the input, hidden_size], of rows that left; null: none do
  float* qkv = nullptr;       // [rows, qkv_width of the layer]
  float* context = nullptr;   // [rows, output_width of the layer's attention]
  float* ffn = nullptr;       // [rows, ffn_width]; [members, group_rows, ffn_width] with own rows
  float* head_in = nullptr;   // [head rows, hidden_size]
  float* head_mid = nullptr;  // [head rows, hidden_size]
  float* logits = nullptr;    // [head rows, outputs of the head]

  float* partials = nullptr;  // as AttentionArgs has them, and `arrived`
  std::vector<int32_t> arrived;
  char* workspace = nullptr;  // of attention: [members, workspace_bytes]
  int64_t workspace_bytes = 0;
  char* linear = nullptr;  // of the linear maps: [members, linear_bytes]
  int64_t linear_bytes = 0;
  // Rows as a linear map reads them: of all rows, or with own rows [members, converted_bytes].
  char* converted = nullptr;
  int64_t converted_bytes = 0;
  float* mass = nullptr;  // of one layer: what AttentionSequence::column_mass of each refers to

  std::vector<CacheReads> reads;  // what AttentionSequence::reads of each refers to, if counted
  float* magnitudes = nullptr;    // [rows, query heads] of one layer; null: no heads leave
  LiveHeads live;

  // The batch as attention has it, [layers of the pass][sequences]. Without tables in the input all
  // layers share the transient ones, [sequences].
  std::vector<PageTable> transient;
  std::vector<PageTable*> tables;
  std::vector<AttentionSequence> sequences;

  float* states_of(const LayerPass& layer) const { return states[layer.set % 2]; }
  float* normed_of(const LayerPass& layer) const { return states[1 - layer.set % 2]; }
};

// Floats of each piece but where it says bytes. A size that no memory has is kTooMuch.
struct ScratchSizes {
  int64_t states = 0;  // each of the two
  int64_t settled = 0;
  int64_t qkv = 0;
  int64_t context = 0;
  int64_t ffn = 0;
  int64_t head_hidden = 0;  // each of the two
  int64_t logits = 0;
  int64_t partials = 0;
  int64_t mass = 0;
  int64_t magnitudes = 0;
  int64_t arrived = 0;          // counters
  int64_t workspace_bytes = 0;  // per member
  int64_t linear_bytes = 0;     // per member
  int64_t converted_bytes = 0;  // per member with own rows
  int64_t all_converted_bytes = 0;
  int64_t page_bytes = 0;
  int64_t pages = 0;  // of transient tables

  int64_t total_bytes(int32_t members) const;
};
constexpr int64_t kTooMuch = int64_t{1} << 56;

ScratchSizes scratch_sizes(const PassShape& pass, const ForwardInput& input,
                           const Architecture& architecture, const Weights& weights,
                           int32_t members);

// Cuts the arena, whose pieces of the pass before are gone, and links the tables, which get room
// for the positions of the new tokens. kOutOfMemory.
Result<PassScratch> carve(const ScratchSizes& sizes, const PassShape& pass,
                          const ForwardInput& input, int32_t members, Arena& arena);

// Gives the sequences of the layers that the schedule observes their column_mass. Every layer's
// begin at the same place: they are read before the next layer's are written.
void link_masses(const PassShape& pass, const RowSchedule& schedule, const Weights& weights,
                 PassScratch& scratch);

// Gives every sequence its reads, all zero.
void link_reads(const PassShape& pass, const Weights& weights, PassScratch& scratch);

// Gives the sequences of every layer their heads, of which those of the first one are chosen.
void link_heads(const PassShape& pass, PassScratch& scratch);

}  // namespace tessera
