#include "tokenizer/template.h"

#include <fmt/format.h>

#include <algorithm>

#include "tokenizer/components.h"

namespace tessera::tokenizer {
namespace {

// ["[SEP]", 102]
Result<int32_t> read_token(const JsonValue& json) {
  if (!json.is_array() || json.size() != 2) return json.wrong("[token, id]");
  TESSERA_ASSIGN_OR_RETURN(const int64_t id, json[size_t{1}].integer(0, Vocabulary::kMaxId));
  return static_cast<int32_t>(id);
}

}  // namespace

// BERT: [CLS] A [SEP] B [SEP] with types 0 and 1. RoBERTa: <s> A </s></s> B </s>, all of type 0.
Status Template::read_classic(const JsonValue& json, bool is_roberta) {
  TESSERA_ASSIGN_OR_RETURN(const int32_t cls, read_token(json["cls"]));
  TESSERA_ASSIGN_OR_RETURN(const int32_t sep, read_token(json["sep"]));
  const int32_t second_type = is_roberta ? 0 : 1;
  const Item cls_item = {Part::kSpecial, 0, {cls}};
  const Item sep_item = {Part::kSpecial, 0, {sep}};
  single_ = {cls_item, {Part::kFirst, 0, {}}, sep_item};
  pair_ = single_;
  if (is_roberta) {
    pair_.push_back(sep_item);
    TESSERA_RETURN_IF_ERROR(read_space_trim(json));
  }
  pair_.push_back({Part::kSecond, second_type, {}});
  pair_.push_back({Part::kSpecial, second_type, {sep}});
  return {};
}

Status Template::read_space_trim(const JsonValue& json) {
  bool trims = true;
  bool adds_space = true;
  TESSERA_RETURN_IF_ERROR(json.read("trim_offsets", trims));
  TESSERA_RETURN_IF_ERROR(json.read("add_prefix_space", adds_space));
  if (trims) space_trim_ = adds_space ? SpaceTrim::kAllButAdded : SpaceTrim::kAll;
  return {};
}

Status Template::read_special_ids(const JsonValue& json, const JsonValue& special_tokens,
                                  Item& item) {
  std::string name;
  TESSERA_RETURN_IF_ERROR(json.require("id", name));
  const JsonValue token = special_tokens[name];
  if (token.is_null()) {
    return json["id"].refuse(fmt::format("expected one of the special_tokens, found \"{}\"", name));
  }
  return token["ids"].each_element([&](size_t, const JsonValue& value) -> Status {
    TESSERA_ASSIGN_OR_RETURN(const int64_t id, value.integer(0, Vocabulary::kMaxId));
    item.ids.push_back(static_cast<int32_t>(id));
    return {};
  });
}

Status Template::read_items(const JsonValue& list, const JsonValue& special_tokens, Items& items) {
  items.clear();
  return list.each_element([&](size_t, const JsonValue& json) -> Status {
    const JsonValue sequence = json["Sequence"];
    const JsonValue special = json["SpecialToken"];
    const JsonValue& body = sequence.is_null() ? special : sequence;
    if (!body.is_object()) return json.wrong("{\"Sequence\": ...} or {\"SpecialToken\": ...}");
    Item item{Part::kSpecial, 0, {}};
    int64_t type_id = 0;
    TESSERA_RETURN_IF_ERROR(body.read("type_id", type_id, INT32_MAX));
    item.type_id = static_cast<int32_t>(type_id);
    if (sequence.is_null()) {
      TESSERA_RETURN_IF_ERROR(read_special_ids(body, special_tokens, item));
    } else {
      std::string name;
      TESSERA_RETURN_IF_ERROR(body.require("id", name));
      if (name != "A" && name != "B") return body["id"].wrong("\"A\" or \"B\"");
      item.part = name == "A" ? Part::kFirst : Part::kSecond;
    }
    items.push_back(std::move(item));
    return {};
  });
}

// A sequence left out, or there twice, would make lengths and truncation lie.
Status Template::check_sequences(const JsonValue& list, const Items& items, int sequences) {
  for (const Part part : {Part::kFirst, Part::kSecond}) {
    const bool is_first = part == Part::kFirst;
    const int wanted = is_first || sequences == 2 ? 1 : 0;
    const auto found = std::count_if(items.begin(), items.end(),
                                     [&](const Item& item) { return item.part == part; });
    if (found == wanted) continue;
    return list.refuse(fmt::format("expected the sequence \"{}\" {}, found it {} times",
                                   is_first ? "A" : "B", wanted == 1 ? "once" : "not at all",
                                   found));
  }
  return {};
}

Result<Template> Template::from_json(const JsonValue& json) {
  Template made;
  int count = 0;
  TESSERA_RETURN_IF_ERROR(
      each_step(json, "processors", [&](std::string_view type, const JsonValue& step) -> Status {
        if (type == "ByteLevel") return made.read_space_trim(step);  // adds no tokens
        if (++count > 1) {
          return unsupported(fmt::format(
              "{}: more than one post-processor that adds tokens is not supported", step.where()));
        }
        if (type == "BertProcessing") return made.read_classic(step, false);
        if (type == "RobertaProcessing") return made.read_classic(step, true);
        if (type != "TemplateProcessing") return unknown_type(step, "post-processor", type);
        TESSERA_RETURN_IF_ERROR(read_items(step["single"], step["special_tokens"], made.single_));
        TESSERA_RETURN_IF_ERROR(check_sequences(step["single"], made.single_, 1));
        if (step["pair"].is_null()) return {};
        TESSERA_RETURN_IF_ERROR(read_items(step["pair"], step["special_tokens"], made.pair_));
        return check_sequences(step["pair"], made.pair_, 2);
      }));
  return made;
}

Encoding Template::assemble(const Tokens& first, const Tokens* second,
                            SpecialTokens special) const {
  const Items& items = second == nullptr ? single_ : pair_;
  size_t size = special == SpecialTokens::kAdd ? special_count(second == nullptr ? 1 : 2) : 0;
  for (const Item& item : items) {
    if (item.part != Part::kSpecial)
      size += (item.part == Part::kFirst ? first : *second).ids.size();
  }
  Encoding encoding;
  encoding.ids.reserve(size);
  encoding.type_ids.reserve(size);
  if (first.has_spans) encoding.origins.reserve(size);
  for (const Item& item : items) {
    if (item.part == Part::kSpecial && special == SpecialTokens::kOmit) continue;
    const Tokens* text = item.part == Part::kFirst    ? &first
                         : item.part == Part::kSecond ? second
                                                      : nullptr;
    const std::vector<int32_t>& ids = text == nullptr ? item.ids : text->ids;
    encoding.ids.insert(encoding.ids.end(), ids.begin(), ids.end());
    encoding.type_ids.insert(encoding.type_ids.end(), ids.size(), item.type_id);
    if (text == nullptr) {
      if (first.has_spans) encoding.origins.resize(encoding.ids.size());
      continue;
    }
    for (const Span span : text->spans) {
      encoding.origins.push_back({item.part == Part::kFirst ? 0 : 1, span.begin, span.end});
    }
  }
  return encoding;
}

size_t Template::special_count(int sequences) const {
  size_t count = 0;
  for (const Item& item : sequences == 1 ? single_ : pair_) count += item.ids.size();
  return count;
}

int32_t Template::largest_id() const {
  int32_t largest = -1;
  for (const Items* items : {&single_, &pair_}) {
    for (const Item& item : *items) {
      for (const int32_t id : item.ids) largest = std::max(largest, id);
    }
  }
  return largest;
}

}  // namespace tessera::tokenizer
