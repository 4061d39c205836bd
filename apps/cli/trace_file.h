#pragma once

#include <memory>
#include <string>

#include "cli/partial_file.h"
#include "tessera/model.h"
#include "tessera/pruning.h"
#include "tessera/status.h"

namespace tessera::cli {

// The file of --trace: a line about the model, then one for each sequence, layer and step of what
// cascade pruning did (docs/trace.md). It takes its place when the verb has come to its end.
class TraceFile {
 public:
  explicit TraceFile(std::string path) : path_(std::move(path)) {}

  Status open();
  // Called by the model while it runs; the first failure is kept for finish.
  void take(const PruningRecord& record) noexcept;
  Status add_model(const ModelInfo& info);
  Status finish();

 private:
  std::string path_;
  std::unique_ptr<PartialFile> file_;  // null: no model was loaded
  Status failure_;
};

}  // namespace tessera::cli
