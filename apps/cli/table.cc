#include "cli/table.h"

#include <algorithm>

namespace tessera::cli {
namespace {

size_t width_of(const std::string& text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; });
}

std::string format_row(const std::vector<Column>& columns, const std::vector<size_t>& widths,
                       const std::vector<std::string>& cells) {
  std::string line;
  for (size_t c = 0; c < columns.size(); ++c) {
    const std::string cell = c < cells.size() ? cells[c] : "";
    const std::string space(widths[c] - width_of(cell), ' ');
    line += columns[c].align == Align::kLeft ? cell + space : space + cell;
    line += "  ";
  }
  line.erase(line.find_last_not_of(' ') + 1);
  return line + "\n";
}

}  // namespace

std::string format_table(const std::vector<Column>& columns,
                         const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::string> titles;
  std::vector<size_t> widths;
  size_t heading = 0;
  for (size_t c = 0; c < columns.size(); ++c) {
    titles.push_back(columns[c].title);
    heading += columns[c].title.size();
    widths.push_back(width_of(columns[c].title));
    for (const auto& row : rows) {
      if (c < row.size()) widths[c] = std::max(widths[c], width_of(row[c]));
    }
  }
  std::string text = heading > 0 ? format_row(columns, widths, titles) : "";
  for (const auto& row : rows) text += format_row(columns, widths, row);
  return text;
}

}  // namespace tessera::cli
