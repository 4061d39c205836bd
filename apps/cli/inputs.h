#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tessera/status.h"

namespace tessera::cli {

// Whether a file's name ends so, in letters of either case.
bool has_ending(std::string_view path, std::string_view ending);

// The whole of a file; "-" is standard input.
Result<std::string> read_text(const std::string& path);

// "5,9,3" or "[5, 9, 3]": one or more integers from 0 to 2^31 - 1.
Result<std::vector<int32_t>> parse_ids(std::string_view text);

// "5,9,3"
std::string join_ids(const std::vector<int32_t>& ids);

}  // namespace tessera::cli
