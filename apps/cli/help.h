#pragma once

#include <string>
#include <string_view>

#include "cli/description.h"

namespace tessera::cli {

// Prose in lines of at most `width` columns, each behind `indent` spaces; line breaks of the text
// are kept and longer words stand alone. Widths count Unicode code points. Ends with a line end.
std::string wrapped(std::string_view text, int width, int indent = 0);

// Columns of a text, in Unicode code points.
int columns_of(std::string_view text);

// What --help prints: usage, summary, options by group, examples.
std::string help_of(const VerbDescription& verb, int width);

}  // namespace tessera::cli
