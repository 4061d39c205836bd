#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tessera/export.h"
#include "tessera/model.h"
#include "tessera/names.h"
#include "tessera/records.h"
#include "tessera/status.h"

// How good a model is at a task, with an interval, beside another one's; and writing down what a
// model gives, to be compared with another engine.
namespace tessera {

enum class EvaluationKind {
  // How well a causal model predicts a text file. Metrics: perplexity, bits_per_byte,
  // word_perplexity.
  kPerplexity,
  // By the model's own head, or by a linear probe on its embeddings where it has none. Metrics of
  // two labels: accuracy, f1 (of the positive one), matthews; of more: accuracy, f1 (mean over the
  // labels), matthews.
  kClassification,
  kSimilarity,  // cosine of two texts' embeddings against a score: spearman, pearson
  kRetrieval,   // documents by the cosine of embeddings: ndcg@K, recall@K
  // SQuAD's JSON, for models with a head that finds answers: f1, exact_match, in percent.
  kQuestionAnswering,
  kDataToText,  // generated or given texts against references: bleu (0 to 1), nist
  // With another model on a text file. Causal: kl, top1_agreement; encoders: cosine.
  kAgreement,
};
constexpr auto names_of(EvaluationKind) {
  return enum_names("perplexity", "classification", "similarity", "retrieval", "question-answering",
                    "data-to-text", "agreement");
}

// Names of columns (keys of JSON lines), or numbers from 1.
struct DataColumns {
  std::string text = "text";
  std::string pair = {};  // the second text, where there is one
  std::string label = "label";
  std::string score = "score";
  std::string id = "id";  // of documents and queries
};

struct DataFile {
  std::vector<std::string> paths = {};  // read one behind the other
  DataFormat format = DataFormat::kAuto;
  HeaderRow header = HeaderRow::kAuto;
  DataColumns columns = {};
};

// Rows that cannot be used: the first one ends the evaluation with its file and line, or each is
// left out and noted.
enum class OnBadData { kStop, kSkip };
constexpr auto names_of(OnBadData) { return enum_names("stop", "skip"); }
// Texts longer than the model: cut and noted, or bad data.
enum class OnLongText { kCut, kBad };
constexpr auto names_of(OnLongText) { return enum_names("cut", "bad"); }

struct PerplexityOptions {
  int32_t window_tokens = 0;  // 0: the model's context, at most 2048
  int32_t stride_tokens = 0;  // 0: half a window
};

// Whose embeddings a probe is trained on: those of the model as it is evaluated, or those that it
// gives while nothing leaves on the way through its layers, which shows what cascade pruning costs
// a classifier that is there already.
enum class ProbeModel { kSame, kDense };
constexpr auto names_of(ProbeModel) { return enum_names("same", "dense"); }

// L2 logistic regression on frozen embeddings; pairs (u, v) as |u - v| and u * v.
struct ProbeOptions {
  // scikit-learn's C: the sum of losses times C beside |w|^2 / 2. 0: the best of 2^-6 ... 2^6 in
  // steps of 4 by the accuracy on the dev file; 1 where there is none.
  double strength = 0;
  // kDense: kUnsupported where the schedule has bits for the cache, which stay.
  ProbeModel model = ProbeModel::kSame;
};

struct RetrievalOptions {
  DataFile queries = {};  // `data` holds the documents; Cranfield's XML, or columns id and text
  // TREC's judgements: "query 0 document relevance" a line. A query is the row with that number
  // where the ids do not match (Cranfield).
  std::string judgements = {};
  int32_t depth = 10;  // K of ndcg@K
  std::vector<int32_t> recall_depths = {10, 100};
};

struct QuestionOptions {
  int32_t max_answer_tokens = 30;
  int32_t window_tokens = 384;
  std::optional<int32_t> overlap_tokens = {};  // as of AnswerOptions
};

struct DataToTextOptions {
  // Texts to be scored, a line each in the order of the inputs; empty: the model generates.
  std::string predictions = {};
  std::string prompt = "{}";  // "{}" is the input
  std::string stop = "\n";    // ends a text; empty: only the model's end does
  int32_t beams = 1;
  int32_t max_new_tokens = 64;
};

struct AgreementOptions {
  std::shared_ptr<Model> reference = {};
  int32_t window_tokens = 0;  // of causal models; 0: the shorter context of the two, at most 512
};

struct BootstrapOptions {
  int32_t resamples = 1000;  // 0: no intervals
  double confidence = 0.95;
  uint64_t seed = 0;
};

// What to evaluate. named_task fills one in for published data; users' own files need kind, data
// and its columns.
struct EvaluationTask {
  EvaluationKind kind = EvaluationKind::kClassification;
  std::string name = {};   // "stsb"
  std::string split = {};  // "test"
  DataFile data = {};
  DataFile train = {}, dev = {};  // of a probe; dev may be empty
  // The labels in the model's order as the data spells them; empty: ModelInfo::labels, and numbers
  // from 0; for a probe, what the training file holds.
  std::vector<std::string> labels = {};
  std::string positive_label = {};  // of f1; empty: the last one
  std::string main_metric = {};     // comes first; empty: the kind's order
  int64_t max_examples = 0;         // the first so many; 0: all
  OnBadData on_bad_data = OnBadData::kStop;
  OnLongText on_long_text = OnLongText::kCut;
  PerplexityOptions perplexity = {};
  ProbeOptions probe = {};
  RetrievalOptions retrieval = {};
  QuestionOptions questions = {};
  DataToTextOptions data_to_text = {};
  AgreementOptions agreement = {};
};

// A task of known data. `data`: the folder with the published files, or of perplexity, agreement
// and squad a file. kInvalidInput for an unknown name or a split that there is not.
TESSERA_API Result<EvaluationTask> named_task(std::string_view name, const std::string& data,
                                              const std::string& split = "test");
struct NamedTask {
  std::string name = {};
  std::string what = {};   // "STS-B: similarity of sentences"
  std::string files = {};  // that the folder needs, as a person reads it
};
TESSERA_API std::span<const NamedTask> named_tasks();

enum class Better { kHigher, kLower };
constexpr auto names_of(Better) { return enum_names("higher", "lower"); }

struct Metric {
  std::string name = {};
  double value = 0;
  // Percentiles of a bootstrap over the examples; both NaN where there is none.
  double low = 0, high = 0;
  Better better = Better::kHigher;
};

// One example (a window of a text): what the metrics are made of, so that they can be computed
// again of any selection of the examples.
struct EvaluatedExample {
  std::string id = {};      // "FILE, line 3", a question's id, ...; equal in all models
  double score = 0;         // its own: correct, F1, nats a token, nDCG, ...
  std::string output = {};  // the model's, as text; empty where it has none
  std::string expected = {};
  std::vector<double> values = {};  // as many for each: sums, labels or scores, as the kind needs
};

struct EvaluationCounts {
  int64_t examples = 0;
  int64_t skipped = 0;                              // bad data left out
  int64_t cut = 0;                                  // texts that were longer than the model
  int64_t tokens = 0;                               // that the model read
  int64_t scored_tokens = 0, words = 0, bytes = 0;  // of kPerplexity and kAgreement
};

struct Evaluation {
  EvaluationKind kind = EvaluationKind::kClassification;
  std::string task = {}, split = {};
  std::string model = {};   // its directory
  std::string method = {};  // "head", "linear probe, C = 1", "window 512, stride 256", ...
  std::vector<std::string> labels = {};  // of kClassification
  std::vector<double> settings = {};     // what the metrics need beside the values
  std::vector<Metric> metrics = {};      // the one that matters first
  EvaluationCounts counts = {};
  double seconds = 0;  // reading, tokenizing and running, without the bootstrap
  std::vector<EvaluatedExample> examples = {};
  std::vector<std::string> notes = {};  // what was left out or cut, by line; the first 1000
};

struct EvaluateOptions {
  BootstrapOptions bootstrap = {};
  // Called with what is being done, steps done and their number (0: unknown); false stops with
  // kCancelled.
  std::function<bool(const std::string& what, int64_t done, int64_t total)> on_progress = {};
};

// Evaluates. `model` may be null where none is needed (predictions are given). kUnsupported: the
// model has no head for this; kNotFound and kIo: a file; kInvalidInput: bad data, with file and
// line. Equal inputs give equal results.
TESSERA_API Result<Evaluation> evaluate(const std::shared_ptr<Model>& model,
                                        const EvaluationTask& task,
                                        const EvaluateOptions& options = {});

// A metric of two models on the same examples.
struct MetricDifference {
  std::string name = {};
  double value = 0, base = 0;
  double difference = 0;     // value - base
  double low = 0, high = 0;  // percentiles of a bootstrap that draws the same examples for both
  // Two-sided: the share of resamples whose difference is at least as far from `difference` as that
  // is from 0 (Efron & Tibshirani 1993, 16.4), (k + 1) / (n + 1); NaN without resamples.
  double p_value = 1;
};
// kInvalidInput unless both are of the same task and have the same examples.
TESSERA_API Result<std::vector<MetricDifference>> compare(const Evaluation& evaluation,
                                                          const Evaluation& base,
                                                          const BootstrapOptions& options = {});

// As JSON, with or without the examples; and back, where it was written with them, so that results
// that were kept can be compared. Numbers come back the same; NaN is null.
enum class WithExamples { kNo, kYes };
constexpr auto names_of(WithExamples) { return enum_names("no", "yes"); }
TESSERA_API std::string evaluation_json(const Evaluation& evaluation,
                                        std::span<const MetricDifference> differences = {},
                                        WithExamples examples = WithExamples::kNo);
TESSERA_API Result<Evaluation> evaluation_from_json(std::string_view json,
                                                    const std::string& source);

// Runs the cases of a JSON file and writes what the model gives as safetensors, to be compared with
// another engine. The file: {"cases": [{"name": ..., "input_ids": [[...]], "attention_mask":
// [[...]], "token_type_ids": [[...]], "global_attention_mask": [[...]]}]}, all but name and
// input_ids optional; a case with "new_tokens" is continued greedily, or with "beams" by a beam
// search of so many, and gives <case>.ids, I32 [batch, new_tokens], whatever end tokens are among
// them. Written: <case>.logits (or .start_logits, .end_logits) and <case>.hidden.<i>, f32, [batch,
// tokens, width] with zeros where the attention mask is 0; sequence classification gives [batch,
// labels]. on_progress, if given, is called with the cases done and their number.
TESSERA_API Status dump_cases(const std::shared_ptr<Model>& model, const std::string& cases_path,
                              const std::string& output_path,
                              const std::function<void(int64_t, int64_t)>& on_progress = {});

}  // namespace tessera
