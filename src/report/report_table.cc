#include "report/report_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

namespace tessera {
namespace {

using OrderedJson = nlohmann::ordered_json;

double cost_of(const Metric& metric) {
  return metric.better == Better::kHigher ? -metric.value : metric.value;
}

bool beats(const std::vector<double>& a, const std::vector<double>& b) {
  bool is_better = false;
  for (size_t i = 0; i < a.size(); ++i) {
    // Written so that NaN beats nothing.
    if (!(a[i] <= b[i])) return false;
    is_better = is_better || a[i] < b[i];
  }
  return is_better;
}

// Whether a task's first metric is worse than the base's by more than its interval can explain.
bool is_worse_than_base(const ReportTable& table, size_t task, size_t variant) {
  const ReportVariant& own = table.variants[variant];
  if (task >= table.recipe.tasks.size() || task >= own.differences.size()) return false;
  const Metric* metric = main_metric(table.recipe.tasks[task], own.evaluations[task]);
  if (metric == nullptr) return false;
  for (const MetricDifference& each : own.differences[task]) {
    if (each.name != metric->name) continue;
    return metric->better == Better::kHigher ? each.high < 0 : each.low > 0;
  }
  return false;
}

OrderedJson number(double value) {
  return std::isfinite(value) ? OrderedJson(value) : OrderedJson(nullptr);
}

OrderedJson task_json(const RecipeTask& task, const Evaluation& evaluation,
                      const std::vector<MetricDifference>& differences) {
  OrderedJson json;
  json["task"] = task.name;
  json["method"] = evaluation.method;
  json["examples"] = evaluation.counts.examples;
  json["skipped"] = evaluation.counts.skipped;
  json["cut"] = evaluation.counts.cut;
  json["tokens"] = evaluation.counts.tokens;
  json["seconds"] = number(evaluation.seconds);
  json["metrics"] = OrderedJson::array();
  for (const Metric& metric : evaluation.metrics) {
    json["metrics"].push_back({{"name", metric.name},
                               {"value", number(metric.value)},
                               {"low", number(metric.low)},
                               {"high", number(metric.high)},
                               {"better", metric.better == Better::kHigher ? "higher" : "lower"}});
  }
  for (const MetricDifference& each : differences) {
    json["differences"].push_back({{"name", each.name},
                                   {"difference", number(each.difference)},
                                   {"low", number(each.low)},
                                   {"high", number(each.high)},
                                   {"p_value", number(each.p_value)}});
  }
  return json;
}

OrderedJson workload_json(const RecipeWorkload& workload, const TimedVariant& timed,
                          const TimingNumbers& numbers) {
  OrderedJson json;
  json["workload"] = workload.name;
  json["median_ms"] = numbers.median_ms;
  json["p10_ms"] = numbers.p10_ms;
  json["p90_ms"] = numbers.p90_ms;
  json["tokens_per_second"] = numbers.tokens_per_second;
  json["ratio_to_base"] = numbers.ratio;
  json["ratio_low"] = numbers.ratio_low;
  json["ratio_high"] = numbers.ratio_high;
  json["flops"] = timed.flops;
  json["dense_flops"] = timed.dense_flops;
  json["samples"] = numbers.samples;
  json["others"] = numbers.others;
  json["busy"] = numbers.is_disturbed;
  json["rounds"] = OrderedJson::array();
  for (const TimedTurn& turn : timed.turns) {
    json["rounds"].push_back({{"median_ms", quantile_of(turn.milliseconds, 0.5)},
                              {"p90_ms", quantile_of(turn.milliseconds, 0.9)},
                              {"samples", turn.milliseconds.size()},
                              {"others", turn.others}});
  }
  return json;
}

OrderedJson variant_json(const ReportTable& table, size_t which) {
  const RecipeVariant& recipe = table.recipe.variants[which];
  const ReportVariant& variant = table.variants[which];
  OrderedJson json;
  json["name"] = recipe.name;
  json["model"] = recipe.model;
  if (recipe.compress)
    json["compress"] = {{"options", recipe.compress->key}, {"directory", recipe.made}};
  json["dtype"] = name(recipe.dtype);
  json["weight_type"] = variant.facts.weight_type;
  if (recipe.cache) json["cache"] = name(*recipe.cache);
  json["threads"] = variant.facts.threads;
  if (!recipe.attention.empty()) json["attention"] = recipe.attention;
  if (!recipe.plan.empty()) json["plan"] = recipe.plan;
  if (!recipe.pruning.empty()) json["pruning"] = recipe.pruning;
  if (!recipe.series.empty()) json["series"] = recipe.series;
  json["parameters"] = variant.facts.parameters;
  json["bytes_on_disk"] = variant.facts.bytes_on_disk;
  json["bytes_in_memory"] = variant.facts.bytes_in_memory;
  json["front"] = variant.is_on_front;
  json["tasks"] = OrderedJson::array();
  for (size_t t = 0; t < variant.evaluations.size(); ++t) {
    json["tasks"].push_back(task_json(
        table.recipe.tasks[t], variant.evaluations[t],
        t < variant.differences.size() ? variant.differences[t] : std::vector<MetricDifference>()));
  }
  json["workloads"] = OrderedJson::array();
  for (size_t w = 0; w < variant.timings.size(); ++w) {
    json["workloads"].push_back(
        workload_json(table.recipe.workloads[w], variant.timings[w], variant.numbers[w]));
  }
  return json;
}

// The panels of the plot: each variant is a labelled point, or one of a series that the recipe
// names.
class Panels {
 public:
  explicit Panels(const ReportTable& table) : table_(table) {}

  void add(size_t task, const std::string& x_label, const std::vector<double>& x) {
    const RecipeTask& recipe = table_.recipe.tasks[task];
    const Metric* metric = main_metric(recipe, table_.variants.front().evaluations[task]);
    if (metric == nullptr) return;
    std::vector<PlotPoint> points;
    std::vector<double> y;
    std::vector<std::vector<double>> costs;
    for (size_t v = 0; v < table_.variants.size(); ++v) {
      const Metric* found = main_metric(recipe, table_.variants[v].evaluations[task]);
      if (found == nullptr || !std::isfinite(found->value)) return;
      PlotPoint& point = points.emplace_back(PlotPoint{x[v], found->value});
      if (std::isfinite(found->low) && std::isfinite(found->high))
        point.y_range = PlotRange{found->low, found->high};
      const PlotRange range = point.y_range.value_or(PlotRange{point.y, point.y});
      y.insert(y.end(), {range.low, point.y, range.high});
      costs.push_back({x[v], cost_of(*found)});
    }
    PlotPanel panel;
    panel.title = recipe.name;
    constexpr double kWideCosts = 8, kWideMetric = 50;
    panel.x = axis(x_label, x, kWideCosts);
    // What has no upper end, such as perplexity, may differ by powers of ten.
    const bool is_cost = metric->better == Better::kLower;
    panel.y = axis(fmt::format("{}, {} is better", metric->name, is_cost ? "lower" : "higher"), y,
                   is_cost ? kWideMetric : std::numeric_limits<double>::infinity());
    panel.series = series_of(points);
    PlotSeries front{"", SeriesStyle::kFront, {}};
    const std::vector<bool> is_on_front = pareto_front(costs);
    for (size_t v = 0; v < costs.size(); ++v) {
      if (is_on_front[v] && !is_worse_than_base(table_, task, v))
        front.points.push_back({points[v].x, points[v].y});
    }
    panel.series.push_back(std::move(front));
    panels_.push_back(std::move(panel));
  }

  // Without tasks: the times of each workload, a line a variant.
  void add_times(size_t workload, const std::vector<double>& x) {
    PlotPanel panel;
    panel.title = table_.recipe.workloads[workload].name;
    panel.x.label = "median time, ms";
    PlotSeries series;
    for (size_t v = 0; v < x.size(); ++v) {
      panel.y.categories.push_back(table_.recipe.variants[v].name);
      series.points.push_back({x[v], static_cast<double>(v)});
    }
    panel.series.push_back(std::move(series));
    panels_.push_back(std::move(panel));
  }

  std::vector<PlotPanel> take() { return std::move(panels_); }

 private:
  // Logarithmic where the largest value is more than `wide` times the least.
  static PlotAxis axis(std::string label, const std::vector<double>& values, double wide) {
    const auto [least, most] = std::minmax_element(values.begin(), values.end());
    const bool log = *least > 0 && *most > wide * *least;
    if (log) label += " (log scale)";
    return {.label = std::move(label), .scale = log ? Scale::kLog : Scale::kLinear};
  }

  // In the order of the variants. Where any has a series the others are series of one point:
  // a legend names them all, and no label does.
  std::vector<PlotSeries> series_of(const std::vector<PlotPoint>& points) const {
    const std::vector<RecipeVariant>& variants = table_.recipe.variants;
    const bool any = std::any_of(variants.begin(), variants.end(),
                                 [](const RecipeVariant& one) { return !one.series.empty(); });
    std::vector<PlotSeries> all;
    for (size_t v = 0; v < points.size(); ++v) {
      const bool alone = variants[v].series.empty();
      const std::string& name = alone ? variants[v].name : variants[v].series;
      auto found = std::find_if(all.begin(), all.end(), [&](const PlotSeries& one) {
        return !alone && one.style == SeriesStyle::kLine && one.name == name;
      });
      if (found == all.end()) {
        all.push_back({name, alone ? SeriesStyle::kMarkers : SeriesStyle::kLine, {}});
        found = all.end() - 1;
      }
      found->points.push_back(points[v]);
      if (!any) found->points.back().label = name;
    }
    return all;
  }

  const ReportTable& table_;
  std::vector<PlotPanel> panels_;
};

}  // namespace

std::vector<bool> pareto_front(const std::vector<std::vector<double>>& costs) {
  std::vector<bool> front;
  for (const std::vector<double>& own : costs) {
    front.push_back(std::none_of(costs.begin(), costs.end(), [&](const std::vector<double>& other) {
      return beats(other, own);
    }));
  }
  return front;
}

const Metric* main_metric(const RecipeTask& task, const Evaluation& evaluation) {
  for (const Metric& metric : evaluation.metrics) {
    if (task.metric.empty() || metric.name == task.metric) return &metric;
  }
  return nullptr;
}

void summarise(ReportTable& table) {
  const Recipe& recipe = table.recipe;
  std::vector<std::vector<double>> costs;
  for (ReportVariant& variant : table.variants) {
    variant.numbers.clear();
    for (size_t w = 0; w < recipe.workloads.size(); ++w) {
      variant.numbers.push_back(
          numbers_of(variant.timings[w], table.variants[recipe.base].timings[w]));
    }
    std::vector<double>& cost = costs.emplace_back();
    cost.push_back(static_cast<double>(variant.facts.bytes_in_memory));
    if (!recipe.workloads.empty()) cost.push_back(variant.numbers.front().median_ms);
    if (recipe.tasks.empty()) continue;
    const Metric* metric = main_metric(recipe.tasks.front(), variant.evaluations.front());
    cost.push_back(metric != nullptr ? cost_of(*metric) : 0);
  }
  const std::vector<bool> front = pareto_front(costs);
  for (size_t v = 0; v < front.size(); ++v)
    table.variants[v].is_on_front = front[v] && !is_worse_than_base(table, 0, v);
}

std::string report_json(const ReportTable& table) {
  const Recipe& recipe = table.recipe;
  OrderedJson json;
  json["title"] = recipe.title;
  json["command"] = table.command;
  json["program"] = table.program;
  json["cpu"] = table.cpu;
  json["cpus"] = table.cpus;
  json["date"] = table.date;
  json["base"] = recipe.variants[recipe.base].name;
  json["timing"] = {{"rounds", recipe.timing.rounds},
                    {"seconds", recipe.timing.seconds},
                    {"samples", recipe.timing.samples}};
  json["bootstrap"] = {{"resamples", recipe.bootstrap.resamples},
                       {"confidence", recipe.bootstrap.confidence},
                       {"seed", recipe.bootstrap.seed}};
  json["workloads"] = OrderedJson::array();
  for (const RecipeWorkload& each : recipe.workloads) {
    OrderedJson workload = {{"name", each.name}, {"batch", each.batch}, {"tokens", each.tokens}};
    if (each.new_tokens > 0) workload["new_tokens"] = each.new_tokens;
    json["workloads"].push_back(std::move(workload));
  }
  json["variants"] = OrderedJson::array();
  for (size_t v = 0; v < table.variants.size(); ++v)
    json["variants"].push_back(variant_json(table, v));
  return json.dump(1, ' ', false, OrderedJson::error_handler_t::replace) + "\n";
}

Plot report_plot(const ReportTable& table) {
  const Recipe& recipe = table.recipe;
  Plot plot{.title = recipe.title, .columns = 2};
  Panels panels(table);
  std::vector<double> megabytes;
  for (const ReportVariant& variant : table.variants)
    megabytes.push_back(static_cast<double>(variant.facts.bytes_in_memory) * 1e-6);
  const auto times = [&](size_t workload) {
    std::vector<double> milliseconds;
    for (const ReportVariant& variant : table.variants)
      milliseconds.push_back(variant.numbers[workload].median_ms);
    return milliseconds;
  };
  // Each of several tasks has the first workload beside it; a single one has all of them.
  const size_t shown = recipe.tasks.size() > 1 ? std::min<size_t>(1, recipe.workloads.size())
                                               : recipe.workloads.size();
  for (size_t t = 0; t < recipe.tasks.size(); ++t) {
    for (size_t w = 0; w < shown; ++w)
      panels.add(t, fmt::format("median time of {}, ms", recipe.workloads[w].name), times(w));
    panels.add(t, "weights in memory, MB", megabytes);
  }
  if (recipe.tasks.empty()) {
    for (size_t w = 0; w < recipe.workloads.size(); ++w) panels.add_times(w, times(w));
  }
  plot.panels = panels.take();
  if (plot.panels.size() == 1) plot.columns = 1;
  return plot;
}

}  // namespace tessera
