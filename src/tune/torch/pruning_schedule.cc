#include "tune/torch/pruning_schedule.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "compress/prune_units.h"

namespace tessera::training {
namespace {

using Method = PruneTraining::Method;

bool is_gradual(Method method) { return method == Method::kGradual || method == Method::kMovement; }

Status check_units(const PruneOptions& units) {
  if (!(units.share >= 0 && units.share < 1)) {
    return invalid_input(fmt::format(
        "pruning: share: expected a number of at least 0 and below 1, found {}", units.share));
  }
  if (units.score != PruneScore::kMagnitude || units.repair != PruneOptions::Repair::kNone) {
    return unsupported(
        "pruning while training: expected scores of magnitude and no repair, as training does "
        "better what these do, found others");
  }
  if (units.scope == PruneScope::kAllocated) {
    return unsupported(
        "pruning while training: expected the scope matrix, balanced or global, found allocated, "
        "which needs a calibration text");
  }
  return check_rule(find_rule(units.unit), units);
}

Status check_milestones(const PruneTraining& options, int64_t phase) {
  const std::vector<int64_t>& milestones = options.milestones;
  if (milestones.empty()) return {};
  if (options.method != Method::kReweighted) {
    return invalid_input(fmt::format(
        "pruning: expected milestones with the method reweighted alone, found them with {}",
        name(options.method)));
  }
  int64_t before = 0;
  for (const int64_t milestone : milestones) {
    if (milestone <= before || milestone >= phase) {
      return invalid_input(fmt::format(
          "pruning: milestones: expected ascending numbers of steps from 1 to {}, inside the phase "
          "of the penalty, found {}",
          phase - 1, fmt::join(milestones, ", ")));
    }
    before = milestone;
  }
  return {};
}

}  // namespace

Status check_pruning(const PruneTraining& options, int64_t steps) {
  TESSERA_RETURN_IF_ERROR(check_units(options.units));
  if (!(options.lambda >= 0 && std::isfinite(options.lambda))) {
    return invalid_input(
        fmt::format("pruning: lambda: expected a number of at least 0, found {}", options.lambda));
  }
  if (!(options.phase >= 0 && options.phase <= 1)) {
    return invalid_input(fmt::format(
        "pruning: phase: expected a share of the steps from 0 to 1, found {}", options.phase));
  }
  if (options.cuts < 1) {
    return invalid_input(fmt::format("pruning: cuts: expected at least 1, found {}", options.cuts));
  }
  const int64_t phase = phase_steps(options, steps);
  if (options.method == Method::kMovement && phase < 1) {
    return invalid_input(
        "pruning: expected a phase of at least one step, in which movement is seen, found none");
  }
  return check_milestones(options, phase);
}

int64_t phase_steps(const PruneTraining& options, int64_t steps) {
  if (options.method == Method::kOneShot) return 0;
  return std::llround(options.phase * static_cast<double>(steps));
}

std::vector<int64_t> reweighting_milestones(const PruneTraining& options, int64_t phase) {
  if (options.method != Method::kReweighted) return {};
  if (!options.milestones.empty()) return options.milestones;
  std::vector<int64_t> milestones;
  for (int64_t fifth = 1; fifth < 5; ++fifth) {
    const int64_t steps = phase * fifth / 5;
    if (steps > (milestones.empty() ? 0 : milestones.back())) milestones.push_back(steps);
  }
  return milestones;
}

std::vector<Cut> pruning_cuts(const PruneTraining& options, int64_t phase) {
  const double share = options.units.share;
  if (!is_gradual(options.method) || phase == 0) return {{phase, share}};
  const int64_t count = std::min<int64_t>(options.cuts, phase);
  std::vector<Cut> cuts;
  for (int64_t cut = 1; cut <= count; ++cut) {
    const double left = 1 - static_cast<double>(cut) / static_cast<double>(count);
    cuts.push_back({phase * cut / count, share * (1 - left * left * left)});
  }
  return cuts;
}

}  // namespace tessera::training
