#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <iterator>

#include "tessera/pruning.h"

namespace tessera {
namespace {

void add_list(std::string& json, const char* key, std::span<const int32_t> values) {
  if (values.empty()) return;
  fmt::format_to(std::back_inserter(json), R"(,"{}":[{}])", key, fmt::join(values, ","));
}

// JSON has no NaN and no infinity.
void add_list(std::string& json, const char* key, std::span<const float> values) {
  if (values.empty()) return;
  auto to = std::back_inserter(json);
  fmt::format_to(to, R"(,"{}":[)", key);
  const char* separator = "";
  for (const float x : values) {
    fmt::format_to(to, "{}", separator);
    if (std::isfinite(x)) fmt::format_to(to, "{}", x);
    if (!std::isfinite(x)) fmt::format_to(to, "null");
    separator = ",";
  }
  json += ']';
}

}  // namespace

std::string to_json(const PruningRecord& record) {
  std::string json =
      fmt::format(R"({{"sequence":{},"step":{},"layer":{},"length":{},"queries":{})",
                  record.sequence, record.step, record.layer, record.length, record.queries);
  add_list(json, "ids", record.ids);
  add_list(json, "tokens", record.tokens);
  add_list(json, "importance", record.importance);
  add_list(json, "heads", record.heads);
  add_list(json, "head_importance", record.head_importance);
  json += '}';
  return json;
}

}  // namespace tessera
