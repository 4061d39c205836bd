#include "tessera/version.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "cli/commit.h"
#include "cli/help.h"
#include "cli/terminal.h"
#include "cli/verbs.h"
#include "tessera/model.h"

namespace tessera::cli {
namespace {

constexpr Synopsis kSynopsis = {
    "version", "",
    "Shows the version, the commit that was built, the compiler, the CPU and the instruction sets "
    "that kernels use on it. tessera --version does the same.",
    "  tessera --version\n"
    "  tessera --version --json\n"};

#if defined(__clang__)
constexpr const char* kCompiler = "clang " __clang_version__;
#elif defined(__GNUC__)
constexpr const char* kCompiler = "GCC " __VERSION__;
#else
constexpr const char* kCompiler = "unknown";
#endif

std::string cpu_name() {
  constexpr std::string_view kKey = "model name";
  std::ifstream cpus("/proc/cpuinfo");
  for (std::string line; std::getline(cpus, line);) {
    const size_t colon = line.find(": ");
    if (line.starts_with(kKey) && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown";
}

// The rows that are first choice for some kernel are named after what they need, but for those
// that need nothing.
std::vector<std::string> instruction_sets() {
  std::vector<std::string> sets;
  const auto kernels = nlohmann::json::parse(kernels_json(), nullptr, false);
  for (const auto& kernel : kernels) {
    const std::string row = kernel.value("row", "");
    const bool is_used = kernel.value("state", "") == "first choice" &&
                         (row.starts_with("avx") || row.starts_with("amx"));
    if (is_used && std::find(sets.begin(), sets.end(), row) == sets.end()) sets.push_back(row);
  }
  std::sort(sets.begin(), sets.end());
  return sets;
}

std::string as_text() {
  const std::string commit = kCommit;
  const std::vector<std::string> sets = instruction_sets();
  std::string text = "tessera " TESSERA_VERSION;
  if (!commit.empty()) text += fmt::format(" (commit {})", commit);
  text += fmt::format("\nCompiler: {}\nCPU: {}\nKernels: {}\n", kCompiler, cpu_name(),
                      sets.empty() ? "ref" : fmt::format("{}", fmt::join(sets, ", ")));
  return wrapped(text, terminal_width(stdout).value_or(kUsualWidth));
}

std::string as_json() {
  const std::string commit = kCommit;
  nlohmann::ordered_json json = {{"version", TESSERA_VERSION},
                                 {"commit", nullptr},
                                 {"compiler", kCompiler},
                                 {"cpu", cpu_name()},
                                 {"instruction_sets", instruction_sets()}};
  if (!commit.empty()) json["commit"] = commit;
  return json.dump(2) + "\n";
}

}  // namespace

int version_verb(const Arguments& arguments) {
  bool json = false;
  Parser parser(kSynopsis);
  parser.group("Output");
  parser.add_flag("--json", &json, "Print an object of JSON.");
  if (const auto code = parser.parse(arguments)) return *code;
  Output out;
  Status status = out.write(json ? as_json() : as_text());
  if (status.ok()) status = out.flush();
  return finish(status);
}

}  // namespace tessera::cli
