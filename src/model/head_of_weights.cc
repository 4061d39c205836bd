#include "model/head_of_weights.h"

#include <algorithm>
#include <string_view>

namespace tessera {
namespace {

struct HeadTensor {
  std::string_view name;
  Head head;
};
// A tensor that only this head has, with or without what a weight format puts behind its name.
constexpr HeadTensor kTensors[] = {
    {"lm_head.weight", Head::kCausalLm},
    {"lm_head.dense.weight", Head::kMaskedLm},
    {"cls.predictions.transform.dense.weight", Head::kMaskedLm},
    {"vocab_transform.weight", Head::kMaskedLm},
    {"qa_outputs.weight", Head::kQuestionAnswering},
    {"score.weight", Head::kSequenceClassification},
    {"classifier.out_proj.weight", Head::kSequenceClassification},
    {"pre_classifier.weight", Head::kSequenceClassification},
};
// What models with a language head put before the names of the base model's tensors.
constexpr std::string_view kDecoders[] = {"model.embed_tokens.weight", "transformer.wte.weight"};

bool is_tied(const Config& config) {
  const auto tied = config.truth_or("tie_word_embeddings", Config::Truth::kNo);
  if (config.has("tie_word_embeddings")) return tied.ok() && *tied == Config::Truth::kYes;
  const auto type = config.string("model_type");
  return type.ok() && (*type == "gpt2" || type->starts_with("gemma"));  // tied unless told
}

}  // namespace

Head head_of_weights(const Checkpoint& checkpoint) {
  const std::vector<std::string> names = checkpoint.names();
  const auto has = [&](std::string_view tensor) {
    return std::any_of(names.begin(), names.end(),
                       [&](const std::string& name) { return name.starts_with(tensor); });
  };
  for (const HeadTensor& row : kTensors) {
    if (has(row.name)) return row.head;
  }
  if (has("classifier.weight")) {
    // A classifier of whole texts reads the pooler's output.
    const bool has_pooler = std::any_of(names.begin(), names.end(), [](const std::string& name) {
      return name.find("pooler.dense.weight") != std::string::npos;
    });
    return has_pooler ? Head::kSequenceClassification : Head::kTokenClassification;
  }
  const bool is_wrapped =
      std::any_of(std::begin(kDecoders), std::end(kDecoders), has) && is_tied(checkpoint.config());
  return is_wrapped ? Head::kCausalLm : Head::kNone;
}

}  // namespace tessera
