#include "cli/trace_file.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

namespace tessera::cli {

Status TraceFile::open() {
  Result<std::unique_ptr<PartialFile>> file = PartialFile::open(path_);
  if (!file.ok()) return file.status();
  file_ = *std::move(file);
  return {};
}

Status TraceFile::add_model(const ModelInfo& info) {
  const nlohmann::ordered_json line = {
      {"model", info.directory},         {"layers", info.layers},
      {"query_heads", info.query_heads}, {"kv_heads", info.kv_heads},
      {"head_size", info.head_size},     {"hidden_size", info.hidden_size},
      {"positions", info.max_positions}, {"causal", info.is_decoder}};
  return file_->write(line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

void TraceFile::take(const PruningRecord& record) noexcept {
  if (!failure_.ok()) return;
  try {
    failure_ = file_->write(to_json(record) + "\n");
  } catch (const std::bad_alloc&) {
    failure_ = {StatusCode::kOutOfMemory, "not enough memory for a line of the trace"};
  }
}

Status TraceFile::finish() {
  if (!failure_.ok() || file_ == nullptr) return failure_;
  return file_->commit();
}

}  // namespace tessera::cli
