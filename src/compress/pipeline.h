#pragma once

#include <string>

#include "base/status.h"
#include "compress/pass.h"
#include "tessera/compress.h"

namespace tessera {

// Runs passes over a checkpoint in their order, each map of each layer through all of them before
// the next, so that what is calibrated reads what the passes left of the maps before it. Of the
// options those of a pass are the pass's own. source and target: directories without a slash at
// the end.
Result<CompressReport> run_passes(const std::string& source, const std::string& target,
                                  const CompressOptions& options, const Passes& passes);

// What tells a run of compress() from others: its options, the source and what it reads of a text.
// Its errors are those with which such a run would not begin.
Result<std::string> compress_run_text(const std::string& source, const std::string& target,
                                      const CompressOptions& options);

}  // namespace tessera
