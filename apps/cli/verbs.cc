#include "cli/verbs.h"

namespace tessera::cli {
namespace {

constexpr Verb kVerbs[] = {
    {"run", "Continue a text with a language model.", run_verb},
    {"embed", "Turn texts into vectors.", embed_verb},
    {"classify", "Give each text a label.", classify_verb},
    {"tag", "Find names and other entities in texts.", tag_verb},
    {"answer", "Find answers to questions in a context.", answer_verb},
    {"fill-mask", "Suggest words for the masks in a text.", fill_mask_verb},
    {"rerank", "Order documents by relevance to a query.", rerank_verb},
    {"tokenize", "Turn texts into token ids and back.", tokenize_verb},
    {"inspect", "Show what a model is and how it will be executed.", inspect_verb},
    {"explain", "Show which words survive each layer of a pruned model.", explain_verb},
    {"compress", "Make a model smaller and faster.", compress_verb},
    {"tune", "Train a model, or heal one that was pruned.", tune_verb},
    {"export", "Write a compressed model out for other programs.", export_verb},
    {"eval", "Measure how accurate a model is at a task.", eval_verb},
    {"bench", "Measure how fast a model runs.", bench_verb},
    {"machine", "Measure the limits of this machine.", machine_verb},
    {"dump", "Write logits and hidden states for comparison.", dump_verb},
    {"report", "Compare variants of a model: accuracy, latency and size.", report_verb},
    {"plot", "Draw what reports and benchmarks measure.", plot_verb},
};

}  // namespace

std::span<const Verb> verbs() { return kVerbs; }

VerbDescription describe(const Verb& verb) {
  VerbDescription description;
  Arguments arguments;
  arguments.description = &description;
  verb.main(arguments);
  return description;
}

}  // namespace tessera::cli
