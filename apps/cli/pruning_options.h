#pragma once

#include <map>
#include <string>

#include "cli/parser.h"
#include "tessera/status.h"

namespace tessera::cli {

// What the options of cascade pruning ask for, as LoadOptions::pruning takes it.
struct PruningOptions {
  std::string text;                          // empty: what is saved with the model
  std::string file;                          // that the text is from; empty: another source
  std::map<std::string, std::string> parts;  // members of the schedule that options made, as JSON
};

// --keep-tokens, --keep-heads, --keep-values, --key-bits, --value-bits, --refetch, --pruning.
void add_pruning_options(Parser& parser, PruningOptions* options);

// The library knows the schedule alone and calls it "pruning": the same status with the file or the
// option that it is from.
Status with_pruning_source(const Status& status, const PruningOptions& options);

}  // namespace tessera::cli
