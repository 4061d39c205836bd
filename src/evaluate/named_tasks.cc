#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>

#include "base/guarded.h"
#include "tessera/evaluate.h"

namespace tessera {
namespace {

constexpr const char* kTextFile = "a text file, or a folder with SPLIT.txt";

const std::array kNamedTasks = {
    NamedTask{"perplexity", "how well a causal model predicts a text", kTextFile},
    NamedTask{"sst2", "SST-2: is a sentence of a review positive?",
              "SST-2_sentences_{train,dev,test}.tsv"},
    NamedTask{"cola", "CoLA: is a sentence acceptable English? (no test labels: dev)",
              "CoLA_in_domain_{train,dev}.tsv, CoLA_out_of_domain_dev.tsv"},
    NamedTask{"mrpc", "MRPC: do two sentences say the same?",
              "MRPC_msr_paraphrase_{train,test}.txt"},
    NamedTask{"rte", "RTE: does a sentence follow from another? (no test labels: dev)",
              "RTE_{train,val}.jsonl"},
    NamedTask{"stsb", "STS-B: how similar are two sentences?", "STS-B_sts-{train,dev,test}.csv"},
    NamedTask{"cranfield", "Cranfield: finding abstracts that answer a question",
              "cran.all.1400.xml, cran.qry.xml, cranqrel.trec.txt"},
    NamedTask{"squad", "SQuAD and XQuAD: finding answers in a context",
              "a JSON file, or a folder with xquad.en.json"},
    NamedTask{"e2e", "E2E: describing a restaurant",
              "trainset.csv, devset.csv, testset_w_refs.csv"},
    NamedTask{"agreement", "how close a model is to another one, on a text", kTextFile},
};

// What a task asks of the caller.
struct Wanted {
  std::string name, data, split;
  bool is_file = false;  // data names one
  std::string file(std::string_view name) const { return fmt::format("{}/{}", data, name); }
};

// What is not there is judged by its ending, so that the message names what was meant.
bool names_file(const std::string& data) {
  std::error_code error;
  const std::filesystem::file_status found = std::filesystem::status(data, error);
  if (std::filesystem::exists(found)) return !std::filesystem::is_directory(found);
  constexpr const char* kEndings[] = {".txt", ".raw", ".tokens", ".json"};
  return std::any_of(std::begin(kEndings), std::end(kEndings),
                     [&](const char* ending) { return data.ends_with(ending); });
}

Status no_such_split(const Wanted& wanted, const char* splits) {
  return invalid_input(
      fmt::format("{}: expected the split {}, found \"{}\"", wanted.name, splits, wanted.split));
}

std::string text_file(const Wanted& wanted) {
  return wanted.is_file ? wanted.data : wanted.file(wanted.split + ".txt");
}

EvaluationTask text_task(const Wanted& wanted) {
  EvaluationTask task;
  task.kind =
      wanted.name == "perplexity" ? EvaluationKind::kPerplexity : EvaluationKind::kAgreement;
  task.data.paths = {text_file(wanted)};
  return task;
}

Result<EvaluationTask> sst2(const Wanted& wanted) {
  if (wanted.split != "dev" && wanted.split != "test" && wanted.split != "train") {
    return no_such_split(wanted, "train, dev or test");
  }
  const auto file = [&](std::string_view split) {
    DataFile data;
    data.paths = {wanted.file(fmt::format("SST-2_sentences_{}.tsv", split))};
    data.format = DataFormat::kTsv;
    data.columns.text = "1";
    data.columns.label = "2";
    return data;
  };
  EvaluationTask task;
  task.data = file(wanted.split);
  task.train = file("train");
  task.dev = file("dev");
  task.labels = {"0", "1"};
  return task;
}

Result<EvaluationTask> cola(const Wanted& wanted) {
  if (wanted.split != "dev" && wanted.split != "train") {
    return no_such_split(wanted, "dev or train (the test set has no labels)");
  }
  EvaluationTask task;
  DataFile& train = task.train;
  train.paths = {wanted.file("CoLA_in_domain_train.tsv")};
  train.format = DataFormat::kTsv;
  train.columns.text = "4";
  train.columns.label = "2";
  task.data = train;
  if (wanted.split == "dev") {
    task.data.paths = {wanted.file("CoLA_in_domain_dev.tsv"),
                       wanted.file("CoLA_out_of_domain_dev.tsv")};
  }
  task.labels = {"0", "1"};
  task.main_metric = "matthews";
  return task;
}

Result<EvaluationTask> mrpc(const Wanted& wanted) {
  if (wanted.split != "test" && wanted.split != "train") {
    return no_such_split(wanted, "test or train");
  }
  EvaluationTask task;
  DataFile& train = task.train;
  train.paths = {wanted.file("MRPC_msr_paraphrase_train.txt")};
  train.format = DataFormat::kTsv;
  train.header = HeaderRow::kFirstRow;
  train.columns.text = "4";
  train.columns.pair = "5";
  train.columns.label = "1";
  task.data = train;
  task.data.paths = {wanted.file(fmt::format("MRPC_msr_paraphrase_{}.txt", wanted.split))};
  task.labels = {"0", "1"};
  return task;
}

Result<EvaluationTask> rte(const Wanted& wanted) {
  if (wanted.split != "dev" && wanted.split != "train") {
    return no_such_split(wanted, "dev or train (the test set has no labels)");
  }
  EvaluationTask task;
  DataFile& train = task.train;
  train.paths = {wanted.file("RTE_train.jsonl")};
  train.format = DataFormat::kJsonLines;
  train.columns.text = "premise";
  train.columns.pair = "hypothesis";
  task.data = train;
  if (wanted.split == "dev") task.data.paths = {wanted.file("RTE_val.jsonl")};
  task.labels = {"entailment", "not_entailment"};
  task.positive_label = "entailment";
  return task;
}

Result<EvaluationTask> stsb(const Wanted& wanted) {
  if (wanted.split != "train" && wanted.split != "dev" && wanted.split != "test")
    return no_such_split(wanted, "train, dev or test");
  EvaluationTask task;
  task.kind = EvaluationKind::kSimilarity;
  task.data.paths = {wanted.file(fmt::format("STS-B_sts-{}.csv", wanted.split))};
  task.data.format = DataFormat::kTsv;  // whatever its name says
  task.data.columns.text = "6";
  task.data.columns.pair = "7";
  task.data.columns.score = "5";
  return task;
}

Result<EvaluationTask> cranfield(const Wanted& wanted) {
  if (wanted.split != "test") return no_such_split(wanted, "test");
  EvaluationTask task;
  task.kind = EvaluationKind::kRetrieval;
  task.data.paths = {wanted.file("cran.all.1400.xml")};
  task.retrieval.queries.paths = {wanted.file("cran.qry.xml")};
  task.retrieval.judgements = wanted.file("cranqrel.trec.txt");
  return task;
}

Result<EvaluationTask> squad(const Wanted& wanted) {
  if (!wanted.is_file && wanted.split != "test") return no_such_split(wanted, "test");
  EvaluationTask task;
  task.kind = EvaluationKind::kQuestionAnswering;
  task.data.paths = {wanted.is_file ? wanted.data : wanted.file("xquad.en.json")};
  return task;
}

Result<EvaluationTask> e2e(const Wanted& wanted) {
  const char* const file = wanted.split == "train"  ? "trainset.csv"
                           : wanted.split == "dev"  ? "devset.csv"
                           : wanted.split == "test" ? "testset_w_refs.csv"
                                                    : nullptr;
  if (file == nullptr) return no_such_split(wanted, "train, dev or test");
  EvaluationTask task;
  task.kind = EvaluationKind::kDataToText;
  task.data.paths = {wanted.file(file)};
  task.data.columns.text = "mr";
  task.data.columns.pair = "ref";
  return task;
}

Result<EvaluationTask> make(const Wanted& wanted) {
  const std::string& name = wanted.name;
  if (name == "perplexity" || name == "agreement") return text_task(wanted);
  if (name == "sst2") return sst2(wanted);
  if (name == "cola") return cola(wanted);
  if (name == "mrpc") return mrpc(wanted);
  if (name == "rte") return rte(wanted);
  if (name == "stsb") return stsb(wanted);
  if (name == "cranfield") return cranfield(wanted);
  if (name == "squad") return squad(wanted);
  if (name == "e2e") return e2e(wanted);
  std::string names;
  for (const NamedTask& each : kNamedTasks) names += (names.empty() ? "" : ", ") + each.name;
  return invalid_input(fmt::format("task: expected one of {}, found \"{}\"", names, name));
}

}  // namespace

std::span<const NamedTask> named_tasks() { return kNamedTasks; }

Result<EvaluationTask> named_task(std::string_view name, const std::string& data,
                                  const std::string& split) {
  return guarded("task", [&]() -> Result<EvaluationTask> {
    const Wanted wanted{std::string(name), data, split, names_file(data)};
    TESSERA_ASSIGN_OR_RETURN(EvaluationTask task, make(wanted));
    task.name = name;
    // A file is its own split.
    task.split = wanted.is_file ? "" : split;
    return task;
  });
}

}  // namespace tessera
