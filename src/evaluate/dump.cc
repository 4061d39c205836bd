#include <fmt/format.h>

#include <algorithm>
#include <new>
#include <nlohmann/json.hpp>

#include "io/mapped_file.h"
#include "io/safetensors.h"
#include "tessera/engine.h"
#include "tessera/evaluate.h"

namespace tessera {
namespace {

using nlohmann::json;

constexpr size_t kMostCaseBytes = size_t{256} << 20;

// One case, its rows without the masked ends.
struct Case {
  std::string name;
  int64_t batch = 0;
  int64_t tokens = 0;  // of the rectangle that the file gives
  std::vector<TokenSequence> sequences;
  int32_t new_tokens = 0;
};

struct Output {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  std::vector<float> floats;
  std::vector<int32_t> ints;
};

using Rows = std::vector<std::vector<int32_t>>;

// A rectangle of integers, or nothing when the key is absent.
Result<Rows> read_rows(const json& object, const char* key, const std::string& name) {
  Rows rows;
  if (!object.contains(key)) return rows;
  const auto bad = [&] {
    return invalid_input(
        fmt::format("case {}: {}: expected a list of equally long lists of integers", name, key));
  };
  if (!object[key].is_array()) return bad();
  for (const json& row : object[key]) {
    if (!row.is_array()) return bad();
    std::vector<int32_t> values;
    for (const json& value : row) {
      if (!value.is_number_integer() || value < INT32_MIN || value > INT32_MAX) return bad();
      values.push_back(value);
    }
    rows.push_back(std::move(values));
    if (rows.back().size() != rows.front().size()) return bad();
  }
  return rows;
}

// The number of leading ones; zeros may only follow them.
Result<size_t> masked_length(const std::vector<int32_t>& mask, const std::string& name) {
  const auto end = std::find(mask.begin(), mask.end(), 0);
  if (std::any_of(mask.begin(), end, [](int32_t m) { return m != 1; }) ||
      std::any_of(end, mask.end(), [](int32_t m) { return m != 0; })) {
    return unsupported(fmt::format("case {}: attention_mask: expected ones and then zeros", name));
  }
  return static_cast<size_t>(end - mask.begin());
}

Result<Case> read_case(const json& object) {
  if (!object.is_object() || !object.contains("name") || !object["name"].is_string()) {
    return invalid_input("cases: expected objects with a name");
  }
  Case result{.name = object["name"]};
  TESSERA_ASSIGN_OR_RETURN(const Rows ids, read_rows(object, "input_ids", result.name));
  TESSERA_ASSIGN_OR_RETURN(const Rows mask, read_rows(object, "attention_mask", result.name));
  TESSERA_ASSIGN_OR_RETURN(const Rows types, read_rows(object, "token_type_ids", result.name));
  TESSERA_ASSIGN_OR_RETURN(const Rows global,
                           read_rows(object, "global_attention_mask", result.name));
  if (!global.empty()) {
    return unsupported(fmt::format(
        "case {}: global_attention_mask: no family here has global attention", result.name));
  }
  if (ids.empty())
    return invalid_input(fmt::format("case {}: expected input_ids, found none", result.name));
  result.batch = static_cast<int64_t>(ids.size());
  result.tokens = static_cast<int64_t>(ids.front().size());
  for (const Rows* other : {&mask, &types}) {
    if (!other->empty() &&
        (other->size() != ids.size() || other->front().size() != ids.front().size())) {
      return invalid_input(fmt::format("case {}: expected masks and types of {} x {}, as input_ids",
                                       result.name, result.batch, result.tokens));
    }
  }
  for (size_t i = 0; i < ids.size(); ++i) {
    TokenSequence sequence{ids[i], types.empty() ? std::vector<int32_t>() : types[i]};
    if (!mask.empty()) {
      TESSERA_ASSIGN_OR_RETURN(const size_t length, masked_length(mask[i], result.name));
      sequence.ids.resize(length);
      if (!sequence.type_ids.empty()) sequence.type_ids.resize(length);
    }
    result.sequences.push_back(std::move(sequence));
  }
  const json wanted = object.value("new_tokens", json(0));
  if (!wanted.is_number_integer() || wanted < 0 || wanted > (1 << 24)) {
    return invalid_input(
        fmt::format("case {}: new_tokens: expected an integer from 0 to {}, found {}", result.name,
                    1 << 24, wanted.dump()));
  }
  result.new_tokens = wanted;
  return result;
}

Result<std::vector<Case>> read_cases(const std::string& path) {
  TESSERA_ASSIGN_OR_RETURN(const std::string text, read_text_file(path, kMostCaseBytes));
  const json root = json::parse(text, nullptr, false);
  if (!root.is_object() || !root.contains("cases") || !root["cases"].is_array()) {
    return invalid_input(fmt::format("{}: expected a JSON object with a list of cases", path));
  }
  std::vector<Case> cases;
  for (const json& object : root["cases"]) {
    TESSERA_ASSIGN_OR_RETURN(Case one, read_case(object));
    cases.push_back(std::move(one));
  }
  return cases;
}

// Rows of a ragged result laid out as [batch, tokens, width], zeros in between.
Output spread(const Case& one, const std::string& suffix, const std::vector<float>& rows,
              int64_t width) {
  Output output{.name = one.name + "." + suffix, .shape = {one.batch, one.tokens, width}};
  output.floats.assign(static_cast<size_t>(one.batch * one.tokens * width), 0.0f);
  auto source = rows.begin();
  for (int64_t s = 0; s < one.batch; ++s) {
    const auto count =
        static_cast<int64_t>(one.sequences[static_cast<size_t>(s)].ids.size()) * width;
    std::copy_n(source, count, output.floats.begin() + s * one.tokens * width);
    source += count;
  }
  return output;
}

Status run_forward(Model& model, const Case& one, std::vector<Output>& outputs) {
  TESSERA_ASSIGN_OR_RETURN(const ForwardResult result,
                           model.forward(one.sequences, {.hidden_states = true}));
  if (model.info().head == Head::kSequenceClassification) {
    outputs.push_back({.name = one.name + ".logits",
                       .shape = {one.batch, result.logits_width},
                       .floats = result.logits});
  } else if (model.info().head == Head::kQuestionAnswering) {
    for (const auto& [suffix, rows] : {std::pair{"start_logits", &result.start_logits},
                                       std::pair{"end_logits", &result.end_logits}}) {
      outputs.push_back(spread(one, suffix, *rows, 1));
      outputs.back().shape.pop_back();
    }
  } else if (result.logits_width > 0) {
    outputs.push_back(spread(one, "logits", result.logits, result.logits_width));
  }
  for (size_t i = 0; i < result.hidden_states.size(); ++i) {
    outputs.push_back(spread(one, fmt::format("hidden.{}", i), result.hidden_states[i],
                             model.info().hidden_size));
  }
  return {};
}

// Prompt and greedy continuation, all sequences of the case in one engine.
Status run_greedy(const std::shared_ptr<Model>& model, const Case& one,
                  std::vector<Output>& outputs) {
  TESSERA_ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine, Engine::create(model, {}));
  std::vector<std::vector<int32_t>> generated(one.sequences.size());
  for (const TokenSequence& sequence : one.sequences) {
    const Request request{
        .prompt_ids = sequence.ids, .max_new_tokens = one.new_tokens, .ignore_end = true};
    TESSERA_RETURN_IF_ERROR(engine->submit(request).status());
  }
  while (!engine->idle()) {
    TESSERA_ASSIGN_OR_RETURN(const std::vector<Event> events, engine->step());
    for (const Event& event : events)
      generated[static_cast<size_t>(event.request)].push_back(event.token);
  }
  Output output{
      .name = one.name + ".ids", .dtype = DType::kI32, .shape = {one.batch, one.new_tokens}};
  for (const std::vector<int32_t>& ids : generated) {
    output.ints.insert(output.ints.end(), ids.begin(), ids.end());
  }
  outputs.push_back(std::move(output));
  return {};
}

}  // namespace

Status dump_cases(const std::shared_ptr<Model>& model, const std::string& cases_path,
                  const std::string& output_path) {
  try {
    TESSERA_ASSIGN_OR_RETURN(const std::vector<Case> cases, read_cases(cases_path));
    std::vector<Output> outputs;
    for (const Case& one : cases) {
      if (one.new_tokens > 0) {
        TESSERA_RETURN_IF_ERROR(run_greedy(model, one, outputs));
      } else {
        TESSERA_RETURN_IF_ERROR(run_forward(*model, one, outputs));
      }
    }
    std::vector<TensorToWrite> tensors;
    for (const Output& output : outputs) {
      const void* data = output.dtype == DType::kI32
                             ? static_cast<const void*>(output.ints.data())
                             : static_cast<const void*>(output.floats.data());
      tensors.push_back({output.name, output.dtype, output.shape, data});
    }
    return write_safetensors(output_path, tensors);
  } catch (const std::bad_alloc&) {
    return out_of_memory(fmt::format("not enough memory for the results of {}", cases_path));
  }
}

}  // namespace tessera
