#pragma once

#include <string>
#include <vector>

namespace tessera::cli {

enum class Align { kLeft, kRight };

struct Column {
  std::string title;  // all titles empty: no heading
  Align align = Align::kLeft;
};

// Columns two spaces apart, as wide as their widest cell; a line each, without trailing spaces.
// Cells are UTF-8 of characters one column wide; missing cells are empty.
std::string format_table(const std::vector<Column>& columns,
                         const std::vector<std::vector<std::string>>& rows);

}  // namespace tessera::cli
