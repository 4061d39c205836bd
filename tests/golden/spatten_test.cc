// The authors' own runs of SpAtten on GPT-2, one row for each generated token, layer and head,
// beside what the project counts for the published schedules.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <tuple>
#include <vector>

#include "attention/cache_reads.h"
#include "attention/method.h"
#include "pruning/presets.h"
#include "pruning/schedule.h"

namespace tessera {
namespace {

constexpr int32_t kPrompt = 992, kGenerated = 32, kPositions = 1024;

struct Fetch {
  int32_t step, layer, head, length, keys, values;
  int32_t key_bits, value_bits, lower_bits;  // -1: not quantized
  bool refetched;
};

// Empty where the folder of data is absent.
std::vector<Fetch> read_run(const std::string& name) {
  const char* shared = std::getenv("TESSERA_SHARED");
  if (shared == nullptr) return {};
  std::ifstream file(std::string(shared) + "/data/spatten-traces/" + name);
  std::vector<Fetch> rows;
  std::map<std::string, size_t> columns;
  for (std::string line; std::getline(file, line);) {
    std::vector<std::string> cells;
    std::istringstream text(line);
    for (std::string cell; std::getline(text, cell, ',');) cells.push_back(cell);
    if (columns.empty()) {
      for (size_t i = 0; i < cells.size(); ++i) columns[cells[i]] = i;
      continue;
    }
    // The last line names the run.
    if (cells.size() < columns.size()) continue;
    const auto number = [&](const char* column) { return std::stoi(cells[columns.at(column)]); };
    rows.push_back({.step = number("iteration_id"),
                    .layer = number("layer_id"),
                    .head = number("head_id"),
                    .length = number("sentence_length_L"),
                    .keys = number("key_fetch_num"),
                    .values = number("value_fetch_num"),
                    .key_bits = number("quant_key_bit"),
                    .value_bits = number("quant_value_bit"),
                    .lower_bits = number("auto_requant_incre"),
                    .refetched = cells[columns.at("if_requant")] == "True"});
  }
  return rows;
}

constexpr const char* kSmall = "summary-gpt2-small-wikitext2-per8.csv";
constexpr const char* kSmallDense = "summary-gpt2-small-wikitext2-per8-step1+dedic.csv";
constexpr const char* kMedium =
    "summary-gpt2-medium-wikitext2-per0-hp-step5+dedic+glob_p+local_p+hp+topk+quant.csv";
constexpr const char* kMediumDense = "summary-gpt2-medium-ptb-per0.csv";

PruningSchedule preset(const std::string& name, const ScheduledModel& model) {
  const auto found = find_schedule(name);
  EXPECT_TRUE(found.ok());
  const auto schedule = parse_schedule(found->json, model, name);
  EXPECT_TRUE(schedule.ok()) << schedule.status().message();
  return *schedule;
}

// Every count of a run is the schedule's. The first generated token reads every key, since the
// prompt is not scored, and values as where all keys stay.
void expect_counts(const std::vector<Fetch>& run, const PruningSchedule& schedule,
                   const ScheduledModel& model) {
  PruningSchedule unscored = schedule;
  unscored.tokens.clear();
  const std::vector<int32_t> heads = heads_kept(schedule, model);
  std::map<std::tuple<int32_t, int32_t>, int32_t> heads_found;
  for (const Fetch& row : run) {
    const PruningSchedule& in_force = row.step == 0 ? unscored : schedule;
    const std::vector<int32_t> keys = tokens_kept(in_force, model, row.length, 0, kPrompt);
    const int32_t expected = keys.empty() ? row.length : keys[static_cast<size_t>(row.layer)];
    ASSERT_EQ(row.length, kPrompt + 1 + row.step);
    ASSERT_EQ(row.keys, expected) << "step " << row.step << ", layer " << row.layer;
    ASSERT_EQ(row.values, values_kept(in_force, model, row.layer, row.length, kPrompt))
        << "step " << row.step << ", layer " << row.layer;
    ++heads_found[{row.step, row.layer}];
  }
  ASSERT_EQ(heads_found.size(), static_cast<size_t>(kGenerated * model.layers));
  for (const auto& [place, count] : heads_found)
    ASSERT_EQ(count, heads[static_cast<size_t>(std::get<1>(place))]);
}

constexpr const char* kAbsent =
    "TESSERA_SHARED has no data/spatten-traces: the runs are not compared";

TEST(SpattenRuns, SmallReadsWhatItsScheduleSays) {
  const std::vector<Fetch> run = read_run(kSmall);
  if (run.empty()) GTEST_SKIP() << kAbsent;
  const ScheduledModel model{
      .layers = 12, .query_heads = 12, .positions = kPositions, .vocabulary = 50257};
  expect_counts(run, preset("spatten-gpt2-small", model), model);
}

TEST(SpattenRuns, MediumReadsWhatItsScheduleSays) {
  const std::vector<Fetch> run = read_run(kMedium);
  if (run.empty()) GTEST_SKIP() << kAbsent;
  const ScheduledModel model{
      .layers = 24, .query_heads = 16, .positions = kPositions, .vocabulary = 50257};
  expect_counts(run, preset("spatten-gpt2-medium", model), model);
}

CacheReads reads_of(const std::vector<Fetch>& run, IntegerBits bits) {
  const AttentionShape shape{
      .query_heads = 1,
      .pages = {.kv_heads = 1, .d_k = 64, .d_v = 64, .dtype = DType::kI8, .bits = bits}};
  CacheReads reads;
  for (const Fetch& row : run) {
    reads +=
        numbers_read(shape, {.keys = row.keys, .values = row.values, .refetched = row.refetched});
  }
  return reads;
}

// As the authors published it: 323 of 4608 queries read the lower plane, 82.4 MB in all, 10.8 times
// fewer than with 12 bits of every key and value, and keys of 6.84 bits.
TEST(SpattenRuns, SmallReadsAsManyBitsAsPublished) {
  const std::vector<Fetch> run = read_run(kSmall), dense = read_run(kSmallDense);
  if (run.empty() || dense.empty()) GTEST_SKIP() << kAbsent;
  for (const Fetch& row : run) {
    ASSERT_EQ(row.key_bits, 6);
    ASSERT_EQ(row.lower_bits, 4);
    ASSERT_EQ(row.value_bits, 6);
  }
  const CacheReads reads = reads_of(run, {.upper = 6, .lower = 4, .value = 6});
  EXPECT_EQ(reads.queries, 4608);
  EXPECT_EQ(reads.refetched, 323);
  EXPECT_EQ(296, std::count_if(run.begin(), run.end(),
                               [](const Fetch& row) { return row.refetched && row.layer < 2; }));
  const auto key_bits = static_cast<double>(reads.key_bits);
  const double bytes = (key_bits + static_cast<double>(reads.value_bits)) / 8;
  EXPECT_NEAR(key_bits / static_cast<double>(reads.key_numbers), 6.84, 0.005);
  EXPECT_NEAR(bytes, 82.4e6, 0.05e6);
  const CacheReads all = reads_of(dense, {});
  const double of_12_bits = 1.5 * static_cast<double>(all.key_numbers + all.value_numbers);
  EXPECT_NEAR(of_12_bits / bytes, 10.8, 0.05);
}

TEST(SpattenRuns, DenseOnesReadEverything) {
  for (const char* name : {kSmallDense, kMediumDense}) {
    const std::vector<Fetch> run = read_run(name);
    if (run.empty()) GTEST_SKIP() << kAbsent;
    const bool small = name == kSmallDense;
    const ScheduledModel model{.layers = small ? 12 : 24,
                               .query_heads = small ? 12 : 16,
                               .positions = kPositions,
                               .vocabulary = 50257};
    for (const Fetch& row : run) {
      ASSERT_EQ(row.keys, row.length);
      ASSERT_EQ(row.values, row.length);
    }
    ASSERT_EQ(run.size(), static_cast<size_t>(kGenerated * model.layers * model.query_heads));
  }
}

}  // namespace
}  // namespace tessera
