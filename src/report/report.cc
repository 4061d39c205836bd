#include "tessera/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/guarded.h"
#include "base/shell.h"
#include "base/team.h"
#include "io/json_at.h"
#include "io/mapped_file.h"
#include "plan/machine.h"
#include "report/cells.h"
#include "report/report_table.h"
#include "report/variant_models.h"
#include "tessera/compress.h"
#include "tessera/machine.h"
#include "tessera/version.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

std::string command_of(const std::string& recipe, const ReportOptions& options) {
  std::string command = "tessera report " + shell_quote(recipe);
  for (const auto& [name, value] : options.parameters)
    command += " --set " + shell_quote(name + "=" + value);
  if (options.effort == ReportOptions::Effort::kQuick) command += " --quick";
  return command + " -o " + shell_quote(options.output);
}

std::string today() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  return fmt::format("{:04}-{:02}-{:02}", parts.tm_year + 1900, parts.tm_mon + 1, parts.tm_mday);
}

std::string environment_variable(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

// What decides the result of every cell: the code, the CPU, and what restricts or moves the choice
// of kernels.
std::string machine_identity() {
  const Result<std::string> table = identity_of(machine_table_path());
  return fmt::format("{} | {} | {} | {} | {}", program_identity(), this_cpu(),
                     environment_variable("TESSERA_ISA"), environment_variable("TESSERA_KERNEL"),
                     table.ok() ? *table : "");
}

// Keys are one line, whatever names of files hold.
std::string one_line(std::string key) {
  for (char& c : key) {
    if (static_cast<unsigned char>(c) < 0x20) c = ' ';
  }
  return key;
}

VariantFacts facts_of(const ModelInfo& info) {
  return {.bytes_on_disk = info.checkpoint_bytes,
          .bytes_in_memory = info.prepared_bytes,
          .parameters = info.parameters,
          .weight_type = info.weight_type,
          .threads = info.threads,
          .max_tokens = info.max_positions,
          .family = info.family,
          .vocabulary = info.vocabulary_size,
          .generates = info.head == Head::kCausalLm};
}

std::string facts_to_json(const VariantFacts& facts) {
  return nlohmann::json{{"bytes_on_disk", facts.bytes_on_disk},
                        {"bytes_in_memory", facts.bytes_in_memory},
                        {"parameters", facts.parameters},
                        {"weight_type", facts.weight_type},
                        {"threads", facts.threads},
                        {"family", facts.family},
                        {"vocabulary", facts.vocabulary},
                        {"max_tokens", facts.max_tokens},
                        {"generates", facts.generates}}
      .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

Result<VariantFacts> facts_from_json(const std::string& text, const std::string& source) {
  TESSERA_ASSIGN_OR_RETURN(const Json root, parse_json(text, source));
  const JsonAt at(root, source);
  VariantFacts facts;
  for (const auto& [key, value] :
       {std::pair{"bytes_on_disk", &facts.bytes_on_disk},
        std::pair{"bytes_in_memory", &facts.bytes_in_memory},
        std::pair{"parameters", &facts.parameters}, std::pair{"threads", &facts.threads},
        std::pair{"vocabulary", &facts.vocabulary}, std::pair{"max_tokens", &facts.max_tokens},
        std::pair{"generates", &facts.generates}}) {
    TESSERA_ASSIGN_OR_RETURN(const JsonAt member, at.need(key));
    TESSERA_ASSIGN_OR_RETURN(*value, member.integer(0, INT64_MAX));
  }
  TESSERA_ASSIGN_OR_RETURN(facts.weight_type, at.text_or("weight_type", ""));
  TESSERA_ASSIGN_OR_RETURN(facts.family, at.text_or("family", ""));
  return facts;
}

// Fills a table cell by cell.
class ReportRun {
 public:
  // own_files: of the report, which may lie in a model's folder and are no part of it.
  ReportRun(Recipe recipe, const ReportOptions& options, std::vector<fs::path> own_files)
      : options_(options),
        own_files_(std::move(own_files)),
        store_(fs::path(options.output).replace_extension(".cells").string(),
               options.cells == ReportOptions::Cells::kUse ? CellStore::Kept::kUse
                                                           : CellStore::Kept::kIgnore) {
    table_.recipe = std::move(recipe);
    table_.variants.resize(table_.recipe.variants.size());
  }

  Status run() {
    std::error_code error;
    fs::create_directories(store_.folder(), error);
    if (error)
      return io_error(fmt::format("{}: cannot make it: {}", store_.folder(), error.message()));
    const Recipe& recipe = table_.recipe;
    const auto compressed =
        std::count_if(recipe.variants.begin(), recipe.variants.end(),
                      [](const RecipeVariant& variant) { return variant.compress.has_value(); });
    cells_ = compressed + static_cast<int64_t>(recipe.variants.size() * (1 + recipe.tasks.size()) +
                                               recipe.workloads.size());
    for (RecipeVariant& variant : table_.recipe.variants)
      TESSERA_RETURN_IF_ERROR(compress_variant(variant));
    models_.emplace(table_.recipe.variants, store_.folder());
    TESSERA_RETURN_IF_ERROR(make_keys());
    TESSERA_RETURN_IF_ERROR(find_facts());
    TESSERA_RETURN_IF_ERROR(check_workloads());
    for (size_t t = 0; t < recipe.tasks.size(); ++t) TESSERA_RETURN_IF_ERROR(run_task(t));
    for (size_t w = 0; w < recipe.workloads.size(); ++w) TESSERA_RETURN_IF_ERROR(run_workload(w));
    summarise(table_);
    return {};
  }

  ReportTable& table() { return table_; }
  int64_t cells() const { return cells_; }
  int64_t measured() const { return measured_; }

 private:
  // Makes the model of a variant that is compressed, once: it stands among the cells.
  Status compress_variant(RecipeVariant& variant) {
    if (!variant.compress) return {};
    ++cell_;
    CompressOptions options = variant.compress->options;
    TESSERA_ASSIGN_OR_RETURN(const std::string source, identity_of(variant.model, own_files_));
    std::string text;
    if (!options.calibration.text_file.empty()) {
      TESSERA_ASSIGN_OR_RETURN(text, identity_of(options.calibration.text_file));
    }
    const std::string key =
        one_line(fmt::format("{} | {} | {} | {} | tokens {}", version(), source,
                             variant.compress->key, text, options.calibration.tokens));
    const fs::path target = fs::path(store_.path("compressed", key)).replace_extension("");
    variant.made = target.string();
    std::error_code error;
    if (options_.cells == ReportOptions::Cells::kMeasureAgain) fs::remove_all(target, error);
    if (fs::exists(target, error)) return {};
    ++measured_;
    options.on_progress = [&](const std::string& what, int64_t done, int64_t total) {
      return say(variant.name + ": " + what, done, total);
    };
    const Status status = compress(variant.model, variant.made, options).status();
    if (status.ok() || status.code() == StatusCode::kCancelled) return status;
    return {status.code(), fmt::format("{}: variant {}: {}", table_.recipe.source, variant.name,
                                       status.message())};
  }

  Status make_keys() {
    const std::string machine = machine_identity();
    for (const RecipeVariant& variant : table_.recipe.variants) {
      TESSERA_ASSIGN_OR_RETURN(const std::string files,
                               identity_of(variant.directory(), own_files_));
      std::string plan;
      if (!variant.plan.empty()) {
        TESSERA_ASSIGN_OR_RETURN(plan, identity_of(variant.plan));
      }
      variant_keys_.push_back(one_line(
          fmt::format("{} | {} | dtype {} | cache {} | threads {} of {} | attention {} | plan {}{}",
                      machine, files, static_cast<int>(variant.dtype),
                      static_cast<int>(variant.cache.value_or(CacheType::kF32)), variant.threads,
                      usable_cpus(), variant.attention, plan,
                      variant.pruning.empty() ? "" : " | pruning " + variant.pruning)));
    }
    return {};
  }

  // "3/14 f32: stsb test"
  bool say(const std::string& what, int64_t done, int64_t total) const {
    return !options_.on_progress ||
           options_.on_progress(fmt::format("{}/{} {}", cell_, cells_, what), done, total);
  }
  static Status cancelled() { return {StatusCode::kCancelled, "the report was cancelled"}; }

  // Loads the variants whose facts are not known, and checks that all are of one model.
  Status find_facts() {
    const Recipe& recipe = table_.recipe;
    for (size_t v = 0; v < recipe.variants.size(); ++v) {
      ++cell_;
      VariantFacts& facts = table_.variants[v].facts;
      const std::optional<std::string> kept = store_.find("model", variant_keys_[v]);
      Result<VariantFacts> read =
          kept ? facts_from_json(*kept, "model cell") : Result<VariantFacts>(not_found("no cell"));
      if (read.ok()) {
        facts = *std::move(read);
      } else {
        ++measured_;
        if (!say(recipe.variants[v].name + ": loading", 0, 0)) return cancelled();
        TESSERA_ASSIGN_OR_RETURN(const std::shared_ptr<Model> model, models_->get(v));
        facts = facts_of(model->info());
        TESSERA_RETURN_IF_ERROR(store_.put("model", variant_keys_[v], facts_to_json(facts)));
      }
      const VariantFacts& first = table_.variants.front().facts;
      if (facts.family == first.family && facts.vocabulary == first.vocabulary) continue;
      return invalid_input(fmt::format(
          "{}: variants[{}].model: expected a variant of the same model, {} with a vocabulary of "
          "{}, found {} with one of {}",
          recipe.source, v, first.family, first.vocabulary, facts.family, facts.vocabulary));
    }
    return {};
  }

  // Before anything takes time.
  Status check_workloads() const {
    const Recipe& recipe = table_.recipe;
    for (size_t w = 0; w < recipe.workloads.size(); ++w) {
      const RecipeWorkload& workload = recipe.workloads[w];
      for (size_t v = 0; v < recipe.variants.size(); ++v) {
        const VariantFacts& facts = table_.variants[v].facts;
        const std::string where = fmt::format("{}: workloads[{}], variant {}: ", recipe.source, w,
                                              recipe.variants[v].name);
        if (workload.new_tokens > 0 && facts.generates == 0)
          return invalid_input(where +
                               "expected a model that generates, found one without such a head");
        // The last token is not run.
        const int64_t needed = workload.tokens + std::max<int64_t>(workload.new_tokens - 1, 0);
        if (needed <= facts.max_tokens) continue;
        return invalid_input(where + fmt::format("expected at most the model's {} tokens, found {}",
                                                 facts.max_tokens, needed));
      }
    }
    return {};
  }

  // The base comes first, so that each other one can be compared with it.
  std::vector<size_t> base_first() const {
    std::vector<size_t> order = {table_.recipe.base};
    for (size_t v = 0; v < table_.variants.size(); ++v) {
      if (v != table_.recipe.base) order.push_back(v);
    }
    return order;
  }

  Status run_task(size_t task) {
    const RecipeTask& recipe = table_.recipe.tasks[task];
    for (const size_t v : base_first()) {
      ReportVariant& variant = table_.variants[v];
      ++cell_;
      TESSERA_ASSIGN_OR_RETURN(Evaluation evaluation, evaluate_cell(task, v));
      if (!recipe.metric.empty() && main_metric(recipe, evaluation) == nullptr)
        return unknown_metric(task, evaluation);
      const ReportVariant& base = table_.variants[table_.recipe.base];
      std::vector<MetricDifference> differences;
      if (v != table_.recipe.base) {
        Result<std::vector<MetricDifference>> found =
            compare(evaluation, base.evaluations[task], table_.recipe.bootstrap);
        if (!found.ok()) return failed(task, v, found.status());
        differences = *std::move(found);
      }
      // They are many, and needed of the base alone.
      if (v != table_.recipe.base) evaluation.examples = {};
      variant.evaluations.push_back(std::move(evaluation));
      variant.differences.push_back(std::move(differences));
    }
    table_.variants[table_.recipe.base].evaluations[task].examples = {};
    return {};
  }

  Status unknown_metric(size_t task, const Evaluation& evaluation) const {
    std::string names;
    for (const Metric& metric : evaluation.metrics)
      names += (names.empty() ? "" : ", ") + metric.name;
    return invalid_input(fmt::format("{}: tasks[{}].metric: expected one of {}, found {}",
                                     table_.recipe.source, task, names,
                                     quote(table_.recipe.tasks[task].metric)));
  }

  Status failed(size_t task, size_t variant, const Status& status) const {
    return {status.code(), fmt::format("{}: tasks[{}], variant {}: {}", table_.recipe.source, task,
                                       table_.recipe.variants[variant].name, status.message())};
  }

  Result<std::string> task_key(size_t task, size_t variant) const {
    const RecipeTask& recipe = table_.recipe.tasks[task];
    const BootstrapOptions& bootstrap = table_.recipe.bootstrap;
    std::string key = fmt::format("{} | {} | most {} | {} {} {}", variant_keys_[variant],
                                  recipe.key, recipe.task.max_examples, bootstrap.resamples,
                                  bootstrap.confidence, bootstrap.seed);
    for (const std::string& file : files_of(recipe.task)) {
      TESSERA_ASSIGN_OR_RETURN(const std::string identity, identity_of(file));
      key += " | " + identity;
    }
    if (recipe.task.kind != EvaluationKind::kAgreement) return one_line(key);
    if (recipe.reference.empty()) return one_line(key + " | " + variant_keys_[table_.recipe.base]);
    TESSERA_ASSIGN_OR_RETURN(const std::string reference, identity_of(recipe.reference));
    return one_line(key + " | " + reference);
  }

  Result<Evaluation> evaluate_cell(size_t task, size_t variant) {
    TESSERA_ASSIGN_OR_RETURN(const std::string key, task_key(task, variant));
    const std::optional<std::string> kept = store_.find("task", key);
    if (kept) {
      Result<Evaluation> read = evaluation_from_json(*kept, "task cell");
      if (read.ok()) return read;
    }
    ++measured_;
    const std::string what =
        fmt::format("{}: {}", table_.recipe.variants[variant].name, table_.recipe.tasks[task].name);
    if (!say(what, 0, 0)) return cancelled();
    EvaluationTask wanted = table_.recipe.tasks[task].task;
    if (wanted.kind == EvaluationKind::kAgreement)
      TESSERA_RETURN_IF_ERROR(find_reference(task, wanted));
    TESSERA_ASSIGN_OR_RETURN(const std::shared_ptr<Model> model, models_->get(variant));
    EvaluateOptions how{.bootstrap = table_.recipe.bootstrap};
    how.on_progress = [&](const std::string&, int64_t done, int64_t total) {
      return say(what, done, total);
    };
    Result<Evaluation> evaluation = evaluate(model, wanted, how);
    if (!evaluation.ok() && evaluation.status().code() == StatusCode::kCancelled)
      return evaluation.status();
    if (!evaluation.ok()) return failed(task, variant, evaluation.status());
    TESSERA_RETURN_IF_ERROR(
        store_.put("task", key, evaluation_json(*evaluation, {}, WithExamples::kYes)));
    return evaluation;
  }

  Status find_reference(size_t task, EvaluationTask& wanted) {
    const std::string& directory = table_.recipe.tasks[task].reference;
    TESSERA_ASSIGN_OR_RETURN(wanted.agreement.reference, directory.empty()
                                                             ? models_->get(table_.recipe.base)
                                                             : Model::load(directory));
    return {};
  }

  Status run_workload(size_t workload) {
    const Recipe& recipe = table_.recipe;
    const RecipeWorkload& what = recipe.workloads[workload];
    ++cell_;
    std::string key =
        fmt::format("{} x {} + {} | {} {} {}", what.batch, what.tokens, what.new_tokens,
                    recipe.timing.rounds, recipe.timing.seconds, recipe.timing.samples);
    for (const std::string& variant : variant_keys_) key += " | " + variant;
    const std::optional<std::string> kept = store_.find("time", key);
    Result<std::vector<TimedVariant>> timed =
        kept ? timing_from_json(*kept, "time cell", table_.variants.size())
             : Result<std::vector<TimedVariant>>(not_found("no cell"));
    if (!timed.ok()) {
      ++measured_;
      timed = time_variants(
          what, recipe.timing, table_.variants.size(),
          [&](size_t variant) { return models_->get(variant); },
          [&](int64_t done, int64_t total) { return say(what.name, done, total); });
      if (!timed.ok()) return timed.status();
      TESSERA_RETURN_IF_ERROR(store_.put("time", key, timing_to_json(*timed)));
    }
    for (size_t v = 0; v < table_.variants.size(); ++v)
      table_.variants[v].timings.push_back((*timed)[v]);
    return {};
  }

  const ReportOptions& options_;
  std::vector<fs::path> own_files_;
  CellStore store_;
  ReportTable table_;
  std::optional<VariantModels> models_;
  std::vector<std::string> variant_keys_;
  int64_t cell_ = 0, cells_ = 0, measured_ = 0;
};

// What the report is written to; the recipe itself must not be among it.
Result<std::vector<fs::path>> output_files(const std::string& recipe, const std::string& output) {
  const fs::path markdown = output;
  if (markdown.extension() != ".md" || markdown.stem().empty()) {
    return invalid_input(
        fmt::format("expected an output that ends in .md, found {}", quote(output)));
  }
  std::vector<fs::path> files = {markdown};
  for (const char* extension : {".json", ".svg"})
    files.push_back(fs::path(markdown).replace_extension(extension));
  for (const fs::path& file : files) {
    std::error_code error;
    if (fs::equivalent(file, recipe, error)) {
      return invalid_input(
          fmt::format("expected an output beside which {} is not overwritten, found {}", recipe,
                      quote(output)));
    }
  }
  return files;
}

Status write_files(const std::vector<fs::path>& paths, const Report& report) {
  const std::string* const texts[] = {&report.markdown, &report.json, &report.svg};
  for (size_t i = 0; i < paths.size(); ++i)
    TESSERA_RETURN_IF_ERROR(write_file_atomically(paths[i].string(), *texts[i]));
  return {};
}

Result<Report> run_report(const std::string& recipe_path, const ReportOptions& options) {
  TESSERA_ASSIGN_OR_RETURN(const std::vector<fs::path> files,
                           output_files(recipe_path, options.output));
  TESSERA_ASSIGN_OR_RETURN(Recipe recipe, read_recipe(recipe_path, options.parameters));
  if (options.effort == ReportOptions::Effort::kQuick) make_quick(recipe);
  std::vector<fs::path> own_files = files;
  own_files.emplace_back(recipe_path);
  ReportRun run(std::move(recipe), options, std::move(own_files));
  TESSERA_RETURN_IF_ERROR(run.run());
  ReportTable& table = run.table();
  table.command = command_of(recipe_path, options);
  table.program = version();
  table.cpu = this_cpu();
  table.cpus = usable_cpus();
  table.date = today();
  Report report;
  report.markdown = report_markdown(table, files[2].filename().string());
  report.json = report_json(table);
  report.svg = draw_svg(report_plot(table));
  report.command = table.command;
  report.summary = report_summary(table);
  report.cells = run.cells();
  report.cells_measured = run.measured();
  for (const fs::path& file : files) report.files.push_back(file.string());
  TESSERA_RETURN_IF_ERROR(write_files(files, report));
  return report;
}

}  // namespace

Result<Report> make_report(const std::string& recipe, const ReportOptions& options) {
  return guarded(recipe, [&] { return run_report(recipe, options); });
}

}  // namespace tessera
