// Any bytes as the files of before tokenizer.json (vocab.txt; vocab.json and merges.txt) and those
// beside them are refused with a sentence, or give a tokenizer as any other.

#include <array>

#include "support/tokenizer_checks.h"

namespace tessera::fuzz {

void check(std::string_view input) {
  static const Folder folder;
  constexpr std::array<const char*, 7> kNames = {"vocab.json",       "merges.txt",
                                                 "vocab.txt",        "tokenizer_config.json",
                                                 "config.json",      "special_tokens_map.json",
                                                 "added_tokens.json"};
  std::vector<std::string_view> sections = sections_of(input);
  sections.resize(kNames.size());
  for (size_t i = 0; i < kNames.size(); ++i) folder.put_or_remove(kNames[i], sections[i]);
  check_tokenizer(Tokenizer::open(folder.path()), input);
}

}  // namespace tessera::fuzz
