#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "tessera/export.h"
#include "tessera/names.h"
#include "tessera/status.h"

// What variants of one model cost and give: accuracy, latency and size side by side, from a recipe
// (docs/verbs/report.md); and the plots of reports and benchmarks.
namespace tessera {

struct ReportOptions {
  // The file to write, ending in ".md"; the same in JSON and the plot as SVG stand beside it, and
  // what was measured in a folder of that name ending in ".cells".
  std::string output = {};
  // Values for the recipe's parameters.
  std::map<std::string, std::string> parameters = {};
  // kQuick: few examples and short turns, to see that a recipe works.
  enum class Effort { kFull, kQuick } effort = Effort::kFull;
  // Whether cells that are done are used, or measured again.
  enum class Cells { kUse, kMeasureAgain } cells = Cells::kUse;
  // Called with what is being done, steps done and their number (0: unknown); false stops with
  // kCancelled. What is done by then is kept.
  std::function<bool(const std::string& what, int64_t done, int64_t total)> on_progress = {};
};
constexpr auto names_of(ReportOptions::Cells) { return enum_names("use", "measure_again"); }
constexpr auto names_of(ReportOptions::Effort) { return enum_names("full", "quick"); }

struct Report {
  std::string markdown = {}, json = {}, svg = {};  // as the files hold them
  std::vector<std::string> files = {};             // that were written
  std::string command = {};                        // that makes the same again
  // The table in short: the headings, then a row a variant.
  std::vector<std::vector<std::string>> summary = {};
  int64_t cells = 0, cells_measured = 0;  // all, and those that were not there
};

// Evaluates and times what the recipe says, a cell at a time, and writes the three files, each
// whole or not at all. Variants take turns in rounds, in this process; those that do not fit into
// the memory together are loaded for every turn. kInvalidInput names the recipe's key that is
// wrong, kNotFound the file that it names.
TESSERA_API Result<Report> make_report(const std::string& recipe, const ReportOptions& options);

// A plot as SVG from its JSON (docs/verbs/plot.md); `source` opens messages. write_plot replaces
// the file whole or leaves it as it was.
TESSERA_API Result<std::string> draw_plot(const std::string& json, const std::string& source);
TESSERA_API Status write_plot(const std::string& json, const std::string& source,
                              const std::string& svg_path);

}  // namespace tessera
