#pragma once

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "tessera/tokenizer.h"
#include "tokenizer/components.h"
#include "tokenizer/json_value.h"

namespace tessera::tokenizer {

// Which spaces at the ends of tokens their origins leave out: all, or all but a single one before
// the first token, which the pre-tokenizer may have added.
enum class SpaceTrim { kNone, kAll, kAllButAdded };

// How one or two sequences and the special tokens of a model make up its input.
class Template {
 public:
  // Reads a "post_processor"; null gives the sequences alone.
  static Result<Template> from_json(const JsonValue& json);

  // second is null for a single sequence.
  Encoding assemble(const Tokens& first, const Tokens* second, SpecialTokens special) const;
  // How many special tokens one or two sequences get.
  size_t special_count(int sequences) const;
  // The largest id of a special token, -1 without any.
  int32_t largest_id() const;
  SpaceTrim space_trim() const { return space_trim_; }

 private:
  enum class Part { kFirst, kSecond, kSpecial };
  struct Item {
    Part part;
    int32_t type_id = 0;
    std::vector<int32_t> ids;  // of kSpecial
  };
  using Items = std::vector<Item>;
  static Status read_items(const JsonValue& list, const JsonValue& special_tokens, Items& items);
  static Status read_special_ids(const JsonValue& json, const JsonValue& special_tokens,
                                 Item& item);
  static Status check_sequences(const JsonValue& list, const Items& items, int sequences);
  Status read_classic(const JsonValue& json, bool is_roberta);
  Status read_space_trim(const JsonValue& json);

  SpaceTrim space_trim_ = SpaceTrim::kNone;
  Items single_ = {{Part::kFirst, 0, {}}};
  Items pair_ = {{Part::kFirst, 0, {}}, {Part::kSecond, 1, {}}};
};

}  // namespace tessera::tokenizer
