#include "plan/machine.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "base/isa.h"

namespace tessera {
namespace {

MachineTable example() {
  MachineTable table{.cpu = this_cpu(), .l1_data_bytes = 32768, .l2_bytes = 1 << 20};
  table.speeds = {{.threads = 1,
                   .f32_gflops = 100.5,
                   .int8_gflops = 400,
                   .reads = {{1, false, 9.5}, {8, true, 12}},
                   .read_gb_per_s = 12},
                  {.threads = 4, .f32_gflops = 390, .read_gb_per_s = 30}};
  table.crossovers = {{64, 1024}, {128, 512}};
  return table;
}

TEST(Machine, ATableIsReadAsItWasWritten) {
  const std::string folder = ::testing::TempDir() + "/machine_test";
  std::filesystem::remove_all(folder);
  const std::string path = folder + "/deep/machine.json";
  EXPECT_EQ(read_machine_table(path).status().code(), StatusCode::kNotFound);
  ASSERT_TRUE(write_machine_table(example(), path).ok());
  const auto table = read_machine_table(path);
  ASSERT_TRUE(table.ok()) << table.status().message();
  EXPECT_EQ(machine_table_json(*table), machine_table_json(example()));
  ASSERT_NE(table->at(4), nullptr);
  EXPECT_EQ(table->at(4)->f32_gflops, 390);
  EXPECT_EQ(table->at(3), nullptr);
}

TEST(Machine, ATableOfAnotherCpuIsRefused) {
  MachineTable table = example();
  table.cpu = "Another CPU";
  const std::string path = ::testing::TempDir() + "/machine_other.json";
  ASSERT_TRUE(write_machine_table(table, path).ok());
  const Status status = read_machine_table(path).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidInput);
  EXPECT_NE(status.message().find("Another CPU"), std::string::npos) << status.message();
}

TEST(Machine, WrongFilesAreRefusedWithExpectedAndFound) {
  const std::string whole = machine_table_json(example());
  const auto refused = [&](const std::string& from, const std::string& to) {
    std::string text = whole;
    const size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    text.replace(at, from.size(), to);
    const Status status = machine_table_from_json(text, "file").status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidInput) << to;
    EXPECT_NE(status.message().find("expected"), std::string::npos) << status.message();
  };
  refused("\"version\": 1", "\"version\": 2");
  refused("\"version\"", "\"vision\"");
  refused("\"threads\": 4", "\"threads\": 0");
  refused("\"threads\": 4", "\"threads\": 4.5");
  refused("100.5", "-1");
  refused("\"huge_pages\": true", "\"huge_pages\": 1");
  refused("\"head_size\": 64", "\"head_size\": 257");
  refused("\"attention_crossovers\"", "\"crossovers\"");
  refused("\"speeds\": [", "\"speeds\": [3, ");
  for (size_t length = 0; length + 2 < whole.size(); length += 7)
    EXPECT_FALSE(machine_table_from_json(whole.substr(0, length), "file").ok()) << length;
}

TEST(Machine, CpuNameIsTheModelName) {
  EXPECT_EQ(cpu_name("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t: fpu\n"),
            "Some CPU @ 2 GHz");
  EXPECT_EQ(cpu_name("model name\t: Last"), "Last");
  EXPECT_EQ(cpu_name("model name\nother: x"), "unknown");
  EXPECT_EQ(cpu_name(""), "unknown");
}

TEST(Machine, PathFollowsTheEnvironment) {
  ::setenv("TESSERA_MACHINE", "/a/b.json", 1);
  EXPECT_EQ(machine_table_path(), "/a/b.json");
  ::unsetenv("TESSERA_MACHINE");
  ::setenv("XDG_CACHE_HOME", "/cache", 1);
  EXPECT_EQ(machine_table_path(), "/cache/tessera/machine.json");
  ::unsetenv("XDG_CACHE_HOME");
  ::setenv("HOME", "/home/x", 1);
  EXPECT_EQ(machine_table_path(), "/home/x/.cache/tessera/machine.json");
}

TEST(Machine, MeasuresWhatThisCpuHas) {
  int64_t steps = 0, expected_steps = 0;
  const auto table = measure_machine({.threads = {1},
                                      .seconds = 0.001,
                                      .read_bytes = 4 << 20,
                                      .most_keys = 256,
                                      .on_progress = [&](int64_t done, int64_t total) {
                                        steps = done;
                                        expected_steps = total;
                                        return true;
                                      }});
  ASSERT_TRUE(table.ok()) << table.status().message();
  EXPECT_EQ(steps, expected_steps);
  ASSERT_EQ(table->speeds.size(), 1u);
  const MachineSpeeds& speeds = table->speeds[0];
  EXPECT_EQ(speeds.f32_gflops > 0, available(Isa::kAvx2));
  EXPECT_EQ(speeds.bf16_gflops > 0, available(Isa::kAvx512Bf16));
  EXPECT_EQ(speeds.int8_gflops > 0, available(Isa::kAvx512Vnni));
  EXPECT_EQ(speeds.reads.size(), 10u);
  EXPECT_GT(speeds.read_gb_per_s, 0);
  EXPECT_EQ(table->crossovers.size(), 2u);
}

TEST(Machine, CancelsAndRefuses) {
  const Status cancelled =
      measure_machine(
          {.threads = {1}, .seconds = 0.001, .on_progress = [](int64_t, int64_t) { return false; }})
          .status();
  EXPECT_EQ(cancelled.code(), StatusCode::kCancelled);
  EXPECT_EQ(measure_machine({.threads = {0}}).status().code(), StatusCode::kInvalidInput);
  EXPECT_EQ(measure_machine({.threads = {1 << 20}}).status().code(), StatusCode::kInvalidInput);
}

}  // namespace
}  // namespace tessera
