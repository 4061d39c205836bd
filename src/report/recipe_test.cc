#include "report/recipe.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "runtime/testing.h"

namespace tessera {
namespace {

#define EXPECT_CONTAINS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

constexpr const char* kRecipe = R"({
  "title": "T", "model": "{models}/m", "parameters": {"models": "../models", "data": "data"},
  "tasks": [{"task": "stsb", "data": "{data}/glue", "split": "dev", "metric": "pearson",
             "max_examples": 7, "bad_data": "skip", "long_text": "bad"},
            {"name": "mine", "kind": "classification", "labels": ["no", "yes"], "positive_label": "yes",
             "data": {"files": ["a.csv", "b.csv"], "format": "csv", "header": true,
                      "columns": {"text": "review", "label": "2"}},
             "train": {"files": "train.tsv"}}],
  "workloads": [{"tokens": 128}, {"name": "writing", "batch": 8, "tokens": 16, "new_tokens": 32}],
  "variants": [{"name": "plain"}, {"name": "small", "model": "{models}/s", "dtype": "bf16", "threads": 2,
               "attention": "flash", "cache": "int8"}, {"name": "planned", "plan": "/p.json", "series": "plans", "pruning": {"tokens": 0.5}}],
  "base": "small", "timing": {"rounds": 2, "seconds": 0.5, "samples": 4},
  "bootstrap": {"resamples": 10, "confidence": 0.9, "seed": 3}})";

std::string error_of(const std::string& json, const RecipeParameters& parameters = {}) {
  const Result<Recipe> recipe = recipe_from_json(json, "r.json", "dir", parameters);
  return recipe.ok() ? "no error" : recipe.status().message();
}

// A recipe with one workload and these members.
std::string with(const std::string& members) {
  return R"({"workloads": [{"tokens": 8}], )" + members + "}";
}

TEST(Recipe, ReadsWhatItSays) {
  const Result<Recipe> recipe = recipe_from_json(kRecipe, "r.json", "dir", {{"data", "here"}});
  ASSERT_TRUE(recipe.ok()) << recipe.status().message();
  EXPECT_EQ(recipe->base, 1u);
  ASSERT_EQ(recipe->variants.size(), 3u);
  EXPECT_EQ(recipe->variants[0].model, "models/m");
  EXPECT_EQ(recipe->variants[1].model, "models/s");
  EXPECT_EQ(recipe->variants[1].dtype, WeightType::kBF16);
  EXPECT_EQ(recipe->variants[1].cache, CacheType::kInt8);
  EXPECT_EQ(recipe->variants[1].threads, 2);
  EXPECT_EQ(recipe->variants[1].attention, "flash");
  EXPECT_EQ(recipe->variants[2].plan, "/p.json");
  EXPECT_EQ(recipe->variants[2].series, "plans");
  EXPECT_EQ(recipe->variants[2].pruning, R"({"tokens":0.5})");
  ASSERT_EQ(recipe->tasks.size(), 2u);
  EXPECT_EQ(recipe->tasks[0].name, "stsb dev");
  EXPECT_EQ(recipe->tasks[0].metric, "pearson");
  EXPECT_EQ(recipe->tasks[0].task.max_examples, 7);
  EXPECT_EQ(recipe->tasks[0].task.on_bad_data, OnBadData::kSkip);
  EXPECT_EQ(recipe->tasks[0].task.on_long_text, OnLongText::kBad);
  // What was given counts from the current directory, the rest from the recipe's.
  EXPECT_TRUE(recipe->tasks[0].task.data.paths.at(0).starts_with("here/glue/"))
      << recipe->tasks[0].task.data.paths.at(0);
  const EvaluationTask& own = recipe->tasks[1].task;
  EXPECT_EQ(recipe->tasks[1].name, "mine");
  EXPECT_EQ(own.data.paths, (std::vector<std::string>{"dir/a.csv", "dir/b.csv"}));
  EXPECT_EQ(own.data.format, DataFormat::kCsv);
  EXPECT_EQ(own.data.header, HeaderRow::kFirstRow);
  EXPECT_EQ(own.data.columns.text, "review");
  EXPECT_EQ(own.train.paths, (std::vector<std::string>{"dir/train.tsv"}));
  EXPECT_EQ(own.positive_label, "yes");
  ASSERT_EQ(recipe->workloads.size(), 2u);
  EXPECT_EQ(recipe->workloads[0].name, "1 x 128");
  EXPECT_EQ(recipe->workloads[1].new_tokens, 32);
  EXPECT_EQ(recipe->timing.samples, 4);
  EXPECT_EQ(recipe->bootstrap.seed, 3u);
}

TEST(Recipe, NamesTheKeyThatIsWrong) {
  EXPECT_EQ(error_of("3"), "r.json: expected an object, found 3");
  EXPECT_CONTAINS(error_of("{}"), "r.json: expected a member \"variants\", found none");
  EXPECT_CONTAINS(error_of(with(R"("variants": [])")), "variants: expected a list of 1 to 64");
  EXPECT_CONTAINS(error_of(with(R"("variants": [{"name": "a"}])")),
                  "variants[0]: expected a member \"model\"");
  EXPECT_CONTAINS(error_of(with(R"("variants": [{"model": "m"}])")),
                  "variants[0]: expected a member \"name\"");
  EXPECT_CONTAINS(error_of(with(R"("model": "m", "variants": [{"name": "a"}, {"name": "a"}])")),
                  "variants[1]: expected a name of its own, found \"a\", which [0] has");
  EXPECT_CONTAINS(error_of(with(R"("model": "m", "variants": [{"name": "a", "threads": "two"}])")),
                  "variants[0].threads: expected an integer from 1 to 4096, found \"two\"");
  EXPECT_CONTAINS(error_of(with(R"("model": "m", "variants": [{"name": "a", "thread": 2}])")),
                  "variants[0]: expected keys of name, model, dtype, cache, threads, attention, "
                  "plan, series, pruning, compress, found "
                  "\"thread\"");
  EXPECT_CONTAINS(
      error_of(with(R"("model": "m", "variants": [{"name": "a", "dtype": "int9"}])")),
      "variants[0].dtype: expected auto, f32, bf16, int8, int4, w8 or w4, found \"int9\"");
  EXPECT_CONTAINS(error_of(with(R"("model": "m", "variants": [{"name": "a", "attention": "x"}])")),
                  "variants[0].attention: expected ");
  EXPECT_CONTAINS(
      error_of(with(R"("model": "m", "variants": [{"name": "a", "plan": "p", "dtype": "f32"}])")),
      "variants[0]: expected a plan or a dtype");
  EXPECT_CONTAINS(error_of(with(R"("model": "m", "variants": [{"name": "a\nb"}])")),
                  "variants[0].name: expected a name");
  EXPECT_CONTAINS(error_of(with(R"("model": "{x}", "variants": [{"name": "a"}])")),
                  "model: expected a path with names of parameters");
  EXPECT_CONTAINS(error_of(with(R"("model": "{x", "variants": [{"name": "a"}])")),
                  "model: expected a path whose \"{\"");
  EXPECT_CONTAINS(error_of(with(R"("model": "m", "variants": [{"name": "a"}], "base": "b")")),
                  "base: expected a, found \"b\"");
  EXPECT_CONTAINS(error_of(R"({"model": "m", "variants": [{"name": "a"}]})"),
                  "expected tasks or workloads, found neither");
  EXPECT_CONTAINS(error_of(std::string(100000, '[')), "deep");
  EXPECT_CONTAINS(error_of(R"({"model": "m", "model": "n"})"), "each key once");
}

TEST(Recipe, NamesTheTaskOrWorkloadThatIsWrong) {
  const auto task = [](const std::string& members) {
    return error_of(R"({"model": "m", "variants": [{"name": "a"}], "tasks": [{)" + members + "}]}");
  };
  EXPECT_CONTAINS(task(""), "tasks[0]: expected a \"task\" of known data or the \"kind\"");
  EXPECT_CONTAINS(task(R"("task": "stsb", "kind": "similarity")"), "found both");
  EXPECT_CONTAINS(task(R"("task": "sts", "data": "d")"), "tasks[0].task: expected perplexity, ");
  EXPECT_CONTAINS(task(R"("task": "stsb")"), "tasks[0]: expected a member \"data\"");
  EXPECT_CONTAINS(task(R"("task": "stsb", "data": "d", "split": "x")"), "tasks[0]: ");
  EXPECT_CONTAINS(task(R"("kind": "similarity", "data": {"files": []})"),
                  "tasks[0].data.files: expected a list of 1 to");
  EXPECT_CONTAINS(
      task(R"("kind": "similarity", "data": {"files": "f", "columns": {"texts": "1"}})"),
      "tasks[0].data.columns: expected keys of text, pair, label, score, id");
  EXPECT_CONTAINS(task(R"("task": "stsb", "data": "d", "max_examples": 0)"),
                  "tasks[0].max_examples: expected an integer from 1");
  EXPECT_CONTAINS(task(R"("task": "stsb", "data": "d", "reference": "r")"),
                  "tasks[0].reference: expected a reference with agreement only");
  EXPECT_CONTAINS(task(R"("task": "stsb", "data": "d", "probe": "dense")"),
                  "tasks[0].probe: expected a probe with classification only");
  EXPECT_CONTAINS(task(R"("task": "sst2", "data": "d", "probe": "other")"),
                  "tasks[0].probe: expected same or dense, found \"other\"");
  const auto workload = [](const std::string& members) {
    return error_of(R"({"model": "m", "variants": [{"name": "a"}], "workloads": [{)" + members +
                    "}]}");
  };
  EXPECT_CONTAINS(workload(""), "workloads[0]: expected a member \"tokens\"");
  EXPECT_CONTAINS(workload(R"("tokens": 0)"), "workloads[0].tokens: expected an integer from 1");
  EXPECT_CONTAINS(workload(R"("tokens": 8, "new_tokens": 1)"), "workloads[0].new_tokens");
  EXPECT_CONTAINS(workload(R"("tokens": 8}, {"tokens": 8)"),
                  "workloads[1]: expected a name of its own");
}

TEST(Recipe, TakesValuesForItsOwnParametersOnly) {
  EXPECT_CONTAINS(error_of(kRecipe, {{"date", "x"}}),
                  "expected values for its parameters (data, models), found one for \"date\"");
  EXPECT_CONTAINS(
      error_of(with(R"("model": "{m}", "parameters": {"m": ""}, "variants": [{"name": "a"}])")),
      "model: expected a path that is not empty");
}

TEST(Recipe, SaysWhichFileIsMissing) {
  const std::string folder =
      std::filesystem::path(testing::tiny_bert().write("recipe")).lexically_normal().string();
  const std::string path = folder + "/recipe.json";
  const auto error = [&](const std::string& json) {
    std::ofstream(path) << json;
    const Result<Recipe> recipe = read_recipe(path, {});
    return recipe.ok() ? "no error" : recipe.status().message();
  };
  EXPECT_EQ(error(with(R"("model": ".", "variants": [{"name": "a"}])")), "no error");
  EXPECT_CONTAINS(
      error(with(R"("variants": [{"name": "a", "model": "."}, {"name": "b", "model": "no"}])")),
      "variants[1].model: expected a file at " + folder + "/no/config.json, found none");
  EXPECT_CONTAINS(error(with(R"("model": ".", "variants": [{"name": "a", "plan": "p"}])")),
                  "variants[0].plan: expected a file at");
  EXPECT_CONTAINS(error(with(R"("model": ".", "variants": [{"name": "a"}],
                                "tasks": [{"task": "perplexity", "data": "t.txt"}])")),
                  "tasks[0]: expected a file at " + folder + "/t.txt, found none");
  EXPECT_FALSE(read_recipe(folder + "/absent.json", {}).ok());
}

TEST(Recipe, QuickIsSmall) {
  Result<Recipe> recipe = recipe_from_json(kRecipe, "r.json", "dir", {});
  ASSERT_TRUE(recipe.ok());
  make_quick(*recipe);
  EXPECT_EQ(recipe->tasks[0].task.max_examples, 7);
  EXPECT_GT(recipe->tasks[1].task.max_examples, 0);
  EXPECT_LE(recipe->timing.seconds, 0.1);
}

TEST(Recipe, SweepsWhatIsCompressed) {
  const auto recipe = recipe_from_json(with(R"("model": "m", "variants": [{"name": "a"},
      {"name": "tiles", "compress": {"prune_tiles": [0.3, 0.5], "tile": ["16x16", "16x1"],
                                     "calibrate": "c.txt", "repair": true}},
      {"compress": {"quantize": "w4", "group": 64}}])"),
                                       "r.json", "dir", {});
  ASSERT_TRUE(recipe.ok()) << recipe.status().message();
  std::vector<std::string> names;
  for (const RecipeVariant& variant : recipe->variants) names.push_back(variant.name);
  EXPECT_EQ(names, (std::vector<std::string>{"a", "tiles 0.3, 16x16", "tiles 0.3, 16x1",
                                             "tiles 0.5, 16x16", "tiles 0.5, 16x1",
                                             "quantize w4, group 64"}));
  EXPECT_FALSE(recipe->variants[0].compress.has_value());
  const CompressOptions& options = recipe->variants[2].compress->options;
  EXPECT_EQ(options.prune->share, 0.3);
  EXPECT_EQ(options.prune->tile_cols, 1);
  EXPECT_EQ(options.prune->score, PruneScore::kCalibrated);
  EXPECT_EQ(options.prune->repair, PruneOptions::Repair::kLeastSquares);
  EXPECT_EQ(options.calibration.text_file, "dir/c.txt");
  EXPECT_EQ(recipe->variants[2].model, "dir/m");
  EXPECT_EQ(recipe->variants[5].compress->options.quantize->group, 64);
  EXPECT_EQ(recipe->variants[5].compress->options.quantize->rounding, Rounding::kNearest);
  EXPECT_NE(recipe->variants[1].compress->key, recipe->variants[2].compress->key);
}

TEST(Recipe, ASweepAloneHasTheModelAsItIsForItsBase) {
  const auto recipe = recipe_from_json(
      with(R"("model": "m", "compress": {"prune_tiles": [0.3, 0.5]})"), "r.json", "dir", {});
  ASSERT_TRUE(recipe.ok()) << recipe.status().message();
  ASSERT_EQ(recipe->variants.size(), 3u);
  EXPECT_EQ(recipe->variants[0].name, "as it is");
  EXPECT_EQ(recipe->variants[1].name, "prune_tiles 0.3");
  EXPECT_EQ(recipe->variants[2].name, "prune_tiles 0.5");
  EXPECT_EQ(recipe->base, 0u);
}

TEST(Recipe, NamesWhatIsWrongInACompression) {
  const auto error = [](const std::string& members) {
    return error_of(with(R"("model": "m", "variants": [{"compress": {)" + members + "}}]"));
  };
  EXPECT_CONTAINS(error(""), "variants[0].compress: expected a way to prune or quantize");
  EXPECT_CONTAINS(error(R"("prune_tile": 0.5)"),
                  "variants[0].compress: expected keys of prune_tiles");
  EXPECT_CONTAINS(error(R"("prune_tiles": [0.5, 2])"),
                  "variants[0].compress.prune_tiles[1]: expected a number from 0 to 1, found 2");
  EXPECT_CONTAINS(error(R"("prune_tiles": [])"),
                  "compress.prune_tiles: expected a list of 1 to 64");
  EXPECT_CONTAINS(error(R"("prune_tiles": 0.5, "prune_inputs": 0.5)"), "found two");
  EXPECT_CONTAINS(error(R"("quantize": "int8", "tile": "8x8")"),
                  "compress.tile: expected a way to");
  EXPECT_CONTAINS(error(R"("prune_tiles": 0.5, "tile": "8")"), "expected ROWSxCOLUMNS");
  EXPECT_CONTAINS(error(R"("prune_tiles": 0.5, "scope": "all")"),
                  "expected matrix, balanced, global or allocated, found \"all\"");
  EXPECT_CONTAINS(error(R"("quantize": ["int8", "f32"])"), "quantize[1]: expected int8, int4, w8");
  std::string many = "0";
  for (int i = 1; i < 9; ++i) many += ", 0." + std::to_string(i);
  EXPECT_CONTAINS(
      error("\"prune_tiles\": [" + many + R"(], "calibrate_tokens": [1, 2, 3, 4, 5, 6, 7, 8])"),
      "at most 64 combinations of its lists, found 72");
}

TEST(Recipe, TakesNumbersOfColumns) {
  const auto recipe = recipe_from_json(with(R"("model": "m", "variants": [{"name": "a"}],
      "tasks": [{"kind": "similarity", "data": {"files": "a.tsv", "header": false,
                 "columns": {"text": 6, "pair": 7, "score": "5"}}}])"),
                                       "r.json", "dir", {});
  ASSERT_TRUE(recipe.ok()) << recipe.status().message();
  const DataColumns& columns = recipe->tasks[0].task.data.columns;
  EXPECT_EQ(columns.text, "6");
  EXPECT_EQ(columns.pair, "7");
  EXPECT_EQ(columns.score, "5");
  EXPECT_CONTAINS(error_of(R"({"model": "m", "variants": [{"name": "a"}],
      "tasks": [{"kind": "similarity", "data": {"files": "a.tsv", "columns": {"text": 0}}}]})"),
                  "columns.text: expected an integer from 1");
}

TEST(Recipe, SaysHowToFetchWhatIsMissing) {
  const std::string folder =
      std::filesystem::path(testing::tiny_bert().write("fetch")).lexically_normal().string();
  std::ofstream(folder + "/recipe.json")
      << with(R"("model": "no", "variants": [{"name": "a"}], "fetch": "examples/fetch")");
  EXPECT_CONTAINS(read_recipe(folder + "/recipe.json", {}).status().message(),
                  "found none; what the recipe needs is fetched by: examples/fetch");
}

}  // namespace
}  // namespace tessera
