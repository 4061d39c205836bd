#include "tessera/tune.h"

#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <functional>
#include <optional>

#include "cli/options.h"
#include "cli/prune_unit_options.h"
#include "cli/terminal.h"
#include "cli/training.h"
#include "cli/verbs.h"

namespace tessera::cli {
namespace {

constexpr Synopsis kSynopsis = {
    "tune", "MODEL -o OUT [--teacher DENSE] [--task TASK] --data FILE",
    "Trains a model and writes it as a new directory that every verb takes. A model that was "
    "pruned learns again what its dense original, the teacher, computes of plain text; what was "
    "pruned stays pruned. With labelled data it learns a task. An interrupted training goes on "
    "from its last checkpoint when the same command is given again.",
    "  tessera tune small -o healed --teacher MODEL --text texts.txt\n"
    "  tessera tune small -o healed --teacher MODEL --text texts.txt --steps 5000 --threads 8\n"
    "  tessera tune MODEL -o tuned --task causal-lm --text tales.txt --learning-rate 3e-4\n"
    "  tessera tune MODEL -o sst2 --task classification --data train.tsv --steps 4000 --batch 32 "
    "--dropout 0.1\n"
    "  tessera tune MODEL -o sparse --task classification --data train.tsv --prune-tiles 0.5\n"
    "  tessera tune MODEL -o tuned --task causal-lm --text tales.txt --lora 8\n"
    "  tessera tune MODEL -o pairs --task embeddings --data pairs.tsv --batch 64\n"};

// The names of an enum's values as options have them.
template <Named Enum>
std::vector<std::string> dashed_names() {
  std::vector<std::string> names = choices_of<Enum>();
  for (std::string& name : names) std::replace(name.begin(), name.end(), '_', '-');
  return names;
}
template <Named Enum>
Enum of_dashed(std::string name) {
  std::replace(name.begin(), name.end(), '-', '_');
  return *tessera::parse<Enum>(name);
}

struct Options {
  std::string source;
  std::optional<std::string> target;
  TuneOptions tune;
  bool json = false;
};

// What the command line says, as options of the library.
class CommandLine {
 public:
  explicit CommandLine(Options& options) : options_(options) {
    add_directory_options(parser_, &options.source, &options.tune.threads);
    parser_.group("Output");
    parser_
        .add_text({"-o,--output", "OUT", "Write the model to OUT, a new directory."},
                  &options.target)
        .required();
    parser_.add_flag("--force", &force_,
                     "Replace OUT if it is a model that Tessera wrote, and begin anew where a "
                     "training with other options was interrupted.");
    parser_.add_flag("--json", &options.json, "Print JSON.");
    integer({"--checkpoint-every", 1, 1 << 30,
             "Keep what is needed to go on every N steps (default: 100)."},
            &options.tune.checkpoint_every);
    add_task();
    add_batches();
    add_distillation();
    add_optimizer();
    add_updates();
    add_pruning();
    parser_.then([this] { complete(); });
  }

  std::optional<int> parse(const Arguments& arguments) { return parser_.parse(arguments); }

 private:
  template <typename Integer>
  void integer(const IntegerOption& option, Integer* target) {
    std::optional<int64_t>& value = integers_.emplace_back();
    parser_.add_integer(option, &value);
    when_parsed_.push_back([&value, target] {
      if (value) *target = static_cast<Integer>(*value);
    });
  }
  void number(const NumberOption& option, double* target) {
    std::optional<double>& value = numbers_.emplace_back();
    parser_.add_number(option, &value);
    when_parsed_.push_back([&value, target] { *target = value.value_or(*target); });
  }

  void add_task() {
    TuneOptions& tune = options_.tune;
    parser_.group("Task");
    parser_.add_choice({"--task", "TASK",
                        "Learn from a teacher (distil, the default with --teacher), plain text "
                        "(causal-lm, masked-lm) or labels; see docs/verbs/tune.md.",
                        dashed_names<TuneTask>()},
                       &task_);
    parser_.add_texts({"--data", "FILE", "Learn from FILE; several times for several files."},
                      &tune.data);
    parser_.add_texts({"--text", "FILE", "Learn from the plain text in FILE; the same as --data."},
                      &texts_);
    parser_.add_text({"--train", "NAMES",
                      "Train only these, separated by commas: qkv, query, key, value, "
                      "attention_output, ffn, bias, norm, embedding, head (default: all, but of "
                      "distil no embedding)."},
                     &train_);
    parser_.add_flag("--new-head", &tune.new_head,
                     "Begin with a new head for the task. A model without one, or with one for "
                     "another task, gets it in any case.");
    parser_.add_flag("--from-scratch", &tune.from_scratch,
                     "Begin with random weights; of MODEL, config.json and the tokenizer are "
                     "enough.");
    parser_.add_texts(
        {"--validate", "FILE",
         "Measure the loss of FILE, at most 64 batches of it, at each checkpoint, and "
         "write the model of the least one."},
        &tune.validate);
    integer({"--patience", 0, 1 << 20,
             "End after N checkpoints without a lesser loss of --validate; 0 means never (default: "
             "0)."},
            &tune.patience);
    number({"--masked-share", 0, 1, "Mask this share of the tokens of masked-lm (default: 0.15)."},
           &tune.masked_share);
    number({"--label-smoothing", 0, 0.999,
            "Spread this share of each label evenly over all (default: 0)."},
           &tune.label_smoothing);
    number({"--dropout", 0, 0.999,
            "Drop this share of embeddings and of what blocks add (default: 0)."},
           &tune.dropout);
  }

  void add_batches() {
    TuneOptions& tune = options_.tune;
    parser_.group("Steps");
    integer({"--steps", 1, 1 << 30, "Take N steps (default: 1000)."}, &tune.steps);
    integer({"--batch", 0, 1 << 20,
             "Read N sequences a step; 0 means as many as --batch-tokens holds (default: 0)."},
            &tune.batch);
    integer({"--batch-tokens", 1, 1 << 28, "Read at most N tokens a step (default: 2048)."},
            &tune.batch_tokens);
    integer({"--max-tokens", 0, 1 << 24,
             "Cut sequences behind N tokens; 0 means the task's usual number, at most the model's "
             "(default: 0)."},
            &tune.max_tokens);
    integer({"--accumulate", 1, 1 << 20,
             "Take the mean of the gradients of N batches for each step (default: 1)."},
            &tune.accumulate);
    parser_.add_flag("--recompute", &recompute_,
                     "Compute the inner states of layers again in the backward pass, which takes "
                     "less memory and more time (gradient checkpointing).");
    integer({"--seed", 0, INT64_MAX,
             "Random seed of the data's order, of dropout and of new weights (default: 0)."},
            &tune.seed);
  }

  void add_distillation() {
    DistilOptions& distil = options_.tune.distil;
    parser_.group("Distillation");
    parser_.add_text(
        {"--teacher", "MODEL", "Learn to compute what MODEL does, of which this model was made."},
        &teacher_);
    number({"--hidden-loss", 0, 1e6, "Weigh the states of all layers so (default: 1)."},
           &distil.hidden);
    number({"--embedding-loss", 0, 1e6,
            "Weigh the vectors of texts so, in models without a head (default: 1)."},
           &distil.embedding);
    number({"--logits-loss", 0, 1e6, "Weigh what the head predicts so (default: 1)."},
           &distil.logits);
    number({"--attention-loss", 0, 1e6, "Weigh the attention of all heads so (default: 0)."},
           &distil.attention);
    number({"--temperature", 1e-3, 1e3, "Temperature of what heads predict (default: 1)."},
           &distil.temperature);
  }

  void add_optimizer() {
    OptimizerOptions& optimizer = options_.tune.optimizer;
    parser_.group("Optimizer");
    number({"--learning-rate", 0, 1e6,
            "Learning rate of AdamW at its peak; 0 means the task's usual one (default: 0)."},
           &optimizer.learning_rate);
    number({"--warmup", 0, 1, "Let the rate rise over this share of the steps (default: 0.1)."},
           &optimizer.warmup);
    parser_.add_choice({"--decay", "DECAY",
                        "Let the rate fall behind that: linear, cosine or none (default: linear).",
                        choices_of<OptimizerOptions::Decay>()},
                       &decay_);
    number({"--weight-decay", 0, 1e6, "Weight decay of matrices (default: 0.01)."},
           &optimizer.weight_decay);
    number({"--clip", 0, 1e6, "Shorten gradients to this length; 0 means never (default: 1)."},
           &optimizer.clip);
    number({"--beta1", 0, 0.999999, "Decay of the mean gradient (default: 0.9)."},
           &optimizer.beta1);
    number({"--beta2", 0, 0.999999, "Decay of the mean squared gradient (default: 0.999)."},
           &optimizer.beta2);
    number({"--epsilon", 0, 1, "Least divisor of a step (default: 1e-8)."}, &optimizer.epsilon);
  }

  void add_updates() {
    parser_.group("Low-rank updates");
    parser_.add_integer(
        {"--lora", 1, 1 << 16,
         "Train updates B A of rank N of the matrices of layers in their place, and "
         "merge them in the end."},
        &rank_);
    number(
        {"--lora-alpha", 0, 1e6, "Multiply updates by X / N; 0 means twice the rank (default: 0)."},
        &lora_.alpha);
    number({"--lora-dropout", 0, 0.999, "Drop this share of what updates read (default: 0)."},
           &lora_.dropout);
    parser_.add_flag(
        "--keep-adapter", &keep_adapter_,
        "Write the updates alone to OUT, as an adapter of PEFT, which tessera compress "
        "--merge-adapter merges.");
  }

  void complete_updates() {
    for (const char* option : {"--lora-alpha", "--lora-dropout", "--keep-adapter"}) {
      if (!rank_ && parser_.is_given(option)) lacks(option, "--lora N");
    }
    if (!rank_) return;
    lora_.rank = static_cast<int32_t>(*rank_);
    if (keep_adapter_) lora_.output = LoraOptions::Output::kAdapter;
    options_.tune.lora = lora_;
  }

  void add_pruning() {
    parser_.group("Pruning");
    units_.add_units(parser_,
                     {"Let units compete for removal within each matrix (matrix), each row of "
                      "tiles (balanced) or the whole model (global) (default: matrix).",
                      {"matrix", "balanced", "global"}});
    units_.add_precompute(parser_);
    parser_.add_choice(
        {"--prune-method", "METHOD",
         "Make what will go small by a penalty on its norm that is divided by earlier norms "
         "(reweighted) or not (group-lasso), remove it little by little by size (gradual) or by "
         "where the loss moves it (movement), or at once (one-shot) (default: reweighted).",
         dashed_names<PruneTraining::Method>()},
        &method_);
    number({"--lambda", 0, 1e6, "Weigh the penalty so (default: 1e-4)."}, &prune_.lambda);
    number({"--phase", 0, 1,
            "Remove all within this share of the steps, and train what is left in the others "
            "(default: 0.5)."},
           &prune_.phase);
    parser_.add_integers({"--milestones", 1, 1 << 30,
                          "With reweighted, divide by new norms behind these steps (default: each "
                          "fifth of the phase)."},
                         &prune_.milestones);
    integer({"--cuts", 1, 1 << 20, "Make N cuts of gradual or movement (default: 20)."},
            &prune_.cuts);
    parser_.add_text({"--matrices", "NAMES",
                      "Prune only these matrices, separated by commas: qkv, query, key, value, "
                      "attention_output, ffn (default: all)."},
                     &matrices_);
    parser_.add_integers({"--layers", 0, 4095, "Prune only these layers (default: all)."},
                         &layers_);
  }

  void complete_pruning() {
    const std::optional<PruneOptions> units = units_.complete();
    if (!units) {
      for (const char* option : {"--prune-method", "--lambda", "--phase", "--milestones", "--cuts",
                                 "--matrices", "--layers"}) {
        if (parser_.is_given(option)) lacks(option, "an option --prune-...");
      }
      return;
    }
    prune_.units = *units;
    if (method_) prune_.method = of_dashed<PruneTraining::Method>(*method_);
    if (matrices_) prune_.matrices = split_at_commas(*matrices_);
    prune_.layers.assign(layers_.begin(), layers_.end());
    options_.tune.prune = prune_;
  }

  void complete() {
    for (const std::function<void()>& take : when_parsed_) take();
    TuneOptions& tune = options_.tune;
    if (!task_ && !teacher_) usage_error("expected --teacher MODEL or --task TASK, found neither");
    tune.task = task_ ? of_dashed<TuneTask>(*task_) : TuneTask::kDistil;
    const bool is_distil = tune.task == TuneTask::kDistil;
    if (is_distil && !teacher_) lacks("--task distil", "--teacher MODEL");
    if (!is_distil && teacher_) lacks("--teacher", "--task distil");
    for (const char* option : {"--hidden-loss", "--embedding-loss", "--logits-loss",
                               "--attention-loss", "--temperature"}) {
      if (!is_distil && parser_.is_given(option)) lacks(option, "--teacher MODEL");
    }
    if (parser_.is_given("--masked-share") && tune.task != TuneTask::kMaskedLm)
      lacks("--masked-share", "--task masked-lm");
    if (tune.patience > 0 && tune.validate.empty()) lacks("--patience", "--validate FILE");
    tune.distil.teacher = teacher_.value_or("");
    tune.data.insert(tune.data.end(), texts_.begin(), texts_.end());
    if (tune.data.empty()) usage_error("expected --data FILE or --text FILE, found neither");
    if (train_) tune.train = split_at_commas(*train_);
    if (decay_) tune.optimizer.decay = *tessera::parse<OptimizerOptions::Decay>(*decay_);
    if (force_) tune.existing = Existing::kReplace;
    if (recompute_) tune.recompute = TuneOptions::Recompute::kYes;
    complete_updates();
    complete_pruning();
  }

  Options& options_;
  Parser parser_{kSynopsis};
  std::deque<std::optional<int64_t>> integers_;
  std::deque<std::optional<double>> numbers_;
  std::vector<std::function<void()>> when_parsed_;
  PruneUnitOptions units_;
  PruneTraining prune_;
  LoraOptions lora_;
  std::optional<int64_t> rank_;
  std::vector<int64_t> layers_;
  std::optional<std::string> task_, teacher_, train_, decay_, method_, matrices_;
  std::vector<std::string> texts_;
  bool force_ = false, keep_adapter_ = false, recompute_ = false;
};

std::string to_text(const TuneReport& report, const std::string& target) {
  return training_text(report) + fmt::format("Written to {}.\n", target);
}

Status print(const Options& options, const TuneReport& report) {
  Output out;
  Status status =
      out.write(options.json ? training_json(report) + "\n" : to_text(report, *options.target));
  if (status.ok()) status = out.flush();
  if (!status.ok() || options.json) return status;
  if (report.cut > 0) {
    note(fmt::format("{} of the data {} longer than --max-tokens allows, and lost the rest",
                     counted(report.cut, "texts"), report.cut == 1 ? "was" : "were"));
  }
  for (const std::string& command : report.next) note("next: " + command);
  return {};
}

Status run(const Options& options) {
  const Interrupt interrupt;
  TrainingProgress progress;
  TuneOptions tune_options = options.tune;
  tune_options.on_progress = std::ref(progress);
  const Result<TuneReport> report = tune(options.source, *options.target, tune_options);
  progress.clear();
  if (report.status().code() == StatusCode::kCancelled) note(report.status().message());
  return report.ok() ? print(options, *report) : report.status();
}

}  // namespace

int tune_verb(const Arguments& arguments) {
  Options options;
  CommandLine line(options);
  if (const auto code = line.parse(arguments)) return *code;
  options.tune.command = {"tessera", "tune"};
  options.tune.command.insert(options.tune.command.end(), arguments.words.begin(),
                              arguments.words.end());
  return finish(run(options));
}

}  // namespace tessera::cli
