#pragma once

#include <optional>
#include <string>

#include "cli/parser.h"
#include "cli/terminal.h"
#include "tessera/search.h"

namespace tessera::cli {

// What compress --search-keep is told.
struct SearchKeepOptions {
  bool is_wanted = false;
  std::optional<double> budget;
  std::optional<int64_t> seed;
  std::optional<std::string> split;
};
// --search-keep, --budget, --seed, --search-split.
void add_search_options(Parser& parser, SearchKeepOptions* options);
// Usage errors for options that need --search-keep, and for itself without a task.
void check_search_options(const SearchKeepOptions& options, bool has_task);

struct SearchKeepJob {
  std::string model, target;
  std::string task, data;
  int threads = 0;
};
// What is tried is kept in TARGET.search.json until forget_search.
Result<KeepSearch> run_search(const SearchKeepJob& job, const SearchKeepOptions& options,
                              Steps& steps);
void forget_search(const SearchKeepJob& job);

// The trade-off as a table, and what was chosen.
std::string to_text(const KeepSearch& search, const SearchKeepOptions& options);
std::string search_json(const KeepSearch& search, const SearchKeepOptions& options);

}  // namespace tessera::cli
