#include "model/pass.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

namespace tessera {
namespace {

constexpr size_t at(int64_t index) { return static_cast<size_t>(index); }

constexpr int64_t kMinGroupRows = 48;
constexpr int64_t kMaxGroupRows = 192;

int64_t group_rows(const LayerPlan& plan, int64_t ffn_width) {
  const int64_t fitting = plan.group_bytes / (static_cast<int64_t>(sizeof(float)) * ffn_width);
  return std::clamp(fitting, kMinGroupRows, kMaxGroupRows) / kRowGrain * kRowGrain;
}

Status check_count(const char* what, size_t found, int64_t expected) {
  if (found == at(expected)) return {};
  return invalid_input(fmt::format("pass: expected {} {}, found {}", expected, what, found));
}

Status check_heads(const Architecture& a) {
  const int32_t expected = a.layer(0).query_heads;
  for (const LayerRecord& layer : a.layers) {
    if (layer.query_heads == expected) continue;
    return unsupported(
        fmt::format("pass: expected {} heads in every layer of a model whose heads leave, found {}",
                    expected, layer.query_heads));
  }
  return {};
}

Status check_parts(const ForwardInput& input, const Architecture& a) {
  const TokenLayout& layout = *input.layout;
  const int64_t rows = layout.rows();
  if (rows == 0) return invalid_input("pass: expected at least one row, found none");
  TESSERA_RETURN_IF_ERROR(check_count("positions", layout.positions.size(), rows));
  if (input.states.empty() || !input.ids.empty())
    TESSERA_RETURN_IF_ERROR(check_count("ids", input.ids.size(), rows));
  if (!input.type_ids.empty())
    TESSERA_RETURN_IF_ERROR(check_count("type ids", input.type_ids.size(), rows));
  if (!input.states.empty()) {
    TESSERA_RETURN_IF_ERROR(
        check_count("numbers of states", input.states.size(), rows * a.hidden_size));
  }
  if (!input.prompt_tokens.empty()) {
    TESSERA_RETURN_IF_ERROR(
        check_count("lengths of prompts", input.prompt_tokens.size(), layout.sequences()));
  }
  if (!input.tables.empty()) {
    TESSERA_RETURN_IF_ERROR(
        check_count("page tables", input.tables.size(), a.layer_count() * layout.sequences()));
  }
  if (input.heads != nullptr) TESSERA_RETURN_IF_ERROR(check_heads(a));
  if (input.schedule == nullptr) return {};
  TESSERA_RETURN_IF_ERROR(check_count("layers in the schedule of rows",
                                      input.schedule->lengths.size(), a.layer_count()));
  if (!input.schedule->most_keys.empty()) {
    TESSERA_RETURN_IF_ERROR(check_count("layers in the schedule of keys",
                                        input.schedule->most_keys.size(), a.layer_count()));
  }
  for (const auto* counts : {&input.schedule->lengths, &input.schedule->most_keys}) {
    for (const std::vector<int32_t>& of_sequences : *counts) {
      TESSERA_RETURN_IF_ERROR(check_count("sequences in every layer of the schedule of rows",
                                          of_sequences.size(), layout.sequences()));
    }
  }
  return {};
}

Status check_layers(const ForwardInput& input, const Architecture& a) {
  const int32_t end = std::min(input.end_layer, a.layer_count());
  if (input.first_layer < 0 || input.first_layer >= end) {
    return invalid_input(fmt::format("pass: expected layers within 0 to {}, found {} to {}",
                                     a.layer_count(), input.first_layer, input.end_layer));
  }
  if (input.first_layer > 0 && input.states.empty()) {
    return invalid_input(
        fmt::format("pass: expected states that enter layer {}, found none", input.first_layer));
  }
  if (end < a.layer_count() && input.head_rows != HeadRows::kNone) {
    return invalid_input(
        fmt::format("pass: expected no rows for the head, which layer {} of {} does not come to",
                    end, a.layer_count()));
  }
  return {};
}

Status find_head_rows(const ForwardInput& input, const Architecture& a, PassShape& pass) {
  const TokenLayout& layout = *input.layout;
  if (input.head_rows == HeadRows::kGiven) {
    pass.head_rows.assign(input.given_head_rows.begin(), input.given_head_rows.end());
    for (const int32_t row : pass.head_rows) {
      if (row >= 0 && row < layout.rows()) continue;
      return invalid_input(
          fmt::format("pass: expected head rows from 0 to {}, found {}", layout.rows() - 1, row));
    }
  }
  const bool one_of_each =
      input.head_rows == HeadRows::kLastOfEach || input.head_rows == HeadRows::kFirstOfEach;
  for (int64_t s = 0; one_of_each && s < layout.sequences(); ++s) {
    if (layout.length(s) == 0) {
      return invalid_input(
          fmt::format("pass: expected a row of sequence {} for the head, found none", s));
    }
    int32_t row = layout.offsets[at(s)];
    if (input.head_rows == HeadRows::kLastOfEach) {
      if (a.head_padding_id >= 0 && input.ids.empty())
        return invalid_input("pass: expected ids for a head that reads the last");
      row = last_head_row(input.ids, layout, s, a.head_padding_id);
    }
    pass.head_rows.push_back(row);
  }
  pass.head_row_count = input.head_rows == HeadRows::kAll
                            ? layout.rows()
                            : static_cast<int64_t>(pass.head_rows.size());
  return {};
}

// Adds what is left of the last set in a layer, unless that is all of it.
Status narrow(const std::vector<int32_t>& lengths, int32_t layer, PassShape& pass) {
  const TokenLayout& before = pass.sets.back().layout;
  RowSet next;
  for (int64_t s = 0; s < before.sequences(); ++s) {
    const int32_t length = lengths[at(s)];
    if (length < 0 || length > before.length(s)) {
      return invalid_input(
          fmt::format("pass: expected from 0 to {} rows of sequence {} in layer {}, found {}",
                      before.length(s), s, layer, length));
    }
    next.layout.append(length, 0);
  }
  if (next.layout.rows() == before.rows()) return {};
  if (next.layout.rows() == 0)
    return invalid_input(fmt::format("pass: expected a row in layer {}, found none", layer));
  next.kept.resize(at(next.layout.rows()));
  next.origins.resize(at(next.layout.rows()));
  pass.sets.push_back(std::move(next));
  return {};
}

// What the tables of a layer hold, and whether they have pages for its rows.
Status count_keys(const ForwardInput& input, PassShape& pass, LayerPass& layer) {
  const TokenLayout& layout = pass.layout(layer);
  for (int64_t s = 0; s < layout.sequences(); ++s) {
    const PageTable* table =
        input.tables.empty() ? nullptr : input.tables[at(layer.layer * layout.sequences() + s)];
    const int64_t before = table == nullptr ? 0 : static_cast<int64_t>(table->positions.size());
    int64_t keys = before + layout.length(s);
    if (input.schedule != nullptr && !input.schedule->most_keys.empty())
      keys = std::min<int64_t>(keys, input.schedule->most_keys[at(layer.layer)][at(s)]);
    if (keys > std::numeric_limits<int32_t>::max() - kPageTokens) {
      return invalid_input(
          fmt::format("pass: expected fewer than 2^31 keys of a sequence, found {}", keys));
    }
    const int32_t pages = pages_for(static_cast<int32_t>(keys));
    if (table != nullptr && table->pages.size() < at(pages)) {
      return invalid_input(
          fmt::format("pass: expected {} pages of sequence {} in layer {}, found {}", pages, s,
                      layer.layer, table->pages.size()));
    }
    pass.keys_before.push_back(static_cast<int32_t>(before));
    layer.longest = std::max(layer.longest, layout.length(s));
    const int32_t dropped = table == nullptr ? 0 : table->dropped;
    layer.most_keys = std::max(layer.most_keys, static_cast<int32_t>(keys) + dropped);
  }
  return {};
}

}  // namespace

// As transformers' classifiers of decoders do.
int32_t last_head_row(std::span<const int32_t> ids, const TokenLayout& layout, int64_t sequence,
                      int32_t padding_id) {
  const int32_t first = layout.offsets[at(sequence)], end = layout.offsets[at(sequence) + 1];
  if (padding_id < 0) return end - 1;
  for (int32_t row = end - 1; row > first; --row) {
    if (ids[at(row)] != padding_id) return row;
  }
  return first;
}

Result<PassShape> shape_of_pass(const ForwardInput& input, const Architecture& architecture,
                                const Plan& plan, int32_t members) {
  TESSERA_RETURN_IF_ERROR(check_parts(input, architecture));
  TESSERA_RETURN_IF_ERROR(check_layers(input, architecture));
  PassShape pass;
  const int32_t end = std::min(input.end_layer, architecture.layer_count());
  pass.first_layer = input.first_layer;
  pass.ends_with_head = end == architecture.layer_count();
  pass.sets.push_back({.layout = *input.layout});
  TESSERA_RETURN_IF_ERROR(find_head_rows(input, architecture, pass));
  pass.keys_before.reserve(at((end - input.first_layer) * pass.sequences()));
  for (int32_t i = input.first_layer; i < end; ++i) {
    if (input.schedule != nullptr)
      TESSERA_RETURN_IF_ERROR(narrow(input.schedule->lengths[at(i)], i, pass));
    const LayerPlan& plan_of = plan.layers[at(i)];
    LayerPass layer{.layer = i,
                    .set = static_cast<int32_t>(pass.sets.size()) - 1,
                    .rows = pass.sets.back().layout.rows(),
                    .ffn_width = architecture.layer(i).ffn_width()};
    TESSERA_RETURN_IF_ERROR(count_keys(input, pass, layer));
    layer.dealing = plan_of.dealing(layer.rows, members);
    layer.group_rows = group_rows(plan_of, layer.ffn_width);
    layer.attention = &plan.attention(i, layer.most_keys);
    pass.layers.push_back(layer);
  }
  return pass;
}

}  // namespace tessera
