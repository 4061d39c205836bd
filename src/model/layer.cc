#include "model/layer.h"

#include <algorithm>
#include <optional>

#include "kernels/activation/activation.h"
#include "kernels/norm/norm.h"
#include "kernels/rotary/rotary.h"
#include "model/normalise.h"

namespace tessera {
namespace {

constexpr size_t at(int64_t index) { return static_cast<size_t>(index); }

const LayerWeights& weights_of(const Execution& e, const LayerPass& layer) {
  return e.weights.layers[at(layer.layer)];
}

const LayerRecord& record_of(const Execution& e, const LayerPass& layer) {
  return e.architecture.layer(layer.layer);
}

// The states of a group's first row.
float* states_of(const Execution& e, const Group& group) {
  return e.scratch.states_of(*group.layer) + group.first * e.architecture.hidden_size;
}

void normalise_group(const Execution& e, const NormWeights& norm, float* target,
                     const Group& group) {
  normalise(e.architecture, norm, e.scratch.states_of(*group.layer), target, group.rows);
  meet(*group.layer, *group.member);
  mark(e.trace, Operation::kNorm, *group.member,
       [&] { return moved(2 * traced_rows(group) * e.architecture.hidden_size); });
}

// What a block reads: the normalised rows where the norm comes first, else the rows themselves.
const float* enter_block(const Execution& e, const NormWeights& norm, const Group& group) {
  if (norm.empty()) return states_of(e, group);
  float* normed = e.scratch.normed_of(*group.layer);
  normalise_group(e, norm, normed, group);
  return normed + group.first * e.architecture.hidden_size;
}

// A parallel FFN without a norm of its own reads the rows that attention read, which are still
// there.
const float* enter_ffn_block(const Execution& e, const Group& group) {
  const LayerWeights& weights = weights_of(e, *group.layer);
  const bool shares_norm = record_of(e, *group.layer).residual == Residual::kParallel &&
                           weights.ffn_norm.empty() && !weights.attention_norm.empty();
  if (!shares_norm) return enter_block(e, weights.ffn_norm, group);
  return e.scratch.normed_of(*group.layer) + group.first * e.architecture.hidden_size;
}

// x <- x + scale * norm(added), in the room of normalised rows, which the block has read by now.
void add_block(const Execution& e, const NormWeights& norm, const Group& group) {
  const int64_t width = e.architecture.hidden_size;
  const float scale = record_of(e, *group.layer).residual_scale;
  float* added = e.scratch.normed_of(*group.layer);
  float* x = e.scratch.states_of(*group.layer);
  if (!norm.empty()) normalise(e.architecture, norm, added, added, group.rows);
  for (int64_t i = group.rows.begin * width; i < group.rows.end * width; ++i)
    x[i] += scale * added[i];
  meet(*group.layer, *group.member);
  mark(e.trace, Operation::kNorm, *group.member,
       [&] { return moved(3 * traced_rows(group) * width); });
}

// The last map of a block and how its outputs enter the states.
struct BlockEnd {
  const Linear& linear;
  const NormWeights& output_norm;
  const NormWeights& sum_norm;
  Operation operation;
};

// x and x_stride of `args` are given.
void leave_block(const Execution& e, const BlockEnd& end, LinearArgs args, const Group& group) {
  const int64_t width = e.architecture.hidden_size;
  const bool adds_at_once =
      end.output_norm.empty() && record_of(e, *group.layer).residual_scale == 1;
  float* x = states_of(e, group);
  args.y = adds_at_once ? x : e.scratch.normed_of(*group.layer) + group.first * width;
  args.y_stride = width;
  if (adds_at_once) {
    args.residual = x;
    args.residual_stride = width;
  }
  multiply(e, group, end.linear, args, end.operation);
  if (!adds_at_once) add_block(e, end.output_norm, group);
  if (!end.sum_norm.empty())
    normalise_group(e, end.sum_norm, e.scratch.states_of(*group.layer), group);
}

// Columns of the projection's rows, beginning with `first`.
void normalise_columns(const Execution& e, const NormWeights& norm, int64_t first, int64_t cols,
                       const Group& group) {
  const int64_t stride = weights_of(e, *group.layer).attention.qkv_width();
  float* x = e.scratch.qkv + first;
  norm::kernels.run({.kind = e.architecture.norm_kind,
                     .x = x,
                     .x_stride = stride,
                     .cols = cols,
                     .weight = norm.weight.data(),
                     .eps = e.architecture.norm_eps,
                     .y = x,
                     .y_stride = stride},
                    {group.rows.begin, group.rows.end});
}

void normalise_heads(const Execution& e, const Group& group) {
  const LayerRecord& layer = record_of(e, *group.layer);
  const LayerWeights& weights = weights_of(e, *group.layer);
  if (layer.qk_norm == QkNorm::kWholeWidth) {
    normalise_columns(e, weights.query_norm, 0, layer.query_width(), group);
    normalise_columns(e, weights.key_norm, layer.query_width(), layer.kv_width(), group);
    return;
  }
  for (int32_t h = 0; h < layer.query_heads + layer.kv_heads; ++h) {
    const NormWeights& norm = h < layer.query_heads ? weights.query_norm : weights.key_norm;
    normalise_columns(e, norm, int64_t{h} * layer.head_size, layer.head_size, group);
  }
}

void gate(const Execution& e, const Group& group) {
  const LayerRecord& layer = record_of(e, *group.layer);
  const int64_t stride = group.layer->ffn_width;
  activation::kernels.run({.function = layer.activation,
                           .x = group.ffn,
                           .x_stride = stride,
                           .up = group.ffn + layer.ffn_size,
                           .up_stride = stride,
                           .cols = layer.ffn_size,
                           .y = group.ffn,
                           .y_stride = stride},
                          {group.rows.begin - group.first, group.rows.end - group.first});
  meet(*group.layer, *group.member);
  mark(e.trace, Operation::kActivation, *group.member,
       [&] { return moved(3 * traced_rows(group) * layer.ffn_size); });
}

// The layer's part of what the scratch memory has for every layer and sequence.
template <typename T>
std::span<T> of_sequences(const Execution& e, const LayerPass& layer, std::vector<T>& all) {
  const int64_t sequences = e.pass.sequences();
  return {all.data() + (layer.layer - e.pass.first_layer) * sequences, at(sequences)};
}

// Lets the tables lose keys, which their new ones then follow.
void take_keys_out(const Execution& e, const LayerPass& layer, std::span<PageTable* const> tables) {
  e.input.schedule->enter(layer.layer, tables);
  const std::span<int32_t> before = of_sequences(e, layer, e.pass.keys_before);
  // Tables that live for the pass only hold those of the layer before.
  for (size_t s = 0; s < tables.size(); ++s) before[s] = std::min(before[s], tables[s]->tokens());
}

// Puts the rows' positions behind those that the tables had before; there is room for them.
void enter_positions(const Execution& e, const LayerPass& layer,
                     std::span<PageTable* const> tables) {
  const TokenLayout& layout = e.pass.layout(layer);
  const int32_t* before = e.pass.keys_before_of(layer);
  for (size_t s = 0; s < tables.size(); ++s) {
    std::vector<int32_t>& positions = tables[s]->positions;
    positions.resize(at(before[s]));
    positions.insert(positions.end(), layout.positions.begin() + layout.offsets[s],
                     layout.positions.begin() + layout.offsets[s + 1]);
  }
}

// The query heads that are computed: those of KV heads that live.
int32_t live_queries(const AttentionShape& shape, const AttentionSequence& sequence) {
  const bool summed = shape.outputs == HeadOutputs::kSummed;
  const int32_t group = summed ? 1 : shape.query_heads / shape.pages.kv_heads;
  int32_t count = 0;
  for (int32_t first = 0; first < shape.query_heads; first += group)
    if (sequence.any_lives(first, group)) count += group;
  return count;
}

// Queries and outputs once, keys and values once for each sequence, or what was read of them. The
// dense form has values as wide as the heads.
Work attention_work(const Execution& e, const LayerPass& layer) {
  const AttentionShape shape = weights_of(e, layer).attention;
  AttentionShape dense = shape;
  dense.pages.d_v = shape.pages.d_k;
  Work work;
  int64_t keys_read = 0;
  const auto heads = static_cast<double>(shape.query_heads);
  for (const AttentionSequence& sequence : of_sequences(e, layer, e.scratch.sequences)) {
    const int32_t queries = sequence.queries, keys = sequence.keys->tokens();
    work.flops += layer.attention->cost(shape, queries, keys).flops * queries *
                  static_cast<double>(live_queries(shape, sequence)) / heads;
    work.dense_flops += layer.attention->cost(dense, queries, keys).flops * queries;
    if (!selects(shape, sequence) || sequence.reads == nullptr) {
      keys_read += keys;
      continue;
    }
    for (int32_t head = 0; head < shape.query_heads; ++head)
      work.bytes += static_cast<double>(sequence.reads[head].bytes);
  }
  work.bytes += moved(layer.rows * (shape.query_width() + shape.output_width())).bytes +
                cached_bytes(shape.pages, keys_read);
  return work;
}

// Counts what sequences that generate read where attention has not.
void count_unselected(const Execution& e, const LayerPass& layer) {
  const AttentionShape& shape = weights_of(e, layer).attention;
  for (const AttentionSequence& sequence : of_sequences(e, layer, e.scratch.sequences)) {
    const bool generates = sequence.queries == 1 && sequence.reads != nullptr;
    if (generates && !selects(shape, sequence)) count_all_read(shape, sequence);
  }
}

// Adds what they read to the log.
void log_reads(const Execution& e, const LayerPass& layer) {
  const AttentionShape& shape = weights_of(e, layer).attention;
  std::vector<CacheReads>& log = e.reads->of_layer(layer.layer, shape.query_heads);
  for (const AttentionSequence& sequence : of_sequences(e, layer, e.scratch.sequences)) {
    if (sequence.queries != 1) continue;
    if (layer.layer == 0) ++e.reads->tokens;
    for (size_t head = 0; head < log.size(); ++head) log[head] += sequence.reads[head];
  }
}

}  // namespace

void run_layer(const Execution& e, const LayerPass& layer, Team::Member& member) {
  for_each_group(e, layer, member, [&](const Group& group) {
    project(e, group);
    place(e, group);
  });
  append(e, layer, member);
  attend(e, layer, member);
  for_each_group(e, layer, member, [&](const Group& group) {
    const bool parallel = record_of(e, layer).residual == Residual::kParallel;
    if (parallel) enter_ffn(e, group);
    leave_attention(e, group);
    if (!parallel) enter_ffn(e, group);
    leave_ffn(e, group);
  });
}

void project(const Execution& e, const Group& group) {
  const LayerWeights& weights = weights_of(e, *group.layer);
  const int64_t width = weights.attention.qkv_width();
  multiply(e, group, *weights.qkv,
           {.x = enter_block(e, weights.attention_norm, group),
            .x_stride = e.architecture.hidden_size,
            .y = e.scratch.qkv + group.first * width,
            .y_stride = width},
           Operation::kQkv);
}

void place(const Execution& e, const Group& group) {
  const LayerRecord& layer = record_of(e, *group.layer);
  const std::optional<RotaryTables::View> view = e.rotary.of(layer, e.pass.set_of(*group.layer));
  if (layer.qk_norm == QkNorm::kNone && !view) return;
  if (layer.qk_norm != QkNorm::kNone) normalise_heads(e, group);
  if (view) {
    rotary::kernels.run({.x = e.scratch.qkv,
                         .x_stride = weights_of(e, *group.layer).attention.qkv_width(),
                         .heads = layer.query_heads + layer.kv_heads,
                         .head_size = layer.head_size,
                         .rotated = view->rotated,
                         .positions = view->entries,
                         .cosines = view->cosines,
                         .sines = view->sines},
                        {group.rows.begin, group.rows.end});
  }
  // The member appends the keys of the same rows, so nobody need wait.
  mark(e.trace, Operation::kPositions, *group.member,
       [&] { return moved(2 * traced_rows(group) * (layer.query_width() + layer.kv_width())); });
}

void append(const Execution& e, const LayerPass& layer, Team::Member& member) {
  const AttentionShape& attention = weights_of(e, layer).attention;
  const PageShape& shape = attention.pages;
  const int64_t stride = attention.qkv_width();
  const std::span<PageTable* const> tables = of_sequences(e, layer, e.scratch.tables);
  const RowSchedule* schedule = e.input.schedule;
  if (schedule != nullptr && schedule->enter) {
    if (member.rank() == 0) take_keys_out(e, layer, tables);
    member.barrier();
  }
  // Nobody reads positions before the barrier below.
  if (member.rank() == 0) enter_positions(e, layer, tables);
  const float* key = e.scratch.qkv + attention.query_width();
  append_to_pages({.shape = shape,
                   .tables = tables,
                   .first_tokens = e.pass.keys_before_of(layer),
                   .first_rows = e.pass.layout(layer).offsets.data(),
                   .key = key,
                   .key_stride = stride,
                   .value = key + shape.key_width(),
                   .value_stride = stride},
                  rows_of(layer.rows, member));
  member.barrier();
  mark(e.trace, Operation::kAppend, member, [&] {
    Work work = moved(layer.rows * (shape.key_width() + shape.value_width()));
    work.bytes += cached_bytes(shape, layer.rows);
    return work;
  });
}

namespace {

// Tells the schedules what a layer's attention gave, of tokens last, so that whoever observes them
// has the heads' importance too, and asks which heads the next layer has.
void tell_schedules(const Execution& e, const LayerPass& layer) {
  const HeadSchedule* heads = e.input.heads;
  if (heads != nullptr && heads->observes(layer.layer))
    heads->observe(layer.layer, e.pass.layout(layer), e.scratch.magnitudes);
  const RowSchedule* rows = e.input.schedule;
  if (rows != nullptr && rows->observes(layer.layer))
    rows->observe(layer.layer, of_sequences(e, layer, e.scratch.sequences));
  const LayerPass* next = e.pass.behind(layer);
  if (heads != nullptr && next != nullptr) e.scratch.live.enter(*next, e.pass);
}

}  // namespace

void attend(const Execution& e, const LayerPass& layer, Team::Member& member) {
  const AttentionShape& shape = weights_of(e, layer).attention;
  PassScratch& scratch = e.scratch;
  const bool measures = e.input.heads != nullptr && e.input.heads->observes(layer.layer);
  layer.attention->run({.shape = shape,
                        .sequences = of_sequences(e, layer, scratch.sequences),
                        .query = scratch.qkv,
                        .query_stride = shape.qkv_width(),
                        .output = scratch.context,
                        .output_stride = shape.output_width(),
                        .magnitudes = measures ? scratch.magnitudes : nullptr,
                        .partials = scratch.partials,
                        .arrived = scratch.arrived.data()},
                       member, scratch.workspace + member.rank() * scratch.workspace_bytes);
  member.barrier();
  if (member.rank() == 0) {
    count_unselected(e, layer);
    if (e.reads != nullptr) log_reads(e, layer);
    tell_schedules(e, layer);
  }
  // Nobody goes on before the next layer's heads are known.
  if (e.input.heads != nullptr) member.barrier();
  mark(e.trace, Operation::kAttention, member, [&] { return attention_work(e, layer); });
}

void leave_attention(const Execution& e, const Group& group) {
  const LayerWeights& weights = weights_of(e, *group.layer);
  const int64_t width = weights.attention.output_width();
  leave_block(e,
              {*weights.attention_output, weights.attention_output_norm, weights.attention_sum_norm,
               Operation::kAttentionOutput},
              {.x = e.scratch.context + group.first * width, .x_stride = width}, group);
}

void enter_ffn(const Execution& e, const Group& group) {
  const LayerWeights& weights = weights_of(e, *group.layer);
  const LayerRecord& layer = record_of(e, *group.layer);
  const bool gated = layer.ffn == Ffn::kGated;
  multiply(e, group, *weights.ffn_in,
           {.x = enter_ffn_block(e, group),
            .x_stride = e.architecture.hidden_size,
            .activation = gated ? Activation::kNone : layer.activation,
            .y = group.ffn,
            .y_stride = group.layer->ffn_width},
           Operation::kFfnIn);
  if (gated) gate(e, group);
}

void leave_ffn(const Execution& e, const Group& group) {
  const LayerWeights& weights = weights_of(e, *group.layer);
  leave_block(e,
              {*weights.ffn_out, weights.ffn_output_norm, weights.ffn_sum_norm, Operation::kFfnOut},
              {.x = group.ffn, .x_stride = group.layer->ffn_width}, group);
}

}  // namespace tessera
