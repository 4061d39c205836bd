#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <iterator>

#include "tessera/model.h"
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

void add_reads(std::string& json, const CacheReadProfile& reads) {
  fmt::format_to(std::back_inserter(json),
                 R"(,"reads":{{"queries":{},"refetched":{},"key_numbers":{},"key_bits":{},)"
                 R"("value_numbers":{},"value_bits":{},"bytes":{}}})",
                 reads.queries, reads.refetched, reads.key_numbers, reads.key_bits,
                 reads.value_numbers, reads.value_bits, reads.bytes);
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
  if (record.reads != nullptr) add_reads(json, *record.reads);
  json += '}';
  return json;
}

}  // namespace tessera
