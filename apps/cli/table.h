#pragma once

#include <optional>
#include <string>
#include <vector>

namespace tessera::cli {

enum class Align { kLeft, kRight };

struct Column {
  std::string title;  // all titles empty: no heading
  Align align = Align::kLeft;
};

// Columns two spaces apart, as wide as their widest cell; a line each, without trailing spaces.
// Cells are UTF-8 of characters one column wide; missing cells are empty. A table that is wider
// than `width` has its text wrapped in narrower columns on the left; where even that is too wide
// every row becomes lines of its own, "title: cell".
std::string format_table(const std::vector<Column>& columns,
                         const std::vector<std::vector<std::string>>& rows,
                         std::optional<int> width);
// As wide as the terminal that standard output is; as wide as the cells where it is none.
std::string format_table(const std::vector<Column>& columns,
                         const std::vector<std::vector<std::string>>& rows);

}  // namespace tessera::cli
