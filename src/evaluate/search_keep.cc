#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <utility>

#include "base/guarded.h"
#include "io/atomic_file.h"
#include "io/json.h"
#include "io/json_at.h"
#include "io/mapped_file.h"
#include "pruning/schedule.h"
#include "runtime/model_state.h"
#include "runtime/pruning_plan.h"
#include "tessera/search.h"

namespace tessera {
namespace {

using nlohmann::ordered_json;

// Shares in tenths, of each layer; the first layer has nothing to choose by.
using Tenths = std::vector<int>;
constexpr int kAll = 10;
constexpr size_t kMostStateBytes = size_t{64} << 20;

PruningSchedule schedule_of(const Tenths& tenths) {
  PruningSchedule schedule;
  for (const int each : tenths) schedule.tokens.push_back({.share = each / double{kAll}});
  return schedule;
}

std::vector<double> shares_of(const Tenths& tenths) {
  std::vector<double> shares;
  for (const int each : tenths) shares.push_back(each / double{kAll});
  return shares;
}

// What was tried, in memory and in a file that is whole at any moment.
class Trials {
 public:
  // key: what the search is of; a file of another one is refused.
  static Result<Trials> open(const std::string& file, const std::string& key) {
    Trials trials(file, key);
    std::error_code ignored;
    if (file.empty() || !std::filesystem::exists(file, ignored)) return trials;
    TESSERA_ASSIGN_OR_RETURN(const std::string text, read_text_file(file, kMostStateBytes));
    if (!trials.read(text).ok()) {
      return invalid_input(fmt::format(
          "{}: expected what an interrupted search of this model and task left, found something "
          "else: remove it, or write elsewhere",
          file));
    }
    return trials;
  }

  const double* find(const Tenths& tenths) const {
    const auto found = metrics_.find(tenths);
    return found == metrics_.end() ? nullptr : &found->second;
  }

  Status add(const Tenths& tenths, double metric) {
    metrics_[tenths] = metric;
    if (file_.empty()) return {};
    ordered_json json = {{"search", ordered_json::parse(key_)}, {"trials", ordered_json::array()}};
    for (const auto& entry : metrics_)
      json["trials"].push_back({{"tenths", entry.first}, {"metric", entry.second}});
    return write_file_atomically(file_, json.dump() + "\n");
  }

 private:
  Trials(std::string file, std::string key) : file_(std::move(file)), key_(std::move(key)) {}

  Status read(const std::string& text) {
    TESSERA_ASSIGN_OR_RETURN(const Json json, parse_json(text, file_));
    TESSERA_ASSIGN_OR_RETURN(const Json key, parse_json(key_, file_));
    const JsonAt root(json, file_);
    TESSERA_ASSIGN_OR_RETURN(const JsonAt search, root.need("search"));
    if (to_text(search.value()) != to_text(key)) return search.wrong("that of this search");
    TESSERA_ASSIGN_OR_RETURN(const JsonAt list, root.need("trials"));
    TESSERA_ASSIGN_OR_RETURN(const std::vector<JsonAt> trials, list.list(0, SIZE_MAX));
    for (const JsonAt& trial : trials) {
      TESSERA_ASSIGN_OR_RETURN(const JsonAt shares, trial.need("tenths"));
      TESSERA_ASSIGN_OR_RETURN(const std::vector<JsonAt> entries, shares.list(0, SIZE_MAX));
      Tenths tenths;
      for (const JsonAt& entry : entries) {
        TESSERA_ASSIGN_OR_RETURN(const int64_t share, entry.integer(1, kAll));
        tenths.push_back(static_cast<int>(share));
      }
      TESSERA_ASSIGN_OR_RETURN(const JsonAt metric, trial.need("metric"));
      constexpr double kMost = std::numeric_limits<double>::max();
      TESSERA_ASSIGN_OR_RETURN(metrics_[tenths], metric.number(-kMost, kMost));
    }
    return {};
  }

  std::string file_, key_;
  std::map<Tenths, double> metrics_;
};

class Search {
 public:
  Search(const std::shared_ptr<Model>& model, const EvaluationTask& task,
         const KeepSearchOptions& options, Trials trials)
      : model_(model),
        state_(state_of(*model)),
        task_(task),
        options_(options),
        trials_(std::move(trials)),
        layers_(static_cast<size_t>(state_.architecture.layer_count())) {}

  Result<KeepSearch> run() {
    Tenths best(layers_, kAll);
    TESSERA_ASSIGN_OR_RETURN(result_.dense, trial(best));
    TESSERA_RETURN_IF_ERROR(from_the_back(best));
    TESSERA_RETURN_IF_ERROR(spend_the_rest(best));
    TESSERA_RETURN_IF_ERROR(exchange(best));
    TESSERA_ASSIGN_OR_RETURN(result_.best, trial(best));
    result_.schedule = to_json(schedule_of(best));
    result_.trials = static_cast<int64_t>(tried_.size());
    find_front();
    return result_;
  }

 private:
  double loss(const KeepTrial& trial) const {
    const double lost = result_.dense.metric - trial.metric;
    return better_ == Better::kHigher ? lost : -lost;
  }
  double work_of(const Tenths& tenths) const {
    return plan_pruning(state_, schedule_of(tenths), options_.tokens).reading;
  }

  // The metric of the whole task, from the file where it was computed before.
  Result<KeepTrial> trial(const Tenths& tenths) {
    KeepTrial tried{.shares = shares_of(tenths), .work = work_of(tenths)};
    const double* known = trials_.find(tenths);
    if (known == nullptr || tried_.empty()) {
      TESSERA_ASSIGN_OR_RETURN(const double metric, evaluate_with(tenths));
      if (known == nullptr) TESSERA_RETURN_IF_ERROR(trials_.add(tenths, metric));
      tried.metric = metric;
    } else {
      tried.metric = *known;
    }
    tried_[tenths] = tried;
    return tried;
  }

  Result<double> evaluate_with(const Tenths& tenths) {
    state_.pruning = schedule_of(tenths);
    const std::string what = fmt::format("trying schedule {}", tried_.size() + 1);
    TESSERA_ASSIGN_OR_RETURN(
        const Evaluation evaluation,
        evaluate(model_, task_,
                 {.bootstrap = {.resamples = 0},
                  .on_progress = [&](const std::string&, int64_t done, int64_t total) {
                    return !options_.on_progress || options_.on_progress(what, done, total);
                  }}));
    if (evaluation.metrics.empty()) return invalid_input("search: expected a metric, found none");
    result_.metric = evaluation.metrics.front().name;
    better_ = evaluation.metrics.front().better;
    return evaluation.metrics.front().value;
  }

  Result<bool> fits(const Tenths& tenths, double budget) {
    TESSERA_ASSIGN_OR_RETURN(const KeepTrial tried, trial(tenths));
    return loss(tried) <= budget;
  }

  // Each layer, with those behind it at most as large, by bisection. What a layer's own part of the
  // budget leaves over is the next one's.
  Status from_the_back(Tenths& best) {
    for (size_t layer = layers_ - 1; layer > 0; --layer) {
      const double part =
          options_.budget * static_cast<double>(layers_ - layer) / static_cast<double>(layers_ - 1);
      int most = kAll;
      for (int least = 1; least < most;) {
        const int middle = (least + most) / 2;
        TESSERA_ASSIGN_OR_RETURN(const bool fit, fits(lowered(best, layer, middle), part));
        (fit ? most : least) = fit ? middle : middle + 1;
      }
      best = lowered(best, layer, most);
    }
    return {};
  }

  static Tenths lowered(Tenths tenths, size_t layer, int most) {
    for (size_t i = layer; i < tenths.size(); ++i) tenths[i] = std::min(tenths[i], most);
    return tenths;
  }

  // A tenth less in the layer where that costs least for what it saves, as long as one fits.
  Status spend_the_rest(Tenths& best) {
    for (bool found = true; found;) {
      found = false;
      Tenths choice;
      double least = 0;
      for (size_t layer = 1; layer < layers_; ++layer) {
        if (best[layer] <= 1) continue;
        const Tenths next = lowered(best, layer, best[layer] - 1);
        TESSERA_ASSIGN_OR_RETURN(const KeepTrial tried, trial(next));
        if (loss(tried) > options_.budget) continue;
        const double price = loss(tried) / std::max(work_of(best) - tried.work, 1e-9);
        if (found && price >= least) continue;
        found = true;
        least = price;
        choice = next;
      }
      if (found) best = choice;
    }
    return {};
  }

  // One layer keeps a tenth more and another one a tenth less, where that saves work within the
  // budget.
  Status exchange(Tenths& best) {
    if (layers_ < 3) return {};
    std::mt19937_64 random(options_.seed);
    for (int64_t i = 0; i < options_.exchanges; ++i) {
      Tenths next = best;
      ++next[1 + random() % (layers_ - 1)];
      const size_t less = 1 + random() % (layers_ - 1);
      next[less] -= 1 + static_cast<int>(random() % 2);
      const bool falls = std::is_sorted(next.rbegin(), next.rend());
      if (!falls || next[1] > kAll || next.back() < 1 || work_of(next) >= work_of(best)) continue;
      TESSERA_ASSIGN_OR_RETURN(const bool fit, fits(next, options_.budget));
      if (fit) best = next;
    }
    return {};
  }

  void find_front() {
    for (const auto& entry : tried_) {
      const KeepTrial& trial = entry.second;
      const bool is_beaten = std::any_of(tried_.begin(), tried_.end(), [&](const auto& other) {
        const KeepTrial& one = other.second;
        const bool no_worse = one.work <= trial.work && loss(one) <= loss(trial);
        return no_worse && (one.work < trial.work || loss(one) < loss(trial));
      });
      if (!is_beaten) result_.front.push_back(trial);
    }
    std::stable_sort(result_.front.begin(), result_.front.end(),
                     [](const KeepTrial& a, const KeepTrial& b) { return a.work > b.work; });
  }

  const std::shared_ptr<Model>& model_;
  ModelState& state_;
  const EvaluationTask& task_;
  const KeepSearchOptions& options_;
  Trials trials_;
  size_t layers_;
  Better better_ = Better::kHigher;
  std::map<Tenths, KeepTrial> tried_;
  KeepSearch result_;
};

// What trials of a file were tried with.
std::string key_of(const ModelInfo& info, const EvaluationTask& task) {
  return ordered_json({{"model", info.directory},
                       {"bytes", info.checkpoint_bytes},
                       {"weights", info.weight_type},
                       {"task", task.name},
                       {"split", task.split},
                       {"data", task.data.paths},
                       {"examples", task.max_examples}})
      .dump();
}

}  // namespace

Result<KeepSearch> search_keep(const std::shared_ptr<Model>& model, const EvaluationTask& task,
                               const KeepSearchOptions& options) {
  return guarded("search", [&]() -> Result<KeepSearch> {
    ModelState& state = state_of(*model);
    if (state.architecture.layer_count() < 2) {
      return unsupported(
          "search: expected a model of two layers or more, as the first one keeps all tokens, "
          "found one layer");
    }
    if (!(options.budget >= 0))
      return invalid_input(
          fmt::format("search: budget: expected 0 or more, found {}", options.budget));
    TESSERA_ASSIGN_OR_RETURN(Trials trials,
                             Trials::open(options.state_file, key_of(model->info(), task)));
    const std::optional<PruningSchedule> own = std::exchange(state.pruning, std::nullopt);
    Result<KeepSearch> found = Search(model, task, options, std::move(trials)).run();
    state.pruning = own;
    return found;
  });
}

}  // namespace tessera
