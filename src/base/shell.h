#pragma once

#include <string>
#include <vector>

namespace tessera {

// A word, or the words of a command, as a POSIX shell reads them back.
std::string shell_quote(const std::string& word);
std::string shell_command(const std::vector<std::string>& words);

}  // namespace tessera
