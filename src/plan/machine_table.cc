// The machine table as a file.
#include <fmt/format.h>
#include <sys/stat.h>

#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/guarded.h"
#include "io/atomic_file.h"
#include "io/json.h"
#include "io/mapped_file.h"
#include "plan/machine.h"

namespace tessera {
namespace {

using nlohmann::ordered_json;

constexpr int64_t kVersion = 1;
constexpr size_t kMostBytes = 1 << 20;

ordered_json to_json(const MachineSpeeds& speeds) {
  ordered_json reads = ordered_json::array();
  for (const ReadSpeed& read : speeds.reads) {
    reads.push_back(
        {{"streams", read.streams}, {"huge_pages", read.huge_pages}, {"gb_per_s", read.gb_per_s}});
  }
  return {
      {"threads", speeds.threads},
      {"peak_gflops",
       {{"f32", speeds.f32_gflops}, {"bf16", speeds.bf16_gflops}, {"int8", speeds.int8_gflops}}},
      {"read_gb_per_s", speeds.read_gb_per_s},
      {"reads", std::move(reads)}};
}

// Reads members of one object and keeps the first failure.
class Reader {
 public:
  Reader(const Json& object, const std::string& where) : object_(object), where_(where) {}

  double number(const char* key) {
    const Json* value = object_.find(key);
    if (value != nullptr) {
      if (const auto* integer = value->as<int64_t>(); integer != nullptr && *integer >= 0)
        return static_cast<double>(*integer);
      if (const auto* real = value->as<double>(); real != nullptr && *real >= 0) return *real;
    }
    return fail(key, "a number of at least 0", value), 0;
  }
  int64_t integer(const char* key, int64_t least, int64_t most) {
    const Json* value = object_.find(key);
    const int64_t* found = value == nullptr ? nullptr : value->as<int64_t>();
    if (found != nullptr && *found >= least && *found <= most) return *found;
    return fail(key, fmt::format("an integer from {} to {}", least, most), value), 0;
  }
  bool truth(const char* key) {
    const Json* value = object_.find(key);
    if (value != nullptr && value->as<bool>() != nullptr) return *value->as<bool>();
    return fail(key, "true or false", value), false;
  }
  const Json::Array& list(const char* key) {
    static const Json::Array kNone;
    const Json* value = object_.find(key);
    if (value != nullptr && value->as<Json::Array>() != nullptr) return *value->as<Json::Array>();
    return fail(key, "a list", value), kNone;
  }
  const Json& object(const char* key) {
    static const Json kNone;
    const Json* value = object_.find(key);
    if (value != nullptr && value->as<Json::Object>() != nullptr) return *value;
    return fail(key, "an object", value), kNone;
  }
  const Status& status() const { return status_; }

 private:
  void fail(const char* key, const std::string& expected, const Json* found) {
    if (!status_.ok()) return;
    status_ = invalid_input(fmt::format("{}: {}: expected {}, found {}", where_, key, expected,
                                        found == nullptr ? "nothing" : shortened(*found)));
  }

  const Json& object_;
  const std::string& where_;
  Status status_;
};

Result<MachineSpeeds> speeds_from(const Json& json, const std::string& where) {
  MachineSpeeds speeds;
  Reader reader(json, where);
  speeds.threads = static_cast<int32_t>(reader.integer("threads", 1, 1 << 16));
  speeds.read_gb_per_s = reader.number("read_gb_per_s");
  Reader peaks(reader.object("peak_gflops"), where);
  speeds.f32_gflops = peaks.number("f32");
  speeds.bf16_gflops = peaks.number("bf16");
  speeds.int8_gflops = peaks.number("int8");
  for (const Json& entry : reader.list("reads")) {
    Reader read(entry, where);
    speeds.reads.push_back({static_cast<int32_t>(read.integer("streams", 1, 1 << 10)),
                            read.truth("huge_pages"), read.number("gb_per_s")});
    TESSERA_RETURN_IF_ERROR(read.status());
  }
  TESSERA_RETURN_IF_ERROR(reader.status());
  TESSERA_RETURN_IF_ERROR(peaks.status());
  return speeds;
}

Result<MachineTable> table_from(const Json& json, const std::string& source) {
  MachineTable table;
  Reader reader(json, source);
  const int64_t version = reader.integer("version", 1, INT64_MAX);
  TESSERA_RETURN_IF_ERROR(reader.status());
  if (version != kVersion) {
    return invalid_input(
        fmt::format("{}: expected version {} of the machine table, found {}; run `tessera machine`",
                    source, kVersion, version));
  }
  const Json* cpu = json.find("cpu");
  if (cpu == nullptr || cpu->as<std::string>() == nullptr)
    return invalid_input(fmt::format("{}: cpu: expected a text", source));
  table.cpu = *cpu->as<std::string>();
  Reader caches(reader.object("caches"), source);
  table.l1_data_bytes = caches.integer("l1_data_bytes", 0, INT64_MAX);
  table.l2_bytes = caches.integer("l2_bytes", 0, INT64_MAX);
  table.l3_bytes = caches.integer("l3_bytes", 0, INT64_MAX);
  for (const Json& entry : reader.list("speeds")) {
    TESSERA_ASSIGN_OR_RETURN(MachineSpeeds speeds, speeds_from(entry, source));
    table.speeds.push_back(std::move(speeds));
  }
  for (const Json& entry : reader.list("attention_crossovers")) {
    Reader crossover(entry, source);
    table.crossovers.push_back(
        {static_cast<int32_t>(crossover.integer("head_size", 1, 256)),
         static_cast<int32_t>(crossover.integer("on_the_fly_up_to_keys", 0, INT32_MAX - 1))});
    TESSERA_RETURN_IF_ERROR(crossover.status());
  }
  TESSERA_RETURN_IF_ERROR(caches.status());
  TESSERA_RETURN_IF_ERROR(reader.status());
  return table;
}

}  // namespace

const MachineSpeeds* MachineTable::at(int32_t threads) const {
  for (const MachineSpeeds& each : speeds) {
    if (each.threads == threads) return &each;
  }
  return nullptr;
}

std::string machine_table_path() {
  const auto variable = [](const char* name) -> std::string {
    const char* value = std::getenv(name);
    return value == nullptr ? "" : value;
  };
  if (const std::string path = variable("TESSERA_MACHINE"); !path.empty()) return path;
  if (const std::string cache = variable("XDG_CACHE_HOME"); !cache.empty())
    return cache + "/tessera/machine.json";
  const std::string home = variable("HOME");
  return home.empty() ? "" : home + "/.cache/tessera/machine.json";
}

Result<MachineTable> machine_table_from_json(const std::string& text, const std::string& source) {
  return guarded(source, [&]() -> Result<MachineTable> {
    TESSERA_ASSIGN_OR_RETURN(const Json json, parse_json(text, source));
    return table_from(json, source);
  });
}

Result<MachineTable> read_machine_table(const std::string& path) {
  TESSERA_ASSIGN_OR_RETURN(const std::string text, read_text_file(path, kMostBytes));
  TESSERA_ASSIGN_OR_RETURN(MachineTable table, machine_table_from_json(text, path));
  if (const std::string cpu = this_cpu(); table.cpu != cpu) {
    return invalid_input(
        fmt::format("{}: expected a table of this CPU ({}), found one of {}; run `tessera machine`",
                    path, cpu, quote(table.cpu)));
  }
  return table;
}

std::string machine_table_json(const MachineTable& table) {
  ordered_json speeds = ordered_json::array(), crossovers = ordered_json::array();
  for (const MachineSpeeds& each : table.speeds) speeds.push_back(to_json(each));
  for (const AttentionCrossover& each : table.crossovers) {
    crossovers.push_back(
        {{"head_size", each.head_size}, {"on_the_fly_up_to_keys", each.on_the_fly_up_to_keys}});
  }
  const ordered_json json = {{"version", kVersion},
                             {"cpu", table.cpu},
                             {"caches",
                              {{"l1_data_bytes", table.l1_data_bytes},
                               {"l2_bytes", table.l2_bytes},
                               {"l3_bytes", table.l3_bytes}}},
                             {"speeds", std::move(speeds)},
                             {"attention_crossovers", std::move(crossovers)}};
  return json.dump(1, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

Status write_machine_table(const MachineTable& table, const std::string& path) {
  return guarded(path, [&]() -> Status {
    const std::filesystem::path folder = std::filesystem::path(path).parent_path();
    std::error_code error;
    if (!folder.empty()) std::filesystem::create_directories(folder, error);
    if (error) {
      return io_error(
          fmt::format("cannot make the folder {}: {}", folder.string(), error.message()));
    }
    TESSERA_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::create(path));
    TESSERA_RETURN_IF_ERROR(file.append(machine_table_json(table)));
    return file.commit();
  });
}

}  // namespace tessera
