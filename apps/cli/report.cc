#include "tessera/report.h"

#include <fmt/format.h>

#include <functional>
#include <optional>

#include "cli/table.h"
#include "cli/terminal.h"
#include "cli/verbs.h"

namespace tessera::cli {
namespace {

constexpr Synopsis kSynopsis = {
    "report", "RECIPE",
    "Compares the accuracy, latency and size of variants of one model: a table, the same as JSON, "
    "and "
    "a plot. RECIPE is a JSON file that names the variants, the tasks on which they are evaluated "
    "and "
    "the workloads with which they are timed. What has been measured is kept next to the output, "
    "so a "
    "report that was interrupted goes on where it stopped.",
    "  tessera report examples/recipes/tales.json -o tales-report.md\n"
    "  tessera report recipe.json --set data=glue --set models=models --quick\n"};

struct Options {
  std::string recipe;
  std::optional<std::string> output;
  std::vector<std::string> parameters;
  bool quick = false;
  bool fresh = false;
  bool json = false;
};

// "dir/minilm.json" gives "report-minilm.md", here.
std::string default_output(const std::string& recipe) {
  const std::string file = recipe.substr(recipe.rfind('/') + 1);
  return "report-" + file.substr(0, file.rfind('.')) + ".md";
}

// Parameters as name=value.
void add_parameters(const std::vector<std::string>& given, ReportOptions* options) {
  for (const std::string& text : given) {
    const size_t sign = text.find('=');
    if (sign == 0 || sign == std::string::npos) bad_value("--set", "NAME=VALUE", text);
    const std::string name = text.substr(0, sign);
    if (!options->parameters.emplace(name, text.substr(sign + 1)).second)
      usage_error(fmt::format("--set: expected each name once, found \"{}\" twice", name));
  }
}

std::string to_text(const Report& report) {
  std::vector<Column> columns;
  for (const std::string& title : report.summary.front())
    columns.push_back({title, columns.empty() ? Align::kLeft : Align::kRight});
  std::string files;
  for (size_t i = 0; i < report.files.size(); ++i)
    files += (i == 0 ? "" : i + 1 < report.files.size() ? ", " : " and ") + report.files[i];
  return format_table(columns, {report.summary.begin() + 1, report.summary.end()}) +
         fmt::format("\nWritten: {}. Made again by:\n  {}\n", files, report.command);
}

Status make(const Options& options, ReportOptions how) {
  how.output = options.output.value_or(default_output(options.recipe));
  if (options.quick) how.effort = ReportOptions::Effort::kQuick;
  if (options.fresh) how.cells = ReportOptions::Cells::kMeasureAgain;
  Result<Report> report = [&] {
    const Interrupt interrupt;
    Steps steps;
    how.on_progress = std::ref(steps);
    return make_report(options.recipe, how);
  }();
  if (report.status().code() == StatusCode::kCancelled) {
    complain(fmt::format("interrupted; what was measured is kept, and the same command{} goes on",
                         options.fresh ? " without --fresh" : ""));
  }
  if (!report.ok()) return report.status();
  Output out;
  Status status = out.write(options.json ? report->json : to_text(*report));
  if (status.ok()) status = out.flush();
  if (status.ok() && is_terminal(stderr)) {
    note(fmt::format("{} of {} cells measured now", report->cells_measured, report->cells));
  }
  return status;
}

}  // namespace

int report_verb(const Arguments& arguments) {
  Options options;
  ReportOptions how;
  Parser parser(kSynopsis);
  parser.add_argument("RECIPE", &options.recipe, "What to report, as JSON.");
  parser.group("Output");
  parser.add_text({"-o,--output", "FILE",
                   "Write the Markdown to FILE, with .json and .svg next to it (default: "
                   "report-<recipe>.md in this directory)."},
                  &options.output);
  parser.group("Measuring");
  parser.add_texts({"--set", "NAME=VALUE", "Set a parameter of the recipe; may be repeated."},
                   &options.parameters);
  parser.add_flag("--quick", &options.quick,
                  "Use few examples and short measurements, to see that it works.");
  parser.add_flag("--fresh", &options.fresh, "Measure again what was measured before.");
  parser.group("Output");
  parser.add_flag("--json", &options.json, "Print the report as JSON instead of the table.");
  parser.then([&] { add_parameters(options.parameters, &how); });
  if (const auto code = parser.parse(arguments)) return *code;
  return finish(make(options, std::move(how)));
}

}  // namespace tessera::cli
