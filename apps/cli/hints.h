#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cli/description.h"

// What a message adds for a word that is not one of ours.
namespace tessera::cli {

// The candidate that the word is a slip of: at most a third of the letters are wrong, or one of
// the two begins with the other. Empty when there is none.
std::string nearest(std::string_view word, const std::vector<std::string>& candidates);

// "; did you mean X?", or nothing.
std::string did_you_mean(std::string_view word, const std::vector<std::string>& candidates);

// What to write for another tool's option, as "--n-predict": one sentence, or nothing when no tool
// that we know has it.
std::string foreign_option_hint(std::string_view option, const VerbDescription& verb);

// What to write for another tool's data type, as "q8_0", where one of `choices` does the same:
// one sentence, or nothing.
std::string foreign_type_hint(std::string_view word, const std::vector<std::string>& choices);

}  // namespace tessera::cli
