#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tessera/evaluate.h"
#include "tessera/export.h"
#include "tessera/model.h"
#include "tessera/status.h"

// Finding a schedule of cascade pruning (docs/cascade.md) that a task bears.
namespace tessera {

// A schedule that was tried: the share of tokens that each layer keeps.
struct KeepTrial {
  std::vector<double> shares = {};
  double work = 1;    // part of the dense multiplications, at KeepSearchOptions::tokens
  double metric = 0;  // the task's first
};

struct KeepSearchOptions {
  double budget = 0.01;  // how much worse the metric may become, in its own unit
  int32_t tokens = 128;  // of the text whose work counts
  int64_t exchanges = 32;
  uint64_t seed = 0;
  // Where what was tried is kept, so that an interrupted search goes on; empty: nowhere. It is
  // removed by whoever no longer needs it.
  std::string state_file = {};
  // Called with what is being done, steps done and their number; false stops with kCancelled.
  std::function<bool(const std::string& what, int64_t done, int64_t total)> on_progress = {};
};

struct KeepSearch {
  std::string metric = {};  // its name
  KeepTrial dense = {}, best = {};
  // Those tried that no other one beats in work and metric both, by falling work.
  std::vector<KeepTrial> front = {};
  int64_t trials = 0;
  std::string schedule = {};  // JSON of the best
};

// The cheapest schedule of tokens that it finds whose metric is within the budget of the dense
// model's. From the last layer to the second each gets the smallest share of a tenth to 1, in
// tenths, that its part of the budget allows; then the rest of the budget is spent where it saves
// most, and `exchanges` random pairs of layers trade a tenth. Equal inputs give equal results.
// While it runs nobody else may use the model, whose own schedule is as it was afterwards.
// kUnsupported: a task that reads no whole texts, or a model of one layer.
TESSERA_API Result<KeepSearch> search_keep(const std::shared_ptr<Model>& model,
                                           const EvaluationTask& task,
                                           const KeepSearchOptions& options = {});

}  // namespace tessera
