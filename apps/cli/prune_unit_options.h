#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cli/parser.h"
#include "tessera/compress.h"

namespace tessera::cli {

// What of matrices goes, and how much: --prune-tiles and its like, --tile, --scope and
// --precompute-vo.
class PruneUnitOptions {
 public:
  struct Scopes {
    const char* help;
    std::vector<std::string> names;
  };
  // All but the last one, which stands behind what a verb has of its own.
  void add_units(Parser& parser, const Scopes& scopes);
  void add_precompute(Parser& parser);

  // Nothing where no unit was given. A usage error where options lack one that they belong to.
  std::optional<PruneOptions> complete() const;

 private:
  static constexpr size_t kMostUnits = 8;
  std::optional<double> shares_[kMostUnits];
  std::optional<std::string> tile_, scope_;
  bool precompute_ = false;
};

}  // namespace tessera::cli
