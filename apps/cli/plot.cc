#include <optional>

#include "cli/inputs.h"
#include "cli/terminal.h"
#include "cli/verbs.h"
#include "tessera/report.h"

namespace tessera::cli {
namespace {

constexpr Synopsis kSynopsis = {"plot", "FILE",
                                "Draws the points and lines in a JSON file as SVG; reports and "
                                "benchmarks draw with it. FILE may "
                                "be - for standard input.",
                                "  tessera plot times.json -o times.svg\n"
                                "  tessera plot - < times.json > times.svg\n"};

struct Options {
  std::string input;
  std::optional<std::string> output;
};

Status plot(const Options& options) {
  const Result<std::string> json = read_text(options.input);
  if (!json.ok()) return json.status();
  const std::string name = options.input == "-" ? "standard input" : options.input;
  if (options.output) return write_plot(*json, name, *options.output);
  const Result<std::string> svg = draw_plot(*json, name);
  if (!svg.ok()) return svg.status();
  Output out;
  Status status = out.write(*svg);
  return status.ok() ? out.flush() : status;
}

}  // namespace

int plot_verb(const Arguments& arguments) {
  Options options;
  Parser parser(kSynopsis);
  parser.add_argument("FILE", &options.input, "What to draw, as JSON.");
  parser.group("Output");
  parser.add_text({"-o,--output", "FILE", "Write the SVG to FILE instead of standard output."},
                  &options.output);
  if (const auto code = parser.parse(arguments)) return *code;
  return finish(plot(options));
}

}  // namespace tessera::cli
