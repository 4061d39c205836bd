#include "cli/prune_unit_options.h"

#include <fmt/format.h>

#include <charconv>
#include <string_view>
#include <utility>

#include "tessera/names.h"

namespace tessera::cli {
namespace {

struct UnitOption {
  const char* name;
  PruneUnit unit;
  const char* help;
};
constexpr UnitOption kUnits[] = {
    {"--prune-tiles", PruneUnit::kTiles, "Remove this fraction of the tiles, from 0 to 1."},
    {"--prune-elements", PruneUnit::kElements, "Remove this fraction of the single weights."},
    {"--prune-outputs", PruneUnit::kOutputs, "Remove this fraction of the rows of W in y = W x."},
    {"--prune-inputs", PruneUnit::kInputs, "Remove this fraction of the columns of W in y = W x."},
    {"--prune-attention-aware", PruneUnit::kAttentionAware,
     "Remove this fraction of the tiles, but whole features of the value (or output) matrices."},
};

int32_t parse_extent(const std::string& whole, std::string_view text) {
  int32_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 1 || value > 256)
    bad_value("--tile", "ROWSxCOLUMNS, each from 1 to 256", whole);
  return value;
}

void parse_tile(const std::string& text, PruneOptions& prune) {
  const size_t cross = text.find('x');
  if (cross == std::string::npos) bad_value("--tile", "ROWSxCOLUMNS, as 16x16", text);
  prune.tile_rows = parse_extent(text, std::string_view(text).substr(0, cross));
  prune.tile_cols = parse_extent(text, std::string_view(text).substr(cross + 1));
}

}  // namespace

void PruneUnitOptions::add_units(Parser& parser, const Scopes& scopes) {
  static_assert(std::size(kUnits) <= kMostUnits);
  for (size_t i = 0; i < std::size(kUnits); ++i)
    parser.add_number({kUnits[i].name, 0, 1, kUnits[i].help}, &shares_[i]);
  parser.add_text({"--tile", "RxC", "Use tiles of R rows and C columns (default: 16x16)."}, &tile_);
  parser.add_choice({"--scope", "SCOPE", scopes.help, scopes.names}, &scope_);
}

void PruneUnitOptions::add_precompute(Parser& parser) {
  parser.add_flag("--precompute-vo", &precompute_,
                  "With --prune-attention-aware, keep features that suit value and output matrices "
                  "multiplied at load time.");
}

std::optional<PruneOptions> PruneUnitOptions::complete() const {
  PruneOptions prune;
  int units = 0;
  for (size_t i = 0; i < std::size(kUnits); ++i) {
    if (!shares_[i]) continue;
    prune.unit = kUnits[i].unit;
    prune.share = *shares_[i];
    ++units;
  }
  if (units > 1) usage_error(fmt::format("expected one option --prune-..., found {}", units));
  const bool has_tiles =
      prune.unit == PruneUnit::kTiles || prune.unit == PruneUnit::kAttentionAware;
  if (tile_ && units > 0 && !has_tiles) lacks("--tile", "--prune-tiles or --prune-attention-aware");
  for (const auto& [name, given] :
       {std::pair{"--tile", tile_.has_value()}, std::pair{"--scope", scope_.has_value()}}) {
    if (given && units == 0) lacks(name, "an option --prune-...");
  }
  if (precompute_ && (units == 0 || prune.unit != PruneUnit::kAttentionAware))
    lacks("--precompute-vo", "--prune-attention-aware");
  if (units == 0) return std::nullopt;
  if (tile_) parse_tile(*tile_, prune);
  if (scope_) prune.scope = *tessera::parse<PruneScope>(*scope_);
  if (precompute_) prune.precompute_vo = PruneOptions::PrecomputeVo::kYes;
  return prune;
}

}  // namespace tessera::cli
