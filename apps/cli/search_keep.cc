#include "cli/search_keep.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <vector>

#include "cli/table.h"

namespace tessera::cli {
namespace {

using Json = nlohmann::ordered_json;

std::string state_file_of(const SearchKeepJob& job) { return job.target + ".search.json"; }
int64_t seed_of(const SearchKeepOptions& options) { return options.seed.value_or(0); }

Json to_json(const KeepTrial& trial) {
  return {{"shares", trial.shares}, {"work", trial.work}, {"metric", trial.metric}};
}

}  // namespace

void add_search_options(Parser& parser, SearchKeepOptions* options) {
  parser.group("Search");
  parser.add_flag("--search-keep", &options->is_wanted,
                  "Find the cheapest shares of --keep-tokens that --task bears, and save them with "
                  "the model; an interrupted search goes on where it stopped.");
  parser.add_number({"--budget", 0, 1e6,
                     "Let the task's first metric become worse by at most this much (default: "
                     "0.01)."},
                    &options->budget);
  parser.add_integer(
      {"--seed", 0, INT64_MAX, "Random seed of the search's last steps (default: 0)."},
      &options->seed);
  parser.add_choice({"--search-split",
                     "SPLIT",
                     "Search on the train, dev or test part of the data (default: dev).",
                     {"train", "dev", "test"}},
                    &options->split);
}

void check_search_options(const SearchKeepOptions& options, bool has_task) {
  if (options.is_wanted && !has_task) lacks("--search-keep", "--task");
  if (options.is_wanted) return;
  if (options.budget) lacks("--budget", "--search-keep");
  if (options.seed) lacks("--seed", "--search-keep");
  if (options.split) lacks("--search-split", "--search-keep");
}

Result<KeepSearch> run_search(const SearchKeepJob& job, const SearchKeepOptions& options,
                              Steps& steps) {
  Result<EvaluationTask> task = named_task(job.task, job.data, options.split.value_or("dev"));
  if (!task.ok()) return task.status();
  Result<std::shared_ptr<Model>> model =
      Model::load(job.model, {.threads = job.threads, .pruning = "none"});
  if (!model.ok()) return model.status();
  KeepSearchOptions search;
  search.budget = options.budget.value_or(search.budget);
  search.seed = static_cast<uint64_t>(seed_of(options));
  search.state_file = state_file_of(job);
  search.on_progress = [&](const std::string& what, int64_t done, int64_t total) {
    return steps(what, done, total);
  };
  return search_keep(*model, *task, search);
}

void forget_search(const SearchKeepJob& job) {
  std::error_code ignored;
  std::filesystem::remove(state_file_of(job), ignored);
}

std::string to_text(const KeepSearch& search, const SearchKeepOptions& options) {
  constexpr Align kRight = Align::kRight;
  std::vector<std::vector<std::string>> rows;
  for (const KeepTrial& trial : search.front) {
    rows.push_back({fmt::format("{:.1f}%", 100 * trial.work), fmt::format("{:.4f}", trial.metric),
                    fmt::format("{:+.4f}", trial.metric - search.dense.metric),
                    fmt::format("{}", fmt::join(trial.shares, ","))});
    if (trial.shares == search.best.shares) rows.back().push_back("saved");
  }
  return format_table({{"work", kRight}, {search.metric, kRight}, {"", kRight}, {"shares"}, {""}},
                      rows) +
         fmt::format(
             "\n{} schedules were tried (seed {}); the saved one takes {:.1f}% of the dense work "
             "and changes {} by {:+.4f} on the {} part.\n\n",
             search.trials, seed_of(options), 100 * search.best.work, search.metric,
             search.best.metric - search.dense.metric, options.split.value_or("dev"));
}

std::string search_json(const KeepSearch& search, const SearchKeepOptions& options) {
  Json json = {{"metric", search.metric},
               {"seed", seed_of(options)},
               {"split", options.split.value_or("dev")},
               {"trials", search.trials},
               {"dense", to_json(search.dense)},
               {"best", to_json(search.best)},
               {"front", Json::array()}};
  for (const KeepTrial& trial : search.front) json["front"].push_back(to_json(trial));
  return json.dump();
}

}  // namespace tessera::cli
