#include "cli/table.h"

#include <algorithm>
#include <numeric>
#include <sstream>

#include "cli/help.h"
#include "cli/terminal.h"

namespace tessera::cli {
namespace {

using Rows = std::vector<std::vector<std::string>>;

constexpr int kGap = 2;
constexpr int kLeastColumn = 12;  // narrower prose is hard to read

std::vector<int> widths_of(const std::vector<Column>& columns, const Rows& rows) {
  std::vector<int> widths;
  for (size_t c = 0; c < columns.size(); ++c) {
    widths.push_back(columns_of(columns[c].title));
    for (const auto& row : rows) {
      if (c < row.size()) widths[c] = std::max(widths[c], columns_of(row[c]));
    }
  }
  return widths;
}

int whole_width(const std::vector<int>& widths) {
  return std::accumulate(widths.begin(), widths.end(), 0) +
         kGap * static_cast<int>(widths.size() - 1);
}

// The longest word of each column, which cannot be wrapped.
std::vector<int> least_widths(const std::vector<Column>& columns, const Rows& rows) {
  std::vector<int> least;
  for (size_t c = 0; c < columns.size(); ++c) {
    least.push_back(kLeastColumn);
    const auto add = [&](const std::string& cell) {
      std::istringstream words(cell);
      for (std::string word; words >> word;) least[c] = std::max(least[c], columns_of(word));
    };
    add(columns[c].title);
    for (const auto& row : rows) add(c < row.size() ? row[c] : "");
  }
  return least;
}

// Takes from the widest columns of text what is too much; false: there is not so much to take.
bool narrow(const std::vector<Column>& columns, const std::vector<int>& least, int width,
            std::vector<int>* widths) {
  while (whole_width(*widths) > width) {
    int* widest = nullptr;
    for (size_t c = 0; c < columns.size(); ++c) {
      int& each = (*widths)[c];
      if (columns[c].align == Align::kLeft && each > least[c] &&
          (widest == nullptr || each > *widest)) {
        widest = &each;
      }
    }
    if (widest == nullptr) return false;
    --*widest;
  }
  return true;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

std::string format_row(const std::vector<Column>& columns, const std::vector<int>& widths,
                       const std::vector<std::string>& cells) {
  std::vector<std::vector<std::string>> parts;  // of each cell, below one another
  size_t height = 1;
  for (size_t c = 0; c < columns.size(); ++c) {
    const std::string cell = c < cells.size() ? cells[c] : "";
    const bool fits = columns_of(cell) <= widths[c];
    parts.push_back(fits ? std::vector<std::string>{cell} : lines_of(wrapped(cell, widths[c])));
    height = std::max(height, parts.back().size());
  }
  std::string text;
  for (size_t l = 0; l < height; ++l) {
    std::string line;
    for (size_t c = 0; c < columns.size(); ++c) {
      const std::string part = l < parts[c].size() ? parts[c][l] : "";
      const std::string space(static_cast<size_t>(std::max(0, widths[c] - columns_of(part))), ' ');
      line += columns[c].align == Align::kLeft ? part + space : space + part;
      line.append(kGap, ' ');
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  return text;
}

// A block of lines for each row.
std::string format_blocks(const std::vector<Column>& columns, const Rows& rows, int width) {
  std::string text;
  for (const auto& row : rows) {
    if (!text.empty()) text += "\n";
    for (size_t c = 0; c < columns.size() && c < row.size(); ++c) {
      if (row[c].empty()) continue;
      const std::string& title = columns[c].title;
      text += wrapped(title.empty() ? row[c] : title + ": " + row[c], width);
    }
  }
  return text;
}

}  // namespace

std::string format_table(const std::vector<Column>& columns, const Rows& rows,
                         std::optional<int> width) {
  std::vector<std::string> titles;
  bool has_heading = false;
  for (const Column& column : columns) {
    titles.push_back(column.title);
    has_heading = has_heading || !column.title.empty();
  }
  std::vector<int> widths = widths_of(columns, rows);
  if (width && !narrow(columns, least_widths(columns, rows), *width, &widths))
    return format_blocks(columns, rows, *width);
  std::string text = has_heading ? format_row(columns, widths, titles) : "";
  for (const auto& row : rows) text += format_row(columns, widths, row);
  return text;
}

std::string format_table(const std::vector<Column>& columns, const Rows& rows) {
  return format_table(columns, rows, terminal_width(stdout));
}

}  // namespace tessera::cli
