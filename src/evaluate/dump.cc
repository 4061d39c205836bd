#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>

#include "base/guarded.h"
#include "io/json.h"
#include "io/mapped_file.h"
#include "io/safetensors.h"
#include "tessera/engine.h"
#include "tessera/evaluate.h"

namespace tessera {
namespace {

constexpr size_t kMostCaseBytes = size_t{256} << 20;

// One case, its rows without the masked ends.
struct Case {
  std::string name;
  int64_t batch = 0;
  int64_t tokens = 0;  // of the rectangle that the file gives
  std::vector<TokenSequence> sequences;
  int32_t new_tokens = 0;
  int32_t beams = 1;
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
Result<Rows> read_rows(const Json& object, const char* key, const std::string& name) {
  Rows rows;
  const Json* value = object.find(key);
  if (value == nullptr || value->is_null()) return rows;
  const Status bad = invalid_input(
      fmt::format("case {}: {}: expected a list of equally long lists of integers, found {}", name,
                  key, shortened(*value)));
  const Json::Array* list = value->as<Json::Array>();
  if (list == nullptr) return bad;
  for (const Json& row : *list) {
    const Json::Array* cells = row.as<Json::Array>();
    if (cells == nullptr) return bad;
    std::vector<int32_t>& values = rows.emplace_back();
    for (const Json& cell : *cells) {
      const int64_t* integer = cell.as<int64_t>();
      if (integer == nullptr || *integer < INT32_MIN || *integer > INT32_MAX) return bad;
      values.push_back(static_cast<int32_t>(*integer));
    }
    if (values.size() != rows.front().size()) return bad;
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

struct Count {
  const char* key;
  int32_t fallback;
  int64_t most;
};

Result<int32_t> read_count(const Json& object, const Count& count, const std::string& name) {
  const Json* value = object.find(count.key);
  if (value == nullptr) return count.fallback;
  const int64_t* found = value->as<int64_t>();
  if (found != nullptr && *found >= count.fallback && *found <= count.most) {
    return static_cast<int32_t>(*found);
  }
  return invalid_input(fmt::format("case {}: {}: expected an integer from {} to {}, found {}", name,
                                   count.key, count.fallback, count.most, shortened(*value)));
}

constexpr std::array<std::string_view, 7> kCaseKeys = {
    "name",       "input_ids", "attention_mask",       "token_type_ids",
    "new_tokens", "beams",     "global_attention_mask"};

// A misspelled key would be left unread.
Status check_keys(const Json& object, const std::string& name) {
  for (const Json::Member& member : *object.as<Json::Object>()) {
    if (std::find(kCaseKeys.begin(), kCaseKeys.end(), member.key) != kCaseKeys.end()) continue;
    return invalid_input(fmt::format("case {}: expected the keys {}, found {}", name,
                                     fmt::join(kCaseKeys, ", "), quote(member.key)));
  }
  return {};
}

Result<Case> read_case(const Json& object) {
  const Json* name = object.find("name");
  if (name == nullptr || name->as<std::string>() == nullptr) {
    return invalid_input(
        fmt::format("cases: expected objects with a name, found {}", shortened(object)));
  }
  Case result{.name = *name->as<std::string>()};
  TESSERA_RETURN_IF_ERROR(check_keys(object, result.name));
  TESSERA_ASSIGN_OR_RETURN(const Rows ids, read_rows(object, "input_ids", result.name));
  TESSERA_ASSIGN_OR_RETURN(const Rows mask, read_rows(object, "attention_mask", result.name));
  TESSERA_ASSIGN_OR_RETURN(const Rows types, read_rows(object, "token_type_ids", result.name));
  TESSERA_ASSIGN_OR_RETURN(const Rows global,
                           read_rows(object, "global_attention_mask", result.name));
  const bool has_global =
      std::any_of(global.begin(), global.end(), [](const std::vector<int32_t>& row) {
        return std::any_of(row.begin(), row.end(), [](int32_t mark) { return mark != 0; });
      });
  if (has_global) {
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
  TESSERA_ASSIGN_OR_RETURN(result.new_tokens,
                           read_count(object, {"new_tokens", 0, 1 << 24}, result.name));
  TESSERA_ASSIGN_OR_RETURN(result.beams, read_count(object, {"beams", 1, 1024}, result.name));
  return result;
}

Result<std::vector<Case>> read_cases(const std::string& path) {
  TESSERA_ASSIGN_OR_RETURN(const std::string text, read_text_file(path, kMostCaseBytes));
  TESSERA_ASSIGN_OR_RETURN(const Json root, parse_json(text, path));
  const Json* list = root.find("cases");
  if (list == nullptr || list->as<Json::Array>() == nullptr) {
    return invalid_input(fmt::format("{}: expected an object with a list of cases, found {}", path,
                                     shortened(root)));
  }
  std::vector<Case> cases;
  std::set<std::string> names;
  for (const Json& object : *list->as<Json::Array>()) {
    TESSERA_ASSIGN_OR_RETURN(Case one, read_case(object));
    if (!names.insert(one.name).second) {
      return invalid_input(
          fmt::format("{}: expected each case name once, found \"{}\" twice", path, one.name));
    }
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

// Prompt and continuation, greedy or the best of the beams, all sequences of the case in one
// engine.
Status run_engine(const std::shared_ptr<Model>& model, const Case& one,
                  std::vector<Output>& outputs) {
  TESSERA_ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine,
                           Engine::create(model, {.step_tokens = Engine::kBatchStepTokens}));
  std::vector<int64_t> numbers;
  for (const TokenSequence& sequence : one.sequences) {
    TESSERA_ASSIGN_OR_RETURN(const int64_t number, engine->submit({.prompt_ids = sequence.ids,
                                                                   .max_new_tokens = one.new_tokens,
                                                                   .beams = one.beams,
                                                                   .ignore_end = true}));
    numbers.push_back(number);
  }
  std::map<int64_t, std::vector<int32_t>> generated;
  while (!engine->idle()) {
    TESSERA_ASSIGN_OR_RETURN(const std::vector<Event> events, engine->step());
    for (const Event& event : events) {
      if (event.finished == FinishReason::kFailed) return event.status;
      generated[event.request].push_back(event.token);
    }
  }
  Output output{
      .name = one.name + ".ids", .dtype = DType::kI32, .shape = {one.batch, one.new_tokens}};
  for (int64_t number : numbers) {
    const std::vector<int32_t>& ids = generated[number];
    output.ints.insert(output.ints.end(), ids.begin(), ids.end());
  }
  outputs.push_back(std::move(output));
  return {};
}

}  // namespace

Status dump_cases(const std::shared_ptr<Model>& model, const std::string& cases_path,
                  const std::string& output_path,
                  const std::function<void(int64_t, int64_t)>& on_progress) {
  return guarded(cases_path, [&]() -> Status {
    TESSERA_ASSIGN_OR_RETURN(const std::vector<Case> cases, read_cases(cases_path));
    std::vector<Output> outputs;
    for (size_t i = 0; i < cases.size(); ++i) {
      const Status status = cases[i].new_tokens > 0 ? run_engine(model, cases[i], outputs)
                                                    : run_forward(*model, cases[i], outputs);
      if (!status.ok())
        return {status.code(), fmt::format("case {}: {}", cases[i].name, status.message())};
      if (on_progress) on_progress(static_cast<int64_t>(i + 1), static_cast<int64_t>(cases.size()));
    }
    std::vector<TensorToWrite> tensors;
    for (const Output& output : outputs) {
      const void* data = output.dtype == DType::kI32
                             ? static_cast<const void*>(output.ints.data())
                             : static_cast<const void*>(output.floats.data());
      tensors.push_back({output.name, output.dtype, output.shape, data});
    }
    return write_safetensors(output_path, tensors);
  });
}

}  // namespace tessera
