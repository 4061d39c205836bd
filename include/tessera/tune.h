#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "tessera/compress.h"
#include "tessera/names.h"
#include "tessera/status.h"

// Training: making a checkpoint good at a task, or what was made smaller as good as it was before.
// It needs the library libtessera_tune, which is built where libtorch is; without it tune() says
// so.
namespace tessera {

// What is learnt, and from what data; docs/verbs/tune.md has the formats.
enum class TuneTask {
  kDistil,               // what a teacher computes of plain text; no labels
  kCausalLm,             // the next token of plain text
  kMaskedLm,             // masked tokens of plain text
  kClassification,       // a label of each text or pair of texts
  kRegression,           // a number of each
  kTokenClassification,  // a label of each word
  kQuestionAnswering,    // where the answer stands in a context
  kEmbeddings,           // pairs of texts: near each other, or as near as a number says
  kDataToText,           // a text behind a prompt, which itself is not learnt
};
constexpr auto names_of(TuneTask) {
  return enum_names("distil", "causal_lm", "masked_lm", "classification", "regression",
                    "token_classification", "question_answering", "embeddings", "data_to_text");
}

// What the losses of a distillation weigh; 0 leaves one out.
struct DistilOptions {
  std::string teacher = {};  // a directory: the same architecture, any weights
  double hidden = 1;         // mean squared difference of each layer's states, per state's square
  double embedding = 1;      // 1 - cosine of the pooled vectors, of models without a head
  double logits = 1;         // KL divergence of the head's distributions, of models with one
  double temperature = 1;    // of both distributions
  double attention = 0;      // KL divergence of each head's attention
};

struct OptimizerOptions {    // AdamW (Loshchilov & Hutter 2019)
  double learning_rate = 0;  // at its peak; 0: the usual one
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;
  double weight_decay = 0.01;  // of matrices
  double clip = 1;             // the gradient's length is at most this; 0: any
  double warmup = 0.1;         // share of the steps in which the rate rises from 0
  enum class Decay { kLinear, kCosine, kNone } decay = Decay::kLinear;
};
constexpr auto names_of(OptimizerOptions::Decay) { return enum_names("linear", "cosine", "none"); }

// Pruning while training, as E.T. does it (Chen et al. 2021), or one of what it is compared with.
// In the first phase, a share of the steps, what will go is made small or goes little by little; at
// its end exactly the share that is asked for is gone, and in the other steps what survives is
// trained.
struct PruneTraining {
  enum class Method {
    // A penalty on the norm of each tile or other unit; at the end of the phase the least go.
    kReweighted,  // lambda sum |W_ij| / (|W_ij| + 1e-3), the divisors of some steps ago
    kGroupLasso,  // lambda sum |W_ij|
    // What goes at once, or in cuts whose share grows by the cubic schedule of Zhu & Gupta 2017.
    kOneShot,   // the least before the first step
    kGradual,   // the least
    kMovement,  // those that the loss moves towards 0 most (Sanh et al. 2020): the least -sum w dw
  };
  Method method = Method::kReweighted;
  // What goes, how much and among which; from 0 to less than 1. By norms or movement alone, and
  // without repair.
  PruneOptions units = {};
  // As of CompressOptions.
  std::vector<std::string> matrices = {};
  std::vector<int32_t> layers = {};
  double lambda = 1e-4;  // of the penalties
  double phase = 0.5;    // of the steps, 0 to 1
  // Of kReweighted: the numbers of steps, ascending, behind which norms are divided by new ones;
  // empty: at each fifth of the phase.
  std::vector<int64_t> milestones = {};
  int32_t cuts = 20;  // of kGradual and kMovement, at equal distances in the phase
};
constexpr auto names_of(PruneTraining::Method) {
  return enum_names("reweighted", "group_lasso", "one_shot", "gradual", "movement");
}

// Low-rank updates (LoRA, Hu et al. 2021): a matrix W of y = x W^T + b stays as it is, and
//   W + alpha / rank B A,   A: [rank, inputs], B: [outputs, rank]
// is what the model computes with, of which A and B alone are trained. What was pruned of W is
// pruned of the update. Biases, norms and embeddings stay as they are; a head may be trained whole.
struct LoraOptions {
  int32_t rank = 8;
  double alpha = 0;    // 0: twice the rank
  double dropout = 0;  // of what A reads
  // kMerged: W + alpha / rank B A takes W's place. kAdapter: what comes out is not a model but A, B
  // and what was trained of the head, as files of PEFT, which CompressOptions::merge_adapter
  // merges.
  enum class Output { kMerged, kAdapter } output = Output::kMerged;
};
constexpr auto names_of(LoraOptions::Output) { return enum_names("merged", "adapter"); }

struct TuneProgress {
  int64_t step = 0, steps = 0;  // step 0: the data is being read
  double loss = 0;              // a running mean
  double tokens_per_second = 0;
  double seconds_left = 0;
};

struct TuneOptions {
  TuneTask task = TuneTask::kDistil;
  std::vector<std::string> data = {};  // files
  int64_t steps = 1000;
  int32_t batch = 0;            // sequences a step; 0: as many as batch_tokens hold
  int32_t batch_tokens = 2048;  // tokens a step
  int32_t max_tokens = 0;       // of a sequence; 0: the task's usual number, at most the model's
  int32_t accumulate = 1;       // batches a step, of whose gradients the mean is taken
  OptimizerOptions optimizer = {};
  DistilOptions distil = {};
  std::optional<PruneTraining> prune = {};
  std::optional<LoraOptions> lora = {};
  double dropout = 0;
  double label_smoothing = 0;
  double masked_share = 0.15;  // of kMaskedLm
  // kYes: what a layer computes inside is computed again in the backward pass and takes no memory
  // until then (gradient checkpointing). What comes out is the same, bit for bit.
  enum class Recompute { kNo, kYes } recompute = Recompute::kNo;
  // Some of "qkv", "query", "key", "value", "attention_output", "ffn", "bias", "norm", "embedding",
  // "head"; empty: all, but of kDistil no embeddings, and of low-rank updates all matrices of
  // layers and the heads of labels. What was pruned stays pruned.
  std::vector<std::string> train = {};
  // Begins with random weights as transformers draws them; of the source config.json and the
  // tokenizer are enough.
  bool from_scratch = false;
  // Begins with a new head for the task. A model that has none, or one for another task, gets one
  // in any case, with as many labels as the data has.
  bool new_head = false;
  uint64_t seed = 0;
  int32_t threads = 0;
  int64_t checkpoint_every = 100;  // steps
  // Files like `data`, whose loss is measured with each checkpoint: what comes out is the model of
  // the least one.
  std::vector<std::string> validate = {};
  int32_t patience = 0;  // the training ends after so many without a lesser one; 0: it goes on
  Existing existing = Existing::kRefuse;
  // The words of the command that asks for this, for the model card; empty: it names none.
  std::vector<std::string> command = {};
  // Called while data is read and after each step; false stops with kCancelled, where there was a
  // step after a checkpoint.
  std::function<bool(const TuneProgress&)> on_progress = {};
};

constexpr auto names_of(TuneOptions::Recompute) { return enum_names("no", "yes"); }

struct TuneReport {
  int64_t steps = 0;
  int64_t tokens = 0;  // that were read, over all steps
  int64_t cut = 0;     // texts of the data that were longer than max_tokens, and lost tokens
  int64_t parameters = 0, trained_parameters = 0;
  int64_t drawn_parameters = 0;  // that began at random, in a new head or in the whole model
  double first_loss = 0, last_loss = 0;  // means of the first and the last twentieth of the steps
  std::optional<double> validation_loss = {};  // the least one; none: nothing was validated
  double seconds = 0;
  std::vector<std::string> files = {};  // the log of all steps and its picture
  std::vector<std::string> next = {};  // commands that run the model and hold it against its source
};

// Trains a checkpoint and writes it as a new directory, with every other file of the source and
// what training adds: training.jsonl, a line a step, and training.svg. Compressed matrices keep
// their format and what was pruned of them. The target appears whole, by a rename; until then
// TARGET.part holds the last checkpoint of the training, from which the same call goes on. Equal
// inputs, seeds and threads give equal weights, interrupted or not.
TESSERA_API Result<TuneReport> tune(const std::string& source, const std::string& target,
                                    const TuneOptions& options);

struct HealReport {
  CompressReport compressed = {};
  TuneReport trained = {};
};

// compress() and then tune(), which distils what was compressed from the source, in one: the target
// is what was trained. Of `training` the teacher, the command and what may be replaced are those of
// the compression. Until all is done what was compressed stands in TARGET.compressed and what is
// known of it in TARGET.compressed.json, and an interrupted run of the same options goes on in the
// stage that it had reached. kUnsupported, before anything is done, where this build cannot train;
// kInvalidInput where the compression leaves nothing to be healed. Integers are trained at a tenth
// of the usual rate.
TESSERA_API Result<HealReport> heal(const std::string& source, const std::string& target,
                                    const CompressOptions& compression,
                                    const TuneOptions& training);

}  // namespace tessera
