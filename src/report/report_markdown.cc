#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "report/report_table.h"
#include "report/watch.h"

namespace tessera {
namespace {

using Cells = std::vector<std::string>;

std::string number(double value) {
  if (!std::isfinite(value)) return "-";
  return std::abs(value) < 10 ? fmt::format("{:.4f}", value) : fmt::format("{:.2f}", value);
}

// With a sign; small ones with as many digits as tell them from 0.
std::string difference(double value) {
  if (!std::isfinite(value)) return "-";
  const double size = std::abs(value);
  if (size < 1e-9) return "0";
  if (size < 1e-6) return fmt::format("{:+.0e}", value);
  if (size < 1e-3) return fmt::format("{:+.6f}", value);
  return size < 10 ? fmt::format("{:+.4f}", value) : fmt::format("{:+.2f}", value);
}

// With its interval, where it has one.
std::string with_interval(const Metric& metric) {
  if (!std::isfinite(metric.low) || !std::isfinite(metric.high)) return number(metric.value);
  return fmt::format("{} [{}, {}]", number(metric.value), number(metric.low), number(metric.high));
}

std::string with_interval(const MetricDifference& each) {
  if (!std::isfinite(each.low) || !std::isfinite(each.high)) return difference(each.difference);
  return fmt::format("{} [{}, {}]", difference(each.difference), difference(each.low),
                     difference(each.high));
}

std::string p_value(const MetricDifference& each) {
  return std::isfinite(each.p_value) ? fmt::format("{:.3f}", each.p_value) : "-";
}

// Three digits, or all before the point.
std::string three(double value) {
  if (!std::isfinite(value)) return "-";
  const double size = std::abs(value);
  return fmt::format("{:.{}f}", value, size < 1 ? 3 : size < 10 ? 2 : size < 100 ? 1 : 0);
}

std::string megabytes(int64_t bytes) { return three(static_cast<double>(bytes) * 1e-6); }

std::string row(const Cells& cells) {
  std::string line = "|";
  for (const std::string& cell : cells) line += " " + markdown_cell(cell) + " |";
  return line + "\n";
}

std::string table_text(const std::vector<Cells>& rows) {
  std::string text = row(rows.front()) + "|";
  for (size_t i = 0; i < rows.front().size(); ++i) text += "---|";
  text += "\n";
  for (size_t i = 1; i < rows.size(); ++i) text += row(rows[i]);
  return text;
}

const MetricDifference* difference_of(const ReportVariant& variant, size_t task,
                                      const std::string& metric) {
  if (task >= variant.differences.size()) return nullptr;
  for (const MetricDifference& each : variant.differences[task]) {
    if (each.name == metric) return &each;
  }
  return nullptr;
}

std::string busy(const TimingNumbers& numbers) { return numbers.is_disturbed ? " (busy)" : ""; }

std::string accuracy_section(const ReportTable& table, size_t task) {
  const RecipeTask& recipe = table.recipe.tasks[task];
  std::vector<Cells> rows = {{"variant"}};
  const Evaluation& first = table.variants.front().evaluations[task];
  for (const Metric& metric : first.metrics) rows[0].push_back(metric.name);
  const Metric* main = main_metric(recipe, first);
  if (main != nullptr) {
    rows[0].push_back(main->name + ", difference to the base");
    rows[0].push_back("p");
  }
  for (size_t v = 0; v < table.variants.size(); ++v) {
    const ReportVariant& variant = table.variants[v];
    Cells& cells = rows.emplace_back(Cells{table.recipe.variants[v].name});
    for (const Metric& metric : variant.evaluations[task].metrics)
      cells.push_back(with_interval(metric));
    if (main == nullptr) continue;
    const MetricDifference* found = difference_of(variant, task, main->name);
    cells.push_back(found != nullptr ? with_interval(*found) : "-");
    cells.push_back(found != nullptr ? p_value(*found) : "-");
  }
  const EvaluationCounts& counts = first.counts;
  std::string text =
      fmt::format("### {}\n\n{} examples, by {}.", recipe.name, counts.examples, first.method);
  if (counts.skipped > 0)
    text += fmt::format(" {} rows of bad data were left out.", counts.skipped);
  if (counts.cut > 0) text += fmt::format(" {} texts were cut to the model's length.", counts.cut);
  return text + "\n\n" + table_text(rows) + "\n";
}

std::string latency_section(const ReportTable& table, size_t workload) {
  const RecipeWorkload& recipe = table.recipe.workloads[workload];
  std::vector<Cells> rows = {{"variant", "median ms", "p90 ms", "tokens/s", "time / base",
                              "in the rounds", "GFLOP executed", "GFLOP dense"}};
  for (size_t v = 0; v < table.variants.size(); ++v) {
    const TimingNumbers& numbers = table.variants[v].numbers[workload];
    const TimedVariant& timed = table.variants[v].timings[workload];
    rows.push_back({table.recipe.variants[v].name + busy(numbers), three(numbers.median_ms),
                    three(numbers.p90_ms), three(numbers.tokens_per_second),
                    fmt::format("{:.3f}", numbers.ratio),
                    fmt::format("{:.3f} to {:.3f}", numbers.ratio_low, numbers.ratio_high),
                    three(timed.flops * 1e-9), three(timed.dense_flops * 1e-9)});
  }
  const std::string sequences =
      recipe.batch == 1 ? "one sequence" : fmt::format("{} sequences", recipe.batch);
  const std::string what =
      recipe.new_tokens > 0 ? fmt::format("A step of generating {} tokens behind {}, {} at a time.",
                                          recipe.new_tokens, recipe.tokens, sequences)
                            : fmt::format("A pass over {} of {} tokens.", sequences, recipe.tokens);
  return fmt::format("### {}\n\n{}\n\n", recipe.name, what) + table_text(rows) + "\n";
}

std::string size_section(const ReportTable& table) {
  std::vector<Cells> rows = {
      {"variant", "weights", "threads", "MB on disk", "MB in memory", "model"}};
  for (size_t v = 0; v < table.variants.size(); ++v) {
    const VariantFacts& facts = table.variants[v].facts;
    const RecipeVariant& recipe = table.recipe.variants[v];
    std::string how = recipe.model;
    if (recipe.compress) how += ", compressed: " + recipe.compress->key;
    if (recipe.cache) how += fmt::format(", cache {}", name(*recipe.cache));
    if (!recipe.attention.empty()) how += ", attention " + recipe.attention;
    if (!recipe.plan.empty()) how += ", plan " + recipe.plan;
    if (!recipe.pruning.empty()) how += ", pruning " + recipe.pruning;
    rows.push_back({recipe.name, facts.weight_type, std::to_string(facts.threads),
                    megabytes(facts.bytes_on_disk), megabytes(facts.bytes_in_memory), how});
  }
  return table_text(rows) + "\n";
}

std::string explanation(const ReportTable& table) {
  const Recipe& recipe = table.recipe;
  std::string text;
  if (!recipe.tasks.empty()) {
    text += fmt::format(
        "In brackets: {:.4g}% intervals of a bootstrap of {} resamples (seed {}) over the "
        "examples; "
        "those of a difference draw the same examples for both, and p is the share of resamples "
        "that are as far from the difference as it is from 0. ",
        100 * recipe.bootstrap.confidence, recipe.bootstrap.resamples, recipe.bootstrap.seed);
  }
  if (!recipe.workloads.empty()) {
    text += fmt::format(
        "Variants take turns in one process, {} rounds of at least {:.4g} s each; a time is the "
        "median over the rounds of a round's median (90th percentile), time / base the median over "
        "the rounds of the ratio in the same round. `(busy)`: other processes took more than "
        "{:.0f}% "
        "of the cores in every try. GFLOP count the linear maps and attention's products, executed "
        "and as the dense form would need. ",
        recipe.timing.rounds, recipe.timing.seconds, 100 * Watch::kOthersAllowed);
  }
  text += fmt::format(
      "The base is *{}*. *On the front* is what no other variant beats: as good in the first "
      "metric, the first time and memory, and better in one. What is worse than the base in that "
      "metric beyond the interval of the difference is not.",
      markdown_cell(recipe.variants[recipe.base].name));
  return text;
}

}  // namespace

std::string markdown_cell(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '|') out += '\\';
    out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return out;
}

std::vector<std::vector<std::string>> report_summary(const ReportTable& table) {
  const Recipe& recipe = table.recipe;
  Cells head = {"variant"};
  for (size_t t = 0; t < recipe.tasks.size(); ++t) {
    const Metric* metric = main_metric(recipe.tasks[t], table.variants.front().evaluations[t]);
    head.push_back(fmt::format("{}: {}", recipe.tasks[t].name,
                               metric != nullptr ? metric->name : "no metric"));
    head.push_back("difference");
  }
  for (const RecipeWorkload& workload : recipe.workloads) {
    head.push_back(workload.name + ": ms");
    head.push_back("/ base");
  }
  head.insert(head.end(), {"MB on disk", "MB in memory", "on the front"});
  std::vector<Cells> rows = {head};
  for (size_t v = 0; v < table.variants.size(); ++v) {
    const ReportVariant& variant = table.variants[v];
    Cells& cells = rows.emplace_back(Cells{recipe.variants[v].name});
    for (size_t t = 0; t < recipe.tasks.size(); ++t) {
      const Metric* metric = main_metric(recipe.tasks[t], variant.evaluations[t]);
      const MetricDifference* found =
          metric != nullptr ? difference_of(variant, t, metric->name) : nullptr;
      cells.push_back(metric != nullptr ? with_interval(*metric) : "-");
      cells.push_back(found != nullptr ? with_interval(*found) : "-");
    }
    for (const TimingNumbers& numbers : variant.numbers) {
      cells.push_back(three(numbers.median_ms) + busy(numbers));
      cells.push_back(fmt::format("{:.2f}", numbers.ratio));
    }
    cells.insert(cells.end(),
                 {megabytes(variant.facts.bytes_on_disk), megabytes(variant.facts.bytes_in_memory),
                  variant.is_on_front ? "yes" : ""});
  }
  return rows;
}

std::string report_markdown(const ReportTable& table, const std::string& plot_file) {
  const Recipe& recipe = table.recipe;
  std::string text =
      fmt::format("# {}\n\nMade by\n\n    {}\n\n", markdown_cell(recipe.title), table.command);
  text += fmt::format("with Tessera {} on {}, {} cores, {}.\n\n", table.program, table.cpu,
                      table.cpus, table.date);
  text += explanation(table) + "\n\n";
  text += fmt::format("![{}]({})\n\n", markdown_cell(recipe.title), plot_file);
  text += table_text(report_summary(table)) + "\n";
  if (!recipe.tasks.empty()) text += "## Accuracy\n\n";
  for (size_t t = 0; t < recipe.tasks.size(); ++t) text += accuracy_section(table, t);
  if (!recipe.workloads.empty()) text += "## Latency\n\n";
  for (size_t w = 0; w < recipe.workloads.size(); ++w) text += latency_section(table, w);
  text += "## Size\n\n" + size_section(table);
  text.pop_back();  // sections end with an empty line
  return text;
}

}  // namespace tessera
