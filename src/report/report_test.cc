#include "tessera/report.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>

#include "report/cells.h"
#include "report/report_table.h"
#include "report/timing.h"
#include "report/variant_models.h"
#include "report/watch.h"
#include "runtime/testing.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

#define EXPECT_CONTAINS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

std::string text_of(const fs::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

TimedVariant timed(std::vector<std::vector<double>> rounds, int64_t tokens = 10) {
  TimedVariant variant{.tokens = tokens, .flops = 1e9, .dense_flops = 2e9, .turns = {}};
  for (std::vector<double>& round : rounds)
    variant.turns.push_back({std::move(round), 0.01, false});
  return variant;
}

TEST(ReportFront, IsWhatNothingBeats) {
  EXPECT_EQ(pareto_front({{1, 5}, {2, 2}, {3, 3}, {5, 1}, {1, 6}}),
            (std::vector<bool>{true, true, false, true, false}));
  // Equals do not beat each other.
  EXPECT_EQ(pareto_front({{1, 1}, {1, 1}}), (std::vector<bool>{true, true}));
  // What is no number beats nothing, nor is it beaten in that number.
  const double none = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(pareto_front({{none, 1}, {1, 2}}), (std::vector<bool>{true, true}));
  EXPECT_TRUE(pareto_front({}).empty());
}

TEST(ReportTiming, TakesMediansOverTheRounds) {
  const TimedVariant base = timed({{2, 2, 2}, {4, 4, 4}, {8, 8, 8}});
  const TimedVariant variant = timed({{1, 1, 7}, {4, 4, 4}, {16, 16, 16}});
  const TimingNumbers numbers = numbers_of(variant, base);
  EXPECT_EQ(numbers.median_ms, 4);  // of 1, 4, 16
  EXPECT_EQ(numbers.ratio, 1);      // of 0.5, 1, 2: each round against its own
  EXPECT_EQ(numbers.ratio_low, 0.5);
  EXPECT_EQ(numbers.ratio_high, 2);
  EXPECT_DOUBLE_EQ(numbers.tokens_per_second, 2500);  // 10 tokens in 4 ms
  EXPECT_DOUBLE_EQ(numbers.p90_ms, 5.8);              // of 1 + 0.8 * 6, 4, 16
  EXPECT_EQ(numbers.samples, 9);
  EXPECT_FALSE(numbers.is_disturbed);
}

TEST(ReportTiming, ComesBackFromItsJson) {
  const std::vector<TimedVariant> variants = {timed({{1.25, 0.1}, {3}}), timed({{2}, {1}}, 5)};
  const std::string json = timing_to_json(variants);
  const auto read = timing_from_json(json, "cell", 2);
  ASSERT_TRUE(read.ok()) << read.status().message();
  EXPECT_EQ(timing_to_json(*read), json);
  EXPECT_EQ((*read)[0].turns[0].milliseconds, (std::vector<double>{1.25, 0.1}));
  EXPECT_FALSE(timing_from_json(json, "cell", 3).ok());
  EXPECT_FALSE(timing_from_json("[{}, {}]", "cell", 2).ok());
  EXPECT_FALSE(timing_from_json(json.substr(0, json.size() / 2), "cell", 2).ok());
}

TEST(ReportWatch, CountsTheTicksOfItsCpus) {
  const std::string stat =
      "cpu  111 0 222 9999 5 0 1 2 0 0\n"
      "cpu0 100 1 200 5000 7 3 4 5 50 0\n"
      "cpu1 10 0 20 4999 0 0 0 1 0 0\n"
      "cpu12 1 0 0 0 0 0 0 0 0 0\n"
      "intr 17 0\n";
  EXPECT_EQ(busy_ticks(stat, {0}), 100 + 1 + 200 + 3 + 4 + 5);
  EXPECT_EQ(busy_ticks(stat, {0, 1}), 313 + 31);
  EXPECT_EQ(busy_ticks(stat, {12}), 1);
  EXPECT_EQ(busy_ticks("cpu0 1 2", {0}), 3);
  EXPECT_EQ(busy_ticks("cpux\ncpu\n\ncpu99999999999999999999 1\n", {0}), 0);
}

TEST(ReportCells, AreFoundByTheirWholeKey) {
  const std::string folder = testing::tiny_bert().write("cells") + "/a/b";
  const CellStore store(folder, CellStore::Kept::kUse);
  EXPECT_FALSE(store.find("x", "key").has_value());
  ASSERT_TRUE(store.put("x", "key", "line\nline").ok());
  EXPECT_EQ(store.find("x", "key"), "line\nline");
  EXPECT_FALSE(store.find("x", "ke").has_value());
  EXPECT_FALSE(store.find("y", "key").has_value());
  EXPECT_FALSE(CellStore(folder, CellStore::Kept::kIgnore).find("x", "key").has_value());
  // A file of another key, as if two hashes were equal, and one that was cut.
  std::ofstream(store.path("x", "key")) << "kez\nother";
  EXPECT_FALSE(store.find("x", "key").has_value());
  std::ofstream(store.path("x", "key")) << "key";
  EXPECT_FALSE(store.find("x", "key").has_value());
}

TEST(ReportCells, IdentityFollowsTheFiles) {
  const std::string folder = testing::tiny_bert().write("identity");
  const auto before = identity_of(folder);
  ASSERT_TRUE(before.ok());
  EXPECT_EQ(*before, *identity_of(folder));
  std::ofstream(folder + "/config.json", std::ios::app) << " ";
  const auto after = identity_of(folder);
  EXPECT_NE(*before, *after);
  // Where a sentence-transformers model says how it pools; a report's cells and caches are no part.
  for (const char* name : {"/1_Pooling", "/.cache", "/report.cells"}) {
    fs::create_directory(folder + name);
    std::ofstream(folder + name + "/config.json") << "{}";
  }
  const auto below = identity_of(folder);
  EXPECT_NE(*after, *below);
  EXPECT_CONTAINS(*below, "1_Pooling/config.json");
  for (const char* name : {".cache", ".cells"})
    EXPECT_EQ(below->find(name), std::string::npos) << *below;
  EXPECT_EQ(*after, *identity_of(folder, {folder + "/1_Pooling/config.json"}));
  EXPECT_EQ(identity_of(folder + "/absent").status().code(), StatusCode::kNotFound);
}

TEST(ReportVariants, AttentionIsForcedInEveryLayer) {
  const std::string folder = testing::tiny_llama().write("forced");
  const auto model = Model::load(folder, {.threads = 1});
  ASSERT_TRUE(model.ok());
  for (const std::string method : {"unfused", "flash", "on_the_fly"}) {
    const std::vector<RecipeVariant> variants = {
        {.name = "v", .model = folder, .threads = 1, .attention = method}};
    VariantModels models(variants, folder);
    const auto forced = models.get(0);
    ASSERT_TRUE(forced.ok()) << forced.status().message();
    const std::string plan = (*forced)->plan_json();
    EXPECT_CONTAINS(plan, "\"method\":\"" + method + "\"");
    for (const std::string other : {"unfused", "flash", "on_the_fly"}) {
      if (other == method) continue;
      EXPECT_EQ(plan.find("\"method\":\"" + other + "\""), std::string::npos);
    }
    // The same model from then on, and no file left behind.
    EXPECT_EQ(models.get(0)->get(), forced->get());
  }
  for (const auto& entry : fs::directory_iterator(folder))
    EXPECT_FALSE(entry.path().filename().string().starts_with("plan-")) << entry.path();
}

// A folder with a small model and a recipe that times two variants of it.
class ReportRun : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string name = ::testing::UnitTest::GetInstance()->current_test_info()->name();
    folder_ = testing::tiny_llama().write("report_" + name);
    write(R"({"title": "A | title", "model": ".", "variants": [{"name": "f32", "threads": 1},
      {"name": "b|f", "dtype": "bf16", "threads": 2, "attention": "flash"}],
      "workloads": [{"tokens": 8}, {"name": "writing", "tokens": 4, "new_tokens": 3}],
      "timing": {"rounds": 2, "seconds": 0, "samples": 2}})");
  }
  void TearDown() override { fs::remove_all(folder_); }

  void write(const std::string& recipe) const { std::ofstream(folder_ + "/r.json") << recipe; }
  Result<Report> make(ReportOptions options = {}) const {
    if (options.output.empty()) options.output = folder_ + "/out.md";
    return make_report(folder_ + "/r.json", options);
  }
  std::string error(ReportOptions options = {}) const {
    const Result<Report> report = make(std::move(options));
    return report.ok() ? "no error" : report.status().message();
  }

  std::string folder_;
};

TEST_F(ReportRun, WritesThreeFilesThatAgree) {
  const Result<Report> report = make();
  ASSERT_TRUE(report.ok()) << report.status().message();
  EXPECT_EQ(text_of(folder_ + "/out.md"), report->markdown);
  EXPECT_EQ(text_of(folder_ + "/out.json"), report->json);
  EXPECT_EQ(text_of(folder_ + "/out.svg"), report->svg);
  EXPECT_CONTAINS(report->markdown, "tessera report " + folder_ + "/r.json -o ");
  EXPECT_CONTAINS(report->markdown, "| b\\|f |");
  EXPECT_CONTAINS(report->markdown, "![A \\| title](out.svg)");
  EXPECT_CONTAINS(report->json, "\"weight_type\": \"bf16\"");
  EXPECT_CONTAINS(report->json, "\"dense_flops\"");
  ASSERT_EQ(report->summary.size(), 3u);
  for (const auto& row : report->summary) EXPECT_EQ(row.size(), report->summary[0].size());
  EXPECT_EQ(report->cells, 4);  // two models, two workloads
  EXPECT_EQ(report->cells_measured, 4);
}

TEST_F(ReportRun, DoesNothingTwice) {
  ASSERT_TRUE(make().ok());
  const Result<Report> again = make();
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->cells_measured, 0);
  EXPECT_EQ(text_of(folder_ + "/out.json"), again->json);
  const Result<Report> fresh = make({.cells = ReportOptions::Cells::kMeasureAgain});
  ASSERT_TRUE(fresh.ok());
  EXPECT_EQ(fresh->cells_measured, 4);
  // Another model under the same name.
  std::ofstream(folder_ + "/config.json", std::ios::app) << "\n";
  const Result<Report> changed = make();
  ASSERT_TRUE(changed.ok());
  EXPECT_EQ(changed->cells_measured, 4);
}

TEST_F(ReportRun, CompressesItsVariantsOnce) {
  write(R"({"model": ".", "workloads": [{"tokens": 8}],
      "compress": {"prune_tiles": [0.3, 0.6], "tile": "8x8"},
      "timing": {"rounds": 2, "seconds": 0, "samples": 2}})");
  const std::string elsewhere = folder_ + "-compressed";
  fs::create_directory(elsewhere);
  const ReportOptions options{.output = elsewhere + "/out.md"};
  const Result<Report> report = make(options);
  ASSERT_TRUE(report.ok()) << report.status().message();
  EXPECT_EQ(report->cells, 6);  // two to compress, three models, a workload
  EXPECT_EQ(report->cells_measured, 6);
  ASSERT_EQ(report->summary.size(), 4u);
  EXPECT_EQ(report->summary[1][0], "as it is");
  EXPECT_EQ(report->summary[2][0], "prune_tiles 0.3");
  EXPECT_EQ(report->summary[3][0], "prune_tiles 0.6");
  const Result<Report> again = make(options);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->cells_measured, 0);
  // Another share alone is made anew; workloads are timed together.
  write(R"({"model": ".", "workloads": [{"tokens": 8}],
      "compress": {"prune_tiles": [0.3, 0.7], "tile": "8x8"},
      "timing": {"rounds": 2, "seconds": 0, "samples": 2}})");
  EXPECT_EQ(make(options)->cells_measured, 3);
  fs::remove_all(elsewhere);
}

TEST_F(ReportRun, GoesOnWhereItWasStopped) {
  std::string last;
  ReportOptions options;
  options.on_progress = [&](const std::string& what, int64_t, int64_t) {
    last = what;
    return !what.starts_with("4/");  // before the last workload
  };
  const Result<Report> stopped = make(options);
  ASSERT_FALSE(stopped.ok());
  EXPECT_EQ(stopped.status().code(), StatusCode::kCancelled);
  EXPECT_EQ(last, "4/4 writing");
  for (const char* name : {"/out.md", "/out.json", "/out.svg"})
    EXPECT_FALSE(fs::exists(folder_ + name)) << name;
  const Result<Report> resumed = make();
  ASSERT_TRUE(resumed.ok()) << resumed.status().message();
  EXPECT_EQ(resumed->cells_measured, 1);
}

TEST_F(ReportRun, KeepsTheRecipe) {
  EXPECT_CONTAINS(error({.output = folder_ + "/r.md"}), "is not overwritten");
  EXPECT_CONTAINS(error({.output = folder_ + "/out.txt"}), "ends in .md");
  EXPECT_CONTAINS(error({.output = folder_ + "/.md"}), "ends in .md");
  EXPECT_CONTAINS(text_of(folder_ + "/r.json"), "variants");
}

TEST_F(ReportRun, SaysWhatAModelCannotDo) {
  write(
      R"({"model": ".", "variants": [{"name": "a"}], "workloads": [{"tokens": 8}, {"tokens": 500}]})");
  EXPECT_CONTAINS(
      error(),
      "r.json: workloads[1], variant a: expected at most the model's 200 tokens, found 500");
  const std::string other = testing::tiny_bert().write("report_other");
  write(R"({"model": ".", "variants": [{"name": "a"}, {"name": "b", "model": ")" + other +
        R"("}], "workloads": [{"tokens": 8}]})");
  EXPECT_CONTAINS(error(), "variants[1].model: expected a variant of the same model, llama");
  write(R"({"model": ")" + other +
        R"(", "variants": [{"name": "a"}], "workloads": [{"tokens": 8, "new_tokens": 2}]})");
  EXPECT_CONTAINS(error(), "workloads[0], variant a: expected a model that generates");
}

// A table of two variants and one task, made by hand.
ReportTable small_table() {
  ReportTable table;
  table.recipe.title = "T";
  table.recipe.tasks.emplace_back().name = "task";
  table.recipe.workloads = {{.name = "work"}};
  table.recipe.variants = {{.name = "base"}, {.name = "fast"}};
  for (const double value : {0.80, 0.75}) {
    ReportVariant variant;
    variant.facts.bytes_in_memory = 22'700'000;
    Evaluation evaluation;
    evaluation.metrics = {{"accuracy", value, value - 0.02, value + 0.02, Better::kHigher},
                          {"perplexity", 12.5, NAN, NAN, Better::kLower}};
    variant.evaluations = {evaluation};
    variant.differences = {{}};
    variant.timings = {timed({{value == 0.80 ? 10.0 : 4.0}})};
    table.variants.push_back(variant);
  }
  table.variants[1].differences[0] = {{"accuracy", 0.75, 0.80, -0.05, -0.07, -0.03, 0.001}};
  summarise(table);
  return table;
}

TEST(ReportTables, SayNumbersWithIntervals) {
  const ReportTable table = small_table();
  const std::string text = report_markdown(table, "plot.svg");
  EXPECT_CONTAINS(text, "| base | 0.8000 [0.7800, 0.8200] | - | 10.0 | 1.00 |");
  EXPECT_CONTAINS(text,
                  "| fast | 0.7500 [0.7300, 0.7700] | -0.0500 [-0.0700, -0.0300] | 4.00 | 0.40 |");
  EXPECT_CONTAINS(text, "12.50");
  EXPECT_EQ(text.find("nan"), std::string::npos);
  const std::string json = report_json(table);
  EXPECT_CONTAINS(json, "\"low\": null");
  EXPECT_CONTAINS(text, "| -0.0500 [-0.0700, -0.0300] | 0.001 |");
}

TEST(ReportTables, WhatIsWorseThanTheBaseBeyondItsIntervalIsNotOnTheFront) {
  ReportTable table = small_table();
  EXPECT_TRUE(table.variants[0].is_on_front);
  EXPECT_FALSE(table.variants[1].is_on_front);
  MetricDifference& difference = table.variants[1].differences[0][0];
  difference.high = 0.01;  // it may be chance
  summarise(table);
  EXPECT_TRUE(table.variants[1].is_on_front);
  difference.low = difference.high = NAN;  // no interval tells
  summarise(table);
  EXPECT_TRUE(table.variants[1].is_on_front);
  // Where less is better.
  table.variants[1].evaluations[0].metrics[0].better = Better::kLower;
  difference = {"accuracy", 0.85, 0.80, 0.05, 0.01, 0.09, 0.001};
  summarise(table);
  EXPECT_FALSE(table.variants[1].is_on_front);
}

TEST(ReportTables, SayNothingOfChanceWithoutResamples) {
  ReportTable table = small_table();
  table.variants[1].differences[0] = {{"accuracy", 0.75, 0.80, -0.05, NAN, NAN, NAN}};
  EXPECT_CONTAINS(report_markdown(table, "plot.svg"), "| -0.0500 | - |");
  EXPECT_CONTAINS(report_json(table), "\"p_value\": null");
}

TEST(ReportTables, PlotHasThePointsAndTheFront) {
  ReportTable table = small_table();
  const Plot plot = report_plot(table);
  ASSERT_EQ(plot.panels.size(), 2u);  // time and memory
  EXPECT_EQ(plot.panels[0].x.label, "median time of work, ms");
  EXPECT_EQ(plot.panels[0].y.label, "accuracy, higher is better");
  ASSERT_EQ(plot.panels[0].series.size(), 3u);
  // The faster one is worse than the base beyond its interval.
  EXPECT_EQ(plot.panels[0].series[2].points.size(), 1u);
  // In memory they are equal, so that the better one stands alone.
  EXPECT_EQ(plot.panels[1].series[2].points.size(), 1u);
  EXPECT_EQ(plot.panels[0].series[0].points[0].label, "base");
  EXPECT_EQ(plot.panels[0].y.scale, Scale::kLinear);
  // Without tasks, times by variant.
  table.recipe.tasks.clear();
  const Plot times = report_plot(table);
  ASSERT_EQ(times.panels.size(), 1u);
  EXPECT_EQ(times.panels[0].y.categories, (std::vector<std::string>{"base", "fast"}));
}

TEST(ReportTables, PlotHasLinesWhereTheRecipeNamesSeries) {
  ReportTable table = small_table();
  table.recipe.variants.push_back(table.recipe.variants[1]);
  table.variants.push_back(table.variants[1]);
  table.recipe.variants[1].series = table.recipe.variants[2].series = "faster";
  for (ReportVariant& variant : table.variants)
    variant.evaluations[0].metrics[0].better = Better::kLower;
  table.variants[2].evaluations[0].metrics[0].value *= 100;
  summarise(table);
  const PlotPanel panel = report_plot(table).panels[0];
  ASSERT_EQ(panel.series.size(), 3u);  // and the front
  EXPECT_EQ(panel.series[0].name, "base");
  EXPECT_EQ(panel.series[0].style, SeriesStyle::kMarkers);
  EXPECT_EQ(panel.series[1].name, "faster");
  EXPECT_EQ(panel.series[1].style, SeriesStyle::kLine);
  ASSERT_EQ(panel.series[1].points.size(), 2u);
  for (const PlotSeries& series : panel.series) {
    for (const PlotPoint& point : series.points) EXPECT_EQ(point.label, "");
  }
  EXPECT_EQ(panel.y.scale, Scale::kLog);
  EXPECT_EQ(panel.y.label, "accuracy, lower is better (log scale)");
}

}  // namespace
}  // namespace tessera
