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
    "Accuracy, latency and size of variants of one model side by side: a table, the same as JSON,\n"
    "and a plot. RECIPE is JSON that names the variants, the tasks that they are evaluated on and\n"
    "the workloads that they are timed on. What is done is kept beside the output and not done\n"
    "again, so that a report that was interrupted goes on.",
    "  tessera report minilm.json -o minilm-report.md\n"
    "  tessera report minilm.json --set data=glue --set models=models --quick\n"};

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
    if (sign == 0 || sign == std::string::npos)
      usage_error(fmt::format("--set: expected NAME=VALUE, found \"{}\"", text));
    const std::string name = text.substr(0, sign);
    if (!options->parameters.emplace(name, text.substr(sign + 1)).second)
      usage_error(fmt::format("--set: expected each name once, found \"{}\" twice", name));
  }
}

std::string to_text(const Report& report) {
  std::vector<Column> columns;
  for (const std::string& title : report.summary.front())
    columns.push_back({title, columns.empty() ? Align::kLeft : Align::kRight});
  return format_table(columns, {report.summary.begin() + 1, report.summary.end()}) +
         fmt::format("\n{}\n", report.command);
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
  if (!report.ok()) return report.status();
  Output out;
  Status status = out.write(options.json ? report->json : to_text(*report));
  if (status.ok()) status = out.flush();
  if (status.ok() && is_terminal(stderr)) {
    fmt::print(stderr, "[{} written; {} of {} cells measured now]\n", report->files.front(),
               report->cells_measured, report->cells);
  }
  return status;
}

}  // namespace

int report_verb(const Arguments& arguments) {
  Options options;
  ReportOptions how;
  Parser parser(kSynopsis);
  parser.add_argument("RECIPE", &options.recipe, "What to report, as JSON");
  parser.add_text({"-o,--output", "FILE",
                   "The Markdown file to write, with .json and .svg beside it (default: "
                   "report-<recipe>.md here)"},
                  &options.output);
  parser.add_texts({"--set", "NAME=VALUE", "A value for a parameter of the recipe"},
                   &options.parameters);
  parser.add_flag("--quick", &options.quick, "Few examples and short turns, to see that it works");
  parser.add_flag("--fresh", &options.fresh, "Measure again what was measured before");
  parser.add_flag("--json", &options.json, "Print the report as JSON instead of the table");
  parser.then([&] { add_parameters(options.parameters, &how); });
  if (const auto code = parser.parse(arguments)) return *code;
  return finish(make(options, std::move(how)));
}

}  // namespace tessera::cli
