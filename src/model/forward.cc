#include "model/forward.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/rotary/rotary.h"

namespace tessera {

// Floats of each piece of scratch memory, but for the attention workspace in bytes.
struct Executor::Sizes {
  int64_t hidden = 0;
  int64_t qkv = 0;
  int64_t context = 0;
  int64_t ffn = 0;
  int64_t head_hidden = 0;
  int64_t logits = 0;
  int64_t partials = 0;         // of attention, per sequence
  int64_t workspace_bytes = 0;  // per member
  int64_t linear_bytes = 0;     // of the linear maps, per member
  int64_t narrow_bytes = 0;     // of narrow rows: of a group's with own rows, else of all
};

struct Executor::Pass {
  const ForwardInput* input = nullptr;
  ForwardOutput* output = nullptr;
  int64_t rows = 0;
  int32_t max_length = 0;
  int32_t max_keys = 0;
  int64_t transient_pages = 0;
  std::vector<int32_t> head_rows;  // unless the head reads all
  int64_t head_row_count = 0;
  std::vector<int32_t> position_rows;  // rows of the table of learned positions

  float* x = nullptr;         // [rows, hidden]
  float* normed = nullptr;    // [rows, hidden], pre-norm only
  float* qkv = nullptr;       // [rows, qkv_width of the layer]
  float* context = nullptr;   // [rows, output_width of the layer's attention]
  float* ffn = nullptr;       // [rows, ffn], twice as wide if gated; [members, group] with own rows
  float* head_in = nullptr;   // [head rows, hidden]
  float* head_mid = nullptr;  // [head rows, hidden]
  float* logits = nullptr;    // [head rows, width]
  float* partials = nullptr;  // as AttentionArgs has them
  std::vector<int32_t> arrived;
  char* workspace = nullptr;  // per member
  int64_t workspace_bytes = 0;
  char* linear_scratch = nullptr;  // of the linear maps, per member
  int64_t linear_bytes = 0;
  char* narrow = nullptr;  // rows as a linear map reads them; with own rows per member
  int64_t narrow_bytes = 0;

  // Whether each member takes its own rows through everything but attention, so that they stay in
  // its caches and nobody waits, in groups of so many rows; else all share every product.
  bool own_rows = false;
  int64_t group_rows = 0;

  std::vector<PageTable> transient;             // [sequence]
  std::vector<PageTable*> tables;               // [layer][sequence]
  std::vector<AttentionSequence> sequences;     // [layer][sequence]
  std::vector<const AttentionMethod*> methods;  // [layer]
  std::vector<int32_t> first_rows;
};

namespace {

constexpr size_t at(int64_t index) { return static_cast<size_t>(index); }

constexpr double kFloatBytes = sizeof(float);

// Rows are dealt in register tiles of the products.
constexpr int64_t kRowGrain = 6;
constexpr int64_t kMinGroupRows = 48;
constexpr int64_t kMaxGroupRows = 192;

// Weights read once; activations read, and written once more where they are added to.
Work work_of(const Linear& linear, int64_t rows) {
  const LinearInfo info = linear.info();
  const auto n = static_cast<double>(rows);
  return {.flops = n * static_cast<double>(info.flops_per_row),
          .dense_flops = n * static_cast<double>(info.dense_flops_per_row),
          .bytes = static_cast<double>(info.bytes) +
                   n * kFloatBytes * static_cast<double>(info.inputs + info.outputs)};
}

// Reads and writes so many floats.
Work moved(int64_t floats) { return {.bytes = kFloatBytes * static_cast<double>(floats)}; }

// Of keys and values in pages.
double cached_bytes(const PageShape& shape, int64_t tokens) {
  return static_cast<double>(shape.page_bytes()) / kPageTokens * static_cast<double>(tokens);
}

}  // namespace

template <typename Measure>
void Executor::mark(Operation operation, const Team::Member& member, Measure work) const {
  if (trace_ != nullptr && member.rank() == 0) trace_->mark(operation, work());
}

Executor::Executor(const Architecture& architecture, const Weights& weights, const Plan& plan,
                   Team& team)
    : architecture_(architecture), weights_(weights), plan_(plan), team_(team) {}

int64_t Executor::ffn_stride() const {
  return int64_t{architecture_.ffn_size} * (architecture_.ffn == Ffn::kGated ? 2 : 1);
}

bool Executor::deals_own_rows(int64_t rows) const {
  return plan_.layers.front().dealing(rows, team_.size()) == Dealing::kOwn;
}

int64_t Executor::group_rows() const {
  const int64_t fitting =
      plan_.layers.front().group_bytes / (static_cast<int64_t>(kFloatBytes) * ffn_stride());
  return std::clamp(fitting, kMinGroupRows, kMaxGroupRows) / kRowGrain * kRowGrain;
}

Executor::Sizes Executor::sizes(int64_t rows, int32_t max_length, int32_t max_keys,
                                int64_t head_rows) const {
  const Architecture& a = architecture_;
  Sizes sizes;
  sizes.hidden = rows * a.hidden_size;
  const int64_t ffn_rows = deals_own_rows(rows) ? team_.size() * group_rows() : rows;
  sizes.ffn = ffn_rows * ffn_stride();
  if (weights_.head.output != nullptr) {
    sizes.head_hidden = head_rows * a.hidden_size;
    sizes.logits = head_rows * weights_.head.outputs;
  }
  for (int32_t layer = 0; layer < a.layers; ++layer) {
    const AttentionShape shape = a.attention_shape(layer);
    const AttentionCost cost = plan_.attention(layer, max_keys).cost(shape, max_length, max_keys);
    sizes.workspace_bytes = std::max(sizes.workspace_bytes, cost.workspace_bytes);
    sizes.partials = std::max(sizes.partials, cost.partial_floats);
    sizes.qkv = std::max(sizes.qkv, rows * a.qkv_width(layer));
    sizes.context = std::max(sizes.context, rows * shape.output_width());
  }
  sizes.workspace_bytes = static_cast<int64_t>(Arena::rounded(at(sizes.workspace_bytes)));
  const int64_t layer_rows = deals_own_rows(rows) ? group_rows() : rows;
  sizes.linear_bytes = most_bytes(&Linear::scratch_bytes, layer_rows, head_rows);
  sizes.narrow_bytes = most_bytes(&Linear::converted_bytes, layer_rows, head_rows);
  return sizes;
}

// What the hungriest linear map needs.
int64_t Executor::most_bytes(int64_t (Linear::*bytes)(int64_t) const, int64_t rows,
                             int64_t head_rows) const {
  int64_t most = 0;
  const auto enter = [&](const std::unique_ptr<Linear>& linear, int64_t of) {
    if (linear != nullptr) most = std::max(most, ((*linear).*bytes)(of));
  };
  for (const LayerWeights& layer : weights_.layers) {
    for (const auto* linear :
         {&layer.qkv, &layer.attention_output, &layer.ffn_in, &layer.ffn_out}) {
      enter(*linear, rows);
    }
  }
  enter(weights_.head.transform, head_rows);
  enter(weights_.head.output, head_rows);
  return static_cast<int64_t>(Arena::rounded(at(most)));
}

int64_t Executor::scratch_bytes(const Sizes& s) const {
  int64_t total = (s.workspace_bytes + s.linear_bytes + s.narrow_bytes) * team_.size();
  for (int64_t floats : {s.hidden, s.hidden, s.qkv, s.context, s.ffn, s.head_hidden, s.head_hidden,
                         s.logits, s.partials}) {
    total += static_cast<int64_t>(Arena::rounded(at(floats) * sizeof(float)));
  }
  return total;
}

Status Executor::extend_rotary_tables(int32_t positions) {
  if (positions <= rotary_positions_) return {};
  const std::vector<float>& frequencies = architecture_.inverse_frequencies;
  positions = std::min(std::max(positions, 2 * rotary_positions_),
                       std::max(positions, architecture_.max_positions));
  try {
    cosines_.resize(at(positions) * frequencies.size());
    sines_.resize(cosines_.size());
  } catch (const std::bad_alloc&) {
    return out_of_memory("cannot get memory for the rotary tables of " + std::to_string(positions) +
                         " positions");
  }
  for (int32_t p = rotary_positions_; p < positions; ++p) {
    for (size_t j = 0; j < frequencies.size(); ++j) {
      // transformers rounds the angle to f32 before it takes the cosine.
      const float angle = static_cast<float>(p) * frequencies[j];
      cosines_[at(p) * frequencies.size() + j] =
          static_cast<float>(std::cos(static_cast<double>(angle)));
      sines_[at(p) * frequencies.size() + j] =
          static_cast<float>(std::sin(static_cast<double>(angle)));
    }
  }
  rotary_positions_ = positions;
  return {};
}

void Executor::make_transient_tables(Pass& pass) {
  const TokenLayout& layout = *pass.input->layout;
  const int64_t page_bytes = architecture_.largest_page().page_bytes();
  pass.transient.resize(at(layout.sequences()));
  for (int64_t s = 0; s < layout.sequences(); ++s) {
    PageTable& table = pass.transient[at(s)];
    table.positions.reserve(at(layout.length(s)));
    for (int32_t page = 0; page < pages_for(layout.length(s)); ++page) {
      table.pages.push_back(arena_.take<std::byte>(page_bytes));
    }
  }
  for (int32_t layer = 0; layer < architecture_.layers; ++layer) {
    for (PageTable& table : pass.transient) pass.tables.push_back(&table);
  }
}

// Enters the positions of the new tokens in the tables, whose pages the layers fill.
void Executor::enter_positions(Pass& pass) {
  const TokenLayout& layout = *pass.input->layout;
  const auto first = layout.positions.begin();
  // The layers of a pass without a cache share their tables.
  const int64_t tables =
      static_cast<int64_t>(pass.input->tables.empty() ? pass.transient.size() : pass.tables.size());
  for (int64_t i = 0; i < tables; ++i) {
    const size_t s = at(i % layout.sequences());
    std::vector<int32_t>& positions = pass.tables[at(i)]->positions;
    positions.insert(positions.end(), first + layout.offsets[s], first + layout.offsets[s + 1]);
  }
}

void Executor::prepare_attention(Pass& pass) {
  const TokenLayout& layout = *pass.input->layout;
  const int64_t sequences = layout.sequences();
  pass.first_rows.assign(layout.offsets.begin(), layout.offsets.end());
  for (int32_t layer = 0; layer < architecture_.layers; ++layer) {
    int32_t max_keys = 0;
    for (int64_t s = 0; s < sequences; ++s) {
      const PageTable* table = pass.tables[at(layer * sequences + s)];
      max_keys = std::max(max_keys, table->tokens());
      pass.sequences.push_back({.first_row = layout.offsets[at(s)],
                                .queries = layout.length(s),
                                .query_positions = layout.positions.data() + layout.offsets[at(s)],
                                .keys = table});
    }
    pass.methods.push_back(&plan_.attention(layer, max_keys));
  }
}

// transformers gives padding ids the padding row and does not count them, in whatever place they
// stand.
void Executor::find_position_rows(Pass& pass) const {
  const TokenLayout& layout = *pass.input->layout;
  const int32_t padding = architecture_.position_padding_id;
  pass.position_rows.reserve(at(pass.rows));
  for (int64_t s = 0; s < layout.sequences(); ++s) {
    int32_t skipped = 0;
    for (int32_t r = layout.offsets[at(s)]; r < layout.offsets[at(s) + 1]; ++r) {
      const bool is_padding = padding >= 0 && pass.input->ids[at(r)] == padding;
      skipped += is_padding ? 1 : 0;
      pass.position_rows.push_back(
          is_padding ? padding : layout.positions[at(r)] - skipped + architecture_.position_offset);
    }
  }
}

// transformers' classifiers of decoders read the last token that is no padding.
int32_t Executor::last_row(const Pass& pass, int64_t sequence) const {
  const TokenLayout& layout = *pass.input->layout;
  const int32_t first = layout.offsets[at(sequence)], end = layout.offsets[at(sequence) + 1];
  const int32_t padding = architecture_.head_padding_id;
  if (padding < 0) return end - 1;
  for (int32_t row = end - 1; row > first; --row) {
    if (pass.input->ids[at(row)] != padding) return row;
  }
  return first;
}

void Executor::measure(Pass& pass) const {
  const TokenLayout& layout = *pass.input->layout;
  const HeadRows head_rows = pass.input->head_rows;
  pass.rows = layout.rows();
  pass.own_rows = deals_own_rows(pass.rows);
  pass.group_rows = group_rows();
  for (int64_t s = 0; s < layout.sequences(); ++s) {
    pass.max_length = std::max(pass.max_length, layout.length(s));
    int32_t before = 0;
    for (size_t i = at(s); i < pass.input->tables.size(); i += at(layout.sequences())) {
      before = std::max(before, pass.input->tables[i]->tokens());
    }
    pass.max_keys = std::max(pass.max_keys, before + layout.length(s));
    if (head_rows == HeadRows::kLastOfEach) pass.head_rows.push_back(last_row(pass, s));
    if (head_rows == HeadRows::kFirstOfEach) pass.head_rows.push_back(layout.offsets[at(s)]);
    if (pass.input->tables.empty()) pass.transient_pages += pages_for(layout.length(s));
  }
  if (head_rows == HeadRows::kGiven) {
    pass.head_rows.assign(pass.input->given_head_rows.begin(), pass.input->given_head_rows.end());
  }
  pass.head_row_count =
      head_rows == HeadRows::kAll ? pass.rows : static_cast<int64_t>(pass.head_rows.size());
}

// Cuts the arena into the pieces of the pass.
Status Executor::carve(Pass& pass) {
  const auto page_bytes =
      static_cast<int64_t>(Arena::rounded(at(architecture_.largest_page().page_bytes())));
  Sizes sizes = this->sizes(pass.rows, pass.max_length, pass.max_keys, pass.head_row_count);
  sizes.partials *= pass.input->layout->sequences();
  TESSERA_RETURN_IF_ERROR(
      arena_.reset(at(scratch_bytes(sizes) + pass.transient_pages * page_bytes)));
  pass.x = arena_.take<float>(sizes.hidden);
  pass.normed = arena_.take<float>(sizes.hidden);
  pass.qkv = arena_.take<float>(sizes.qkv);
  pass.context = arena_.take<float>(sizes.context);
  pass.ffn = arena_.take<float>(sizes.ffn);
  pass.head_in = arena_.take<float>(sizes.head_hidden);
  pass.head_mid = arena_.take<float>(sizes.head_hidden);
  pass.logits = arena_.take<float>(sizes.logits);
  pass.partials = arena_.take<float>(sizes.partials);
  if (sizes.partials > 0)
    pass.arrived.assign(at(pass.input->layout->sequences() * architecture_.kv_heads), 0);
  pass.workspace_bytes = sizes.workspace_bytes;
  pass.workspace = arena_.take<char>(sizes.workspace_bytes * team_.size());
  pass.linear_bytes = sizes.linear_bytes;
  pass.linear_scratch = arena_.take<char>(sizes.linear_bytes * team_.size());
  pass.narrow_bytes = sizes.narrow_bytes;
  pass.narrow = arena_.take<char>(sizes.narrow_bytes * team_.size());
  return {};
}

Status Executor::prepare(const ForwardInput& input, ForwardOutput& output, Pass& pass) {
  const Architecture& a = architecture_;
  pass.input = &input;
  pass.output = &output;
  measure(pass);
  if (a.positions == PositionKind::kRotary) {
    const std::vector<int32_t>& positions = input.layout->positions;
    TESSERA_RETURN_IF_ERROR(
        extend_rotary_tables(*std::max_element(positions.begin(), positions.end()) + 1));
  }
  TESSERA_RETURN_IF_ERROR(carve(pass));
  if (input.tables.empty()) {
    make_transient_tables(pass);
  } else {
    pass.tables.assign(input.tables.begin(), input.tables.end());
  }
  enter_positions(pass);
  prepare_attention(pass);
  if (!weights_.positions.empty()) find_position_rows(pass);
  const size_t hidden = at(pass.rows * a.hidden_size);
  if (output.last_hidden != nullptr) output.last_hidden->resize(hidden);
  if (output.all_hidden != nullptr)
    output.all_hidden->assign(at(a.layers) + 1, std::vector<float>(hidden));
  output.width = pass.head_row_count > 0 ? static_cast<int32_t>(weights_.head.outputs) : 0;
  return {};
}

Status Executor::run(const ForwardInput& input, ForwardOutput& output) {
  Pass pass;
  TESSERA_RETURN_IF_ERROR(prepare(input, output, pass));
  if (trace_ != nullptr) trace_->begin();
  team_.run([&](Team::Member& member) {
    embed(pass, rows_of(pass, member));
    meet(pass, member);
    mark(Operation::kEmbedding, member, [&] { return moved(2 * pass.rows * hidden_size()); });
    keep_hidden(pass, 0, rows_of(pass, member));
    for (int32_t layer = 0; layer < architecture_.layers; ++layer) run_layer(pass, layer, member);
    finish(pass, rows_of(pass, member), member);
    member.barrier();
    head(pass, member);
  });
  output.logits = {pass.logits, at(pass.head_row_count * output.width)};
  return {};
}

Range Executor::rows_of(const Pass& pass, const Team::Member& member) const {
  return member.slice(pass.rows, kRowGrain);
}

int64_t Executor::hidden_size() const { return architecture_.hidden_size; }

// After the last layer.
void Executor::finish(const Pass& pass, Range rows, const Team::Member& member) const {
  if (!weights_.final_norm.empty()) {
    normalise(weights_.final_norm, pass.x, pass.x, rows);
    mark(Operation::kNorm, member, [&] { return moved(2 * pass.rows * hidden_size()); });
  }
  keep_hidden(pass, at(architecture_.layers), rows);
  if (pass.output->last_hidden != nullptr) {
    std::copy(pass.x + rows.begin * hidden_size(), pass.x + rows.end * hidden_size(),
              pass.output->last_hidden->data() + rows.begin * hidden_size());
  }
}

void Executor::embed(const Pass& pass, Range rows) const {
  const Architecture& a = architecture_;
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    float* x = pass.x + r * a.hidden_size;
    weights_.tokens.copy_row(pass.input->ids[at(r)], x);
    if (!weights_.positions.empty()) weights_.positions.add_row(pass.position_rows[at(r)], x);
    if (!weights_.types.empty()) {
      weights_.types.add_row(pass.input->type_ids.empty() ? 0 : pass.input->type_ids[at(r)], x);
    }
  }
  if (!weights_.embedding_norm.empty()) normalise(weights_.embedding_norm, pass.x, pass.x, rows);
}

void Executor::normalise(const NormWeights& weights, const float* x, float* y, Range rows) const {
  norm::kernels.run({.kind = architecture_.norm_kind,
                     .x = x,
                     .x_stride = architecture_.hidden_size,
                     .cols = architecture_.hidden_size,
                     .weight = weights.weight.data(),
                     .bias = weights.bias.empty() ? nullptr : weights.bias.data(),
                     .eps = architecture_.norm_eps,
                     .y = y,
                     .y_stride = architecture_.hidden_size},
                    {rows.begin, rows.end});
}

void Executor::keep_hidden(const Pass& pass, size_t index, Range rows) const {
  if (pass.output->all_hidden == nullptr) return;
  const int64_t width = architecture_.hidden_size;
  std::copy(pass.x + rows.begin * width, pass.x + rows.end * width,
            (*pass.output->all_hidden)[index].data() + rows.begin * width);
}

// Ends work on own rows that all members are about to read.
void Executor::meet(const Pass& pass, Team::Member& member) const {
  if (!pass.own_rows) member.barrier();
}

// Rows that a member takes through a part of a layer: a group of its own, whose products it does
// alone, or its share of all, whose products it does with the others.
struct Executor::Group {
  Pass* pass = nullptr;
  Team::Member* member = nullptr;
  Range rows;         // of the element-wise work
  int64_t first = 0;  // row of the products, and the row that `ffn` begins with
  int64_t count = 0;  // rows of the products
  float* ffn = nullptr;
};

template <typename Work>
void Executor::for_each_group(Pass& pass, Team::Member& member, Work work) const {
  const Range own = rows_of(pass, member);
  if (!pass.own_rows) {
    work(Group{&pass, &member, own, 0, pass.rows, pass.ffn});
    return;
  }
  float* ffn = pass.ffn + member.rank() * pass.group_rows * ffn_stride();
  const int64_t groups = (own.size() + pass.group_rows - 1) / pass.group_rows;
  for (int64_t i = 0; i < groups; ++i) {
    // Of like size, so that the last one is not a remnant.
    const Range part = slice(own.size(), kRowGrain, static_cast<int>(i), static_cast<int>(groups));
    const Range rows{own.begin + part.begin, own.begin + part.end};
    if (rows.size() > 0) work(Group{&pass, &member, rows, rows.begin, rows.size(), ffn});
  }
}

void* Executor::linear_scratch(const Pass& pass, const Team::Member& member) const {
  return pass.linear_scratch + member.rank() * pass.linear_bytes;
}

// The pointers in `args` are those of the group's first row.
void Executor::multiply(const Linear& linear, LinearArgs args, Operation operation,
                        const Group& group) const {
  args.rows = group.count;
  args.scratch = linear_scratch(*group.pass, *group.member);
  if (group.pass->own_rows) {
    if (linear.converted_bytes(args.rows) > 0) {
      char* narrow = group.pass->narrow + group.member->rank() * group.pass->narrow_bytes;
      linear.convert_rows(args, {0, args.rows}, narrow);
      args.converted = narrow;
    }
    linear.apply_alone(args);
  } else {
    apply_shared(linear, args, group.pass->narrow, *group.member);
    group.member->barrier();
  }
  mark(operation, *group.member, [&] { return work_of(linear, traced_rows(group)); });
}

// What the whole team does while the one that marks does its group.
int64_t Executor::traced_rows(const Group& group) const {
  const Pass& pass = *group.pass;
  // A member that shares all rows may have none of its own.
  if (!pass.own_rows) return pass.rows;
  return group.rows.size() * pass.rows / rows_of(pass, *group.member).size();
}

void Executor::run_layer(Pass& pass, int32_t layer, Team::Member& member) const {
  for_each_group(pass, member, [&](const Group& group) { project(group, layer); });
  append_keys(pass, layer, member);
  attend(pass, layer, member);
  for_each_group(pass, member, [&](const Group& group) { leave_attention(group, layer); });
  if (layer + 1 < architecture_.layers) keep_hidden(pass, at(layer) + 1, rows_of(pass, member));
}

void Executor::normalise_group(const NormWeights& norm, float* target, const Group& group) const {
  normalise(norm, group.pass->x, target, group.rows);
  meet(*group.pass, *group.member);
  mark(Operation::kNorm, *group.member,
       [&] { return moved(2 * traced_rows(group) * hidden_size()); });
}

// What a block reads: the normalised rows where the norm comes first, else the rows themselves.
const float* Executor::enter_block(const NormWeights& norm, const Group& group) const {
  const bool normed = architecture_.norm_placement == NormPlacement::kPre;
  if (normed) normalise_group(norm, group.pass->normed, group);
  return (normed ? group.pass->normed : group.pass->x) + group.first * hidden_size();
}

void Executor::leave_block(const NormWeights& norm, const Group& group) const {
  if (architecture_.norm_placement == NormPlacement::kPost)
    normalise_group(norm, group.pass->x, group);
}

// Queries, keys and values.
void Executor::project(const Group& group, int32_t layer) const {
  const Architecture& a = architecture_;
  const LayerWeights& weights = weights_.layers[at(layer)];
  Pass& pass = *group.pass;
  multiply(*weights.qkv,
           {.x = enter_block(weights.attention_norm, group),
            .x_stride = a.hidden_size,
            .y = pass.qkv + group.first * a.qkv_width(layer),
            .y_stride = a.qkv_width(layer)},
           Operation::kQkv, group);
  if (a.qk_norm != QkNorm::kPerHead && a.positions != PositionKind::kRotary) return;
  // The member appends the keys of the same rows, so nobody need wait.
  place_heads(pass, layer, group.rows);
  mark(Operation::kPositions, *group.member,
       [&] { return moved(2 * traced_rows(group) * (a.query_width() + a.kv_width())); });
}

void Executor::attend(Pass& pass, int32_t layer, Team::Member& member) const {
  const Architecture& a = architecture_;
  const int64_t sequences = pass.input->layout->sequences();
  const AttentionShape shape = a.attention_shape(layer);
  pass.methods[at(layer)]->run(
      {.shape = shape,
       .sequences = {pass.sequences.data() + layer * sequences, at(sequences)},
       .query = pass.qkv,
       .query_stride = a.qkv_width(layer),
       .output = pass.context,
       .output_stride = shape.output_width(),
       .partials = pass.partials,
       .arrived = pass.arrived.data()},
      member, pass.workspace + member.rank() * pass.workspace_bytes);
  member.barrier();
  mark(Operation::kAttention, member, [&] { return attention_work(pass, layer); });
}

// From what attention gave to the end of the layer.
void Executor::leave_attention(const Group& group, int32_t layer) const {
  const Architecture& a = architecture_;
  const LayerWeights& weights = weights_.layers[at(layer)];
  const int64_t width = a.attention_shape(layer).output_width();
  float* x = group.pass->x + group.first * a.hidden_size;
  multiply(*weights.attention_output,
           {.x = group.pass->context + group.first * width,
            .x_stride = width,
            .residual = x,
            .residual_stride = a.hidden_size,
            .y = x,
            .y_stride = a.hidden_size},
           Operation::kAttentionOutput, group);
  leave_block(weights.attention_norm, group);
  ffn_block(group, layer);
  leave_block(weights.ffn_norm, group);
}

void Executor::ffn_block(const Group& group, int32_t layer) const {
  const Architecture& a = architecture_;
  const LayerWeights& weights = weights_.layers[at(layer)];
  const bool gated = a.ffn == Ffn::kGated;
  float* x = group.pass->x + group.first * a.hidden_size;
  multiply(*weights.ffn_in,
           {.x = enter_block(weights.ffn_norm, group),
            .x_stride = a.hidden_size,
            .activation = gated ? Activation::kNone : a.activation,
            .y = group.ffn,
            .y_stride = ffn_stride()},
           Operation::kFfnIn, group);
  if (gated) gate(group);
  multiply(*weights.ffn_out,
           {.x = group.ffn,
            .x_stride = ffn_stride(),
            .residual = x,
            .residual_stride = a.hidden_size,
            .y = x,
            .y_stride = a.hidden_size},
           Operation::kFfnOut, group);
}

void Executor::gate(const Group& group) const {
  const Architecture& a = architecture_;
  activation::kernels.run({.function = a.activation,
                           .x = group.ffn,
                           .x_stride = ffn_stride(),
                           .up = group.ffn + a.ffn_size,
                           .up_stride = ffn_stride(),
                           .cols = a.ffn_size,
                           .y = group.ffn,
                           .y_stride = ffn_stride()},
                          {group.rows.begin - group.first, group.rows.end - group.first});
  meet(*group.pass, *group.member);
  mark(Operation::kActivation, *group.member,
       [&] { return moved(3 * traced_rows(group) * a.ffn_size); });
}

// Queries and outputs once, keys and values once for each sequence. The dense form has values as
// wide as the heads.
Work Executor::attention_work(const Pass& pass, int32_t layer) const {
  const AttentionShape shape = architecture_.attention_shape(layer);
  AttentionShape dense = shape;
  dense.pages.d_v = architecture_.head_size;
  const int64_t sequences = pass.input->layout->sequences();
  Work work;
  const int64_t floats = pass.rows * (architecture_.query_width() + shape.output_width());
  int64_t keys_read = 0;
  for (int64_t s = 0; s < sequences; ++s) {
    const AttentionSequence& sequence = pass.sequences[at(layer * sequences + s)];
    const AttentionMethod& method = *pass.methods[at(layer)];
    const int32_t queries = sequence.queries, keys = sequence.keys->tokens();
    work.flops += method.cost(shape, queries, keys).flops * queries;
    work.dense_flops += method.cost(dense, queries, keys).flops * queries;
    keys_read += keys;
  }
  work.bytes = moved(floats).bytes + cached_bytes(shape.pages, keys_read);
  return work;
}

// Writes the keys and values of the member's rows behind those in the pages.
void Executor::append_keys(Pass& pass, int32_t layer, Team::Member& member) const {
  const Architecture& a = architecture_;
  const int64_t sequences = pass.input->layout->sequences();
  PageTable* const* tables = pass.tables.data() + layer * sequences;
  const PageShape shape = a.attention_shape(layer).pages;
  const float* key = pass.qkv + a.query_width();
  append_to_pages({.shape = shape,
                   .tables = {tables, at(sequences)},
                   .first_rows = pass.first_rows.data(),
                   .key = key,
                   .key_stride = a.qkv_width(layer),
                   .value = key + a.kv_width(),
                   .value_stride = a.qkv_width(layer)},
                  rows_of(pass, member));
  member.barrier();
  mark(Operation::kAppend, member, [&] {
    Work work = moved(pass.rows * (shape.key_width() + shape.value_width()));
    work.bytes += cached_bytes(shape, pass.rows);
    return work;
  });
}

// Normalises and rotates queries and keys in place.
void Executor::place_heads(Pass& pass, int32_t layer, Range rows) const {
  const Architecture& a = architecture_;
  const int64_t stride = a.qkv_width(layer);
  const LayerWeights& weights = weights_.layers[at(layer)];
  if (a.qk_norm == QkNorm::kPerHead) {
    for (int32_t h = 0; h < a.query_heads + a.kv_heads; ++h) {
      const NormWeights& norm = h < a.query_heads ? weights.query_norm : weights.key_norm;
      float* x = pass.qkv + int64_t{h} * a.head_size;
      norm::kernels.run({.kind = a.norm_kind,
                         .x = x,
                         .x_stride = stride,
                         .cols = a.head_size,
                         .weight = norm.weight.data(),
                         .eps = a.norm_eps,
                         .y = x,
                         .y_stride = stride},
                        {rows.begin, rows.end});
    }
  }
  if (a.positions == PositionKind::kRotary) {
    rotary::kernels.run({.x = pass.qkv,
                         .x_stride = stride,
                         .heads = a.query_heads + a.kv_heads,
                         .head_size = a.head_size,
                         .rotated = static_cast<int32_t>(2 * a.inverse_frequencies.size()),
                         .positions = pass.input->layout->positions.data(),
                         .cosines = cosines_.data(),
                         .sines = sines_.data()},
                        {rows.begin, rows.end});
  }
}

void Executor::head(Pass& pass, Team::Member& member) const {
  if (weights_.head.output == nullptr || pass.input->head_rows == HeadRows::kNone) return;
  const int64_t width = architecture_.hidden_size;
  const float* input = pass.x;
  int64_t rows = pass.rows;
  if (pass.input->head_rows != HeadRows::kAll) {
    rows = static_cast<int64_t>(pass.head_rows.size());
    const Range part = member.slice(rows);
    for (int64_t r = part.begin; r < part.end; ++r) {
      std::copy_n(pass.x + pass.head_rows[at(r)] * width, width, pass.head_in + r * width);
    }
    member.barrier();
    input = pass.head_in;
  }
  if (weights_.head.transform != nullptr) {
    apply_shared(*weights_.head.transform,
                 {.x = input,
                  .x_stride = width,
                  .rows = rows,
                  .activation = architecture_.names.head.activation,
                  .y = pass.head_mid,
                  .y_stride = width,
                  .scratch = linear_scratch(pass, member)},
                 pass.narrow, member);
    member.barrier();
    input = pass.head_mid;
  }
  if (weights_.head.transform != nullptr && !weights_.head.norm.empty()) {
    normalise(weights_.head.norm, pass.head_mid, pass.head_mid, member.slice(rows));
    member.barrier();
  }
  const int64_t outputs = weights_.head.outputs;
  apply_shared(*weights_.head.output,
               {.x = input,
                .x_stride = width,
                .rows = rows,
                .y = pass.logits,
                .y_stride = outputs,
                .scratch = linear_scratch(pass, member)},
               pass.narrow, member);
  if (trace_ == nullptr) return;
  member.barrier();
  mark(Operation::kHead, member, [&] {
    Work work = work_of(*weights_.head.output, rows);
    if (weights_.head.transform == nullptr) return work;
    const Work transform = work_of(*weights_.head.transform, rows);
    return Work{work.flops + transform.flops, work.dense_flops + transform.dense_flops,
                work.bytes + transform.bytes};
  });
}

}  // namespace tessera
