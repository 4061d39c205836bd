#include "tessera/machine.h"

#include <fmt/format.h>

#include <optional>

#include "cli/table.h"
#include "cli/terminal.h"
#include "cli/verbs.h"

namespace tessera::cli {
namespace {

constexpr Synopsis kSynopsis = {
    "machine", "",
    "Measures the limits of this machine: arithmetic for each data type, reading memory, and the "
    "lengths at which one attention method overtakes another. The result is kept in a file, for "
    "bench --roofline and for the plan of every model that is loaded from then on; nothing is "
    "measured again unless this is run again. Run it while the machine does nothing else.",
    "  tessera machine\n"
    "  tessera machine --show                  # what was kept\n"
    "  tessera machine --threads 1,2 --json -o table.json\n"};

constexpr double kQuickSeconds = 0.03;
constexpr int64_t kQuickReadBytes = 64 << 20;
constexpr int32_t kQuickKeys = 1024;

struct Options {
  std::vector<int64_t> threads;
  std::optional<std::string> output;
  bool show = false;
  bool quick = false;
  bool no_keep = false;
  bool json = false;
};

std::string best_read(const MachineSpeeds& speeds) {
  for (const ReadSpeed& read : speeds.reads) {
    if (read.gb_per_s != speeds.read_gb_per_s) continue;
    return fmt::format("{}, {} pages", counted(read.streams, "streams"),
                       read.huge_pages ? "huge" : "small");
  }
  return "";
}

std::string rate(double value) { return value == 0 ? "-" : fmt::format("{:.1f}", value); }

std::string to_text(const MachineTable& table) {
  std::string text = fmt::format("{}\ncaches: {} first level (data), {} second, {} third\n\n",
                                 table.cpu, human_bytes(table.l1_data_bytes),
                                 human_bytes(table.l2_bytes), human_bytes(table.l3_bytes));
  constexpr Align kRight = Align::kRight;
  std::vector<std::vector<std::string>> rows;
  for (const MachineSpeeds& each : table.speeds) {
    rows.push_back({std::to_string(each.threads), rate(each.f32_gflops), rate(each.bf16_gflops),
                    rate(each.int8_gflops), rate(each.read_gb_per_s), best_read(each)});
  }
  text += format_table({{"threads", kRight},
                        {"f32 GFLOP/s", kRight},
                        {"bf16", kRight},
                        {"int8", kRight},
                        {"read GB/s", kRight},
                        {"best with", Align::kLeft}},
                       rows);
  text += "\n";
  for (const AttentionCrossover& each : table.crossovers) {
    text += fmt::format("attention, head size {}: whole score rows up to {} keys, then flash\n",
                        each.head_size, each.on_the_fly_up_to_keys);
  }
  return text;
}

Result<MachineTable> measure(const Options& options) {
  const Interrupt interrupt;
  std::optional<Progress> progress;
  MachineOptions how;
  for (const int64_t threads : options.threads)
    how.threads.push_back(static_cast<int32_t>(threads));
  if (options.quick) {
    how.seconds = kQuickSeconds;
    how.read_bytes = kQuickReadBytes;
    how.most_keys = kQuickKeys;
  }
  how.on_progress = [&](int64_t done, int64_t total) {
    if (!progress) progress.emplace("measuring", total);
    progress->update(done);
    return !interrupt.requested();
  };
  return measure_machine(how);
}

// The file to keep the table in, "" for none: what was measured in a hurry is not kept unless a
// file is named for it.
Result<std::string> place_of(const Options& options) {
  if (options.show || options.no_keep || (options.quick && !options.output)) return std::string();
  std::string path = options.output.value_or(machine_table_path());
  if (!path.empty()) return path;
  return invalid_input(
      "expected a place for the table from TESSERA_MACHINE, XDG_CACHE_HOME or HOME, found none: "
      "name one with -o");
}

Status keep(const Options& options, const MachineTable& table, const std::string& path) {
  if (path.empty()) return {};
  if (Status status = write_machine_table(table, path); !status.ok()) return status;
  if (!options.json && is_terminal(stderr)) note(fmt::format("kept in {}", path));
  return {};
}

Status machine(const Options& options) {
  const Result<std::string> place = place_of(options);
  if (!place.ok()) return place.status();
  Result<MachineTable> table =
      options.show ? read_machine_table(machine_table_path()) : measure(options);
  if (!table.ok() && options.show && table.status().code() == StatusCode::kNotFound)
    return not_found("no table was kept: run tessera machine");
  if (!table.ok()) return table.status();
  const Status kept = keep(options, *table, *place);
  // What was measured is told even where it could not be kept.
  Output out;
  Status status = out.write(options.json ? machine_table_json(*table) : to_text(*table));
  if (status.ok()) status = out.flush();
  return kept.ok() ? status : kept;
}

}  // namespace

int machine_verb(const Arguments& arguments) {
  Options options;
  Parser parser(kSynopsis);
  parser.group("Measuring");
  parser.add_integers({"-t,--threads", 1, 65536,
                       "Measure with these numbers of threads (default: 1 and one for each CPU)."},
                      &options.threads);
  const Option quick =
      parser.add_flag("--quick", &options.quick,
                      "Measure roughly, in seconds; the result is kept only with --output.");
  parser.group("Output");
  const Option output =
      parser.add_text({"-o,--output", "FILE", "Keep the table in FILE instead of the usual place."},
                      &options.output);
  const Option show =
      parser.add_flag("--show", &options.show, "Print the table that was kept; measure nothing.");
  const Option no_keep =
      parser.add_flag("--no-keep", &options.no_keep, "Print the table without keeping it.");
  show.excludes({output, no_keep, quick});
  no_keep.excludes({output});
  parser.add_flag("--json", &options.json, "Print JSON instead of a table.");
  if (const auto code = parser.parse(arguments)) return *code;
  return finish(machine(options));
}

}  // namespace tessera::cli
