#include "model/scratch.h"

#include <algorithm>

#include "model/slots.h"

namespace tessera {
namespace {

constexpr size_t at(int64_t index) { return static_cast<size_t>(index); }

int64_t product(int64_t a, int64_t b) {
  int64_t result = 0;
  return __builtin_mul_overflow(a, b, &result) ? kTooMuch : std::min(result, kTooMuch);
}

int64_t rounded(int64_t size_bytes) {
  return static_cast<int64_t>(Arena::rounded(at(std::min(size_bytes, kTooMuch))));
}

void raise(int64_t& size, int64_t to) { size = std::max(size, to); }

// The most that a layer's linear maps need for so many rows.
int64_t most_bytes(const LayerWeights& layer, int64_t (Linear::*bytes)(int64_t) const,
                   int64_t rows) {
  int64_t most = 0;
  for_each_map(layer, [&](const Linear& linear) { raise(most, (linear.*bytes)(rows)); });
  return rounded(most);
}

// As of a layer that may select, where a sequence may.
AttentionShape shape_with_rules(const ForwardInput& input, const LayerWeights& weights) {
  AttentionShape shape = weights.attention;
  if (!input.read_rules.empty()) shape.values.kind = ValueRule::Kind::kLargest;
  return shape;
}

void add_layer(const LayerPass& layer, const AttentionShape& shape, const LayerWeights& weights,
               int32_t members, ScratchSizes& sizes) {
  const AttentionCost cost = layer.attention->cost(shape, layer.longest, layer.most_keys);
  raise(sizes.workspace_bytes, rounded(cost.workspace_bytes));
  raise(sizes.partials, cost.partial_floats);
  if (cost.partial_floats > 0) raise(sizes.arrived, shape.pages.kv_heads);
  raise(sizes.qkv, product(layer.rows, shape.qkv_width()));
  raise(sizes.context, product(layer.rows, shape.output_width()));
  const bool own_rows = layer.dealing == Dealing::kOwn;
  const int64_t at_once = own_rows ? layer.group_rows : layer.rows;
  raise(sizes.ffn, product(own_rows ? members * layer.group_rows : layer.rows, layer.ffn_width));
  raise(sizes.linear_bytes, most_bytes(weights, &Linear::scratch_bytes, at_once));
  const int64_t converted = most_bytes(weights, &Linear::converted_bytes, at_once);
  if (own_rows) raise(sizes.converted_bytes, converted);
  raise(sizes.all_converted_bytes, own_rows ? product(converted, members) : converted);
}

// The keys of every observed sequence of the layer, by each query head.
int64_t mass_floats(const PassShape& pass, const LayerPass& layer, const RowSchedule& schedule,
                    int32_t query_heads) {
  const int32_t* before = pass.keys_before_of(layer);
  int64_t keys = 0;
  for (int64_t s = 0; s < pass.sequences(); ++s) {
    if (schedule.observes(layer.layer, at(s))) keys += before[s] + pass.layout(layer).length(s);
  }
  return product(keys, query_heads);
}

void add_head(const HeadWeights& head, int64_t rows, int32_t hidden_size, ScratchSizes& sizes) {
  if (head.output == nullptr) return;
  sizes.head_hidden = product(rows, hidden_size);
  sizes.logits = product(rows, head.outputs);
  for_each_map(head, [&](const Linear& linear) {
    raise(sizes.linear_bytes, rounded(linear.scratch_bytes(rows)));
    raise(sizes.all_converted_bytes, rounded(linear.converted_bytes(rows)));
  });
}

void link_tables(const ScratchSizes& sizes, const PassShape& pass, const ForwardInput& input,
                 Arena& arena, PassScratch& scratch) {
  const int64_t sequences = pass.sequences();
  if (input.tables.empty()) {
    // Rows only leave, so the input's fit every layer.
    scratch.transient.resize(at(sequences));
    for (int64_t s = 0; s < sequences; ++s) {
      const int32_t length = pass.input().length(s);
      for (int32_t page = 0; page < pages_for(length); ++page)
        scratch.transient[at(s)].pages.push_back(arena.take<std::byte>(sizes.page_bytes));
    }
  }
  for (const LayerPass& layer : pass.layers) {
    const TokenLayout& layout = pass.layout(layer);
    for (int64_t s = 0; s < sequences; ++s) {
      PageTable* table = input.tables.empty() ? &scratch.transient[at(s)]
                                              : input.tables[at(layer.layer * sequences + s)];
      table->positions.reserve(table->pages.size() * kPageTokens);
      scratch.tables.push_back(table);
      const ReadRules* rules = input.read_rules.empty() ? nullptr : input.read_rules[at(s)];
      scratch.sequences.push_back(
          {.first_row = layout.offsets[at(s)],
           .queries = layout.length(s),
           .query_positions = layout.positions.data() + layout.offsets[at(s)],
           .keys = table,
           .rules = rules != nullptr ? rules + layer.layer : nullptr});
    }
  }
}

}  // namespace

int64_t ScratchSizes::total_bytes(int32_t members) const {
  int64_t total = 0;
  const auto add = [&](int64_t count, int64_t each_bytes) {
    total = std::min(total + product(count, each_bytes), kTooMuch);
  };
  for (int64_t floats : {states, states, settled, qkv, context, ffn, head_hidden, head_hidden,
                         logits, partials, mass, magnitudes}) {
    add(1, rounded(product(floats, sizeof(float))));
  }
  for (int64_t each : {workspace_bytes, linear_bytes}) add(members, each);
  add(1, all_converted_bytes);
  add(pages, rounded(page_bytes));
  return total;
}

ScratchSizes scratch_sizes(const PassShape& pass, const ForwardInput& input,
                           const Architecture& architecture, const Weights& weights,
                           int32_t members) {
  ScratchSizes sizes;
  sizes.states = product(pass.rows(), architecture.hidden_size);
  if (pass.sets.size() > 1) sizes.settled = sizes.states;
  for (const LayerPass& layer : pass.layers) {
    const LayerWeights& of_layer = weights.layers[at(layer.layer)];
    add_layer(layer, shape_with_rules(input, of_layer), of_layer, members, sizes);
    if (input.heads != nullptr && input.heads->observes(layer.layer))
      raise(sizes.magnitudes, product(layer.rows, of_layer.attention.query_heads));
    if (input.schedule != nullptr && input.schedule->observes(layer.layer))
      raise(sizes.mass, mass_floats(pass, layer, *input.schedule, of_layer.attention.query_heads));
  }
  sizes.arrived *= pass.sequences();
  sizes.partials = product(sizes.partials, pass.sequences());
  add_head(weights.head, pass.head_row_count, architecture.hidden_size, sizes);
  if (!input.tables.empty()) return sizes;
  sizes.page_bytes = weights.largest_page().page_bytes();
  for (int64_t s = 0; s < pass.sequences(); ++s) sizes.pages += pages_for(pass.input().length(s));
  return sizes;
}

Result<PassScratch> carve(const ScratchSizes& sizes, const PassShape& pass,
                          const ForwardInput& input, int32_t members, Arena& arena) {
  TESSERA_RETURN_IF_ERROR(arena.reset(at(sizes.total_bytes(members))));
  PassScratch scratch;
  for (float*& states : scratch.states) states = arena.take<float>(sizes.states);
  if (sizes.settled > 0) scratch.settled = arena.take<float>(sizes.settled);
  scratch.qkv = arena.take<float>(sizes.qkv);
  scratch.context = arena.take<float>(sizes.context);
  scratch.ffn = arena.take<float>(sizes.ffn);
  scratch.head_in = arena.take<float>(sizes.head_hidden);
  scratch.head_mid = arena.take<float>(sizes.head_hidden);
  scratch.logits = arena.take<float>(sizes.logits);
  scratch.partials = arena.take<float>(sizes.partials);
  scratch.mass = arena.take<float>(sizes.mass);
  if (sizes.magnitudes > 0) scratch.magnitudes = arena.take<float>(sizes.magnitudes);
  scratch.arrived.assign(at(sizes.arrived), 0);
  scratch.workspace_bytes = sizes.workspace_bytes;
  scratch.workspace = arena.take<char>(sizes.workspace_bytes * members);
  scratch.linear_bytes = sizes.linear_bytes;
  scratch.linear = arena.take<char>(sizes.linear_bytes * members);
  scratch.converted_bytes = sizes.converted_bytes;
  scratch.converted = arena.take<char>(sizes.all_converted_bytes);
  link_tables(sizes, pass, input, arena, scratch);
  return scratch;
}

void link_heads(const PassShape& pass, PassScratch& scratch) {
  auto sequence = scratch.sequences.begin();
  for (const LayerPass& layer : pass.layers) {
    for (int64_t s = 0; s < pass.sequences(); ++s, ++sequence)
      sequence->live_heads = scratch.live.of(layer, s);
  }
  scratch.live.enter(pass.layers.front(), pass);
}

void link_masses(const PassShape& pass, const RowSchedule& schedule, const Weights& weights,
                 PassScratch& scratch) {
  auto sequence = scratch.sequences.begin();
  for (const LayerPass& layer : pass.layers) {
    const int32_t query_heads = weights.layers[at(layer.layer)].attention.query_heads;
    const int32_t* before = pass.keys_before_of(layer);
    float* mass = scratch.mass;
    for (int64_t s = 0; s < pass.sequences(); ++s, ++sequence) {
      if (!schedule.observes(layer.layer, at(s))) continue;
      sequence->column_mass = mass;
      mass += int64_t{query_heads} * (before[s] + sequence->queries);
    }
  }
}

void link_reads(const PassShape& pass, const Weights& weights, PassScratch& scratch) {
  const auto heads_of = [&](const LayerPass& layer) {
    return weights.layers[at(layer.layer)].attention.query_heads;
  };
  int64_t heads = 0;
  for (const LayerPass& layer : pass.layers) heads += pass.sequences() * heads_of(layer);
  scratch.reads.assign(at(heads), {});
  CacheReads* next = scratch.reads.data();
  auto sequence = scratch.sequences.begin();
  for (const LayerPass& layer : pass.layers) {
    for (int64_t s = 0; s < pass.sequences(); ++s, ++sequence, next += heads_of(layer))
      sequence->reads = next;
  }
}

}  // namespace tessera
