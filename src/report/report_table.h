#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "plot/plot.h"
#include "report/recipe.h"
#include "report/timing.h"
#include "tessera/evaluate.h"

namespace tessera {

// What loading a variant tells.
struct VariantFacts {
  int64_t bytes_on_disk = 0;    // of the safetensors files
  int64_t bytes_in_memory = 0;  // of the weights
  int64_t parameters = 0;
  std::string weight_type;
  int64_t threads = 0;
  int64_t max_tokens = 0;  // of a sequence
  // Equal for variants of one model.
  std::string family;
  int64_t vocabulary = 0;
  int64_t generates = 0;  // 1: has a causal language-model head
};

struct ReportVariant {
  VariantFacts facts;
  std::vector<Evaluation> evaluations;                     // a task each
  std::vector<std::vector<MetricDifference>> differences;  // to the base; empty for the base
  std::vector<TimedVariant> timings;                       // a workload each
  std::vector<TimingNumbers> numbers;
  bool is_on_front = false;
};

// All that a report says.
struct ReportTable {
  Recipe recipe;
  std::string command, program, cpu, date;
  int cpus = 0;
  std::vector<ReportVariant> variants;  // as in the recipe
};

// Which of these no other one beats: is as good in every number and better in one. Lower is better.
// All have equally many numbers.
std::vector<bool> pareto_front(const std::vector<std::vector<double>>& costs);

// The metric that the recipe names for the task, else the first; null without any.
const Metric* main_metric(const RecipeTask& task, const Evaluation& evaluation);

// Fills in numbers and is_on_front: by the first task's metric, the first workload's latency and
// the bytes in memory, as far as there are any. What is worse than the base in that metric by more
// than the interval of the difference is not on the front.
void summarise(ReportTable& table);

std::string report_markdown(const ReportTable& table, const std::string& plot_file);
std::string report_json(const ReportTable& table);
Plot report_plot(const ReportTable& table);
std::vector<std::vector<std::string>> report_summary(const ReportTable& table);

// "|" would end a cell, and line ends the row.
std::string markdown_cell(const std::string& text);

}  // namespace tessera
