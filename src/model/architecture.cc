#include "model/architecture.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "model/families/families.h"
#include "model/head_of_weights.h"
#include "model/sentence_encoder.h"
#include "tessera/model.h"

namespace tessera {
namespace {

constexpr Family kFamilies[] = {
#define TESSERA_FAMILY(model_type, class_prefix, read) {model_type, read},
#include "model/families/table.inc"
#undef TESSERA_FAMILY
};

// How the names of transformers' own classes begin. A class of another family than model_type's is
// none of ours to refuse: transformers goes by model_type too.
constexpr std::string_view kClassPrefixes[] = {
#define TESSERA_FAMILY(model_type, class_prefix, read) class_prefix,
#include "model/families/table.inc"
#undef TESSERA_FAMILY
    "Camembert",  // RoBERTa under another name
};

struct ClassEnding {
  std::string_view ending;
  Head head;
};
constexpr ClassEnding kClassEndings[] = {
    {"ForCausalLM", Head::kCausalLm},
    {"LMHeadModel", Head::kCausalLm},
    {"ForMaskedLM", Head::kMaskedLm},
    {"ForPreTraining", Head::kMaskedLm},
    {"ForSequenceClassification", Head::kSequenceClassification},
    {"ForTokenClassification", Head::kTokenClassification},
    {"ForQuestionAnswering", Head::kQuestionAnswering},
    {"Model", Head::kNone},
};

Result<const Family*> find_family(const Config& config) {
  TESSERA_ASSIGN_OR_RETURN(const std::string model_type, config.string("model_type"));
  std::string known;
  for (const Family& family : kFamilies) {
    if (family.model_type == model_type) return &family;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", family.model_type);
  }
  return unsupported(fmt::format("{}: model_type: expected one of {}, found \"{}\"",
                                 config.source(), known, model_type));
}

// The class of transformers that has this name, else null. A name that only ends like one belongs
// to code of the model's own, whose layers, mask or pooling may be others.
const ClassEnding* find_class(std::string_view name) {
  for (const std::string_view prefix : kClassPrefixes) {
    if (!name.starts_with(prefix)) continue;
    for (const ClassEnding& row : kClassEndings) {
      if (name.substr(prefix.size()) == row.ending) return &row;
    }
  }
  return nullptr;
}

Status refuse_class(const Config& config, std::string_view name) {
  std::string endings;
  for (const ClassEnding& row : kClassEndings)
    endings += fmt::format("{}{}", endings.empty() ? "" : ", ", row.ending);
  return unsupported(
      fmt::format("{}: architectures: expected a class of transformers, one of {} followed by one "
                  "of {}, found \"{}\"",
                  config.source(), fmt::join(kClassPrefixes, ", "), endings, name));
}

// checkpoint: whose tensors tell the head where the config names no class; null: it has none then.
Status read_head(const Config& config, const Checkpoint* checkpoint, Architecture& architecture) {
  TESSERA_ASSIGN_OR_RETURN(const std::vector<std::string> classes, config.strings("architectures"));
  if (classes.empty()) {
    if (checkpoint != nullptr) architecture.head = head_of_weights(*checkpoint);
    return {};
  }
  architecture.class_name = classes.front();
  const ClassEnding* known = find_class(architecture.class_name);
  if (known == nullptr) return refuse_class(config, architecture.class_name);
  architecture.head = known->head;
  return {};
}

// Widths are kept in 32 bits, so their products are bounded here.
Status check_widths(const Config& config, const Architecture& architecture) {
  for (const LayerRecord& layer : architecture.layers) {
    if (int64_t{layer.query_heads} * layer.head_size <= kMostUnits) continue;
    return invalid_input(fmt::format("{}: expected at most {} for heads x head size, found {} x {}",
                                     config.source(), kMostUnits, layer.query_heads,
                                     layer.head_size));
  }
  return {};
}

// Base models are saved without the family's prefix.
void drop_absent_prefix(const Checkpoint& checkpoint, TensorNames& names) {
  const auto has = [&](const std::string& name) {
    return checkpoint.has(name) || checkpoint.has(name + ".values");  // dense or quantized
  };
  const std::string& first = names.token_embedding;
  if (!has(names.prefix + first) && has(first)) names.prefix.clear();
}

struct ProblemType {
  std::string_view name;
  LabelScores scores;
};
constexpr ProblemType kProblemTypes[] = {
    {"single_label_classification", LabelScores::kSoftmax},
    {"multi_label_classification", LabelScores::kSigmoid},
    {"regression", LabelScores::kLogits},
};

Result<LabelScores> read_problem_type(const Config& config, int32_t labels) {
  if (!config.has("problem_type")) {
    return labels == 1 ? LabelScores::kSigmoid : LabelScores::kSoftmax;
  }
  TESSERA_ASSIGN_OR_RETURN(const std::string found, config.string("problem_type"));
  std::string known;
  for (const ProblemType& row : kProblemTypes) {
    if (row.name == found) return row.scores;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", row.name);
  }
  return invalid_input(fmt::format("{}: problem_type: expected one of {}, found \"{}\"",
                                   config.source(), known, found));
}

Status read_label_scores(const Config& config, Architecture& architecture) {
  TESSERA_ASSIGN_OR_RETURN(architecture.label_scores,
                           read_problem_type(config, architecture.labels));
  TESSERA_ASSIGN_OR_RETURN(const std::string older,
                           config.string_or("sbert_ce_default_activation_function", ""));
  TESSERA_ASSIGN_OR_RETURN(const Config encoder, config.child("sentence_transformers"));
  TESSERA_ASSIGN_OR_RETURN(const std::string activation, encoder.string_or("activation_fn", older));
  if (activation.empty()) return {};
  TESSERA_ASSIGN_OR_RETURN(architecture.relevance_scores,
                           read_score_activation(activation, config.source()));
  return {};
}

Status read_labels(const Config& config, Architecture& architecture) {
  if (architecture.head != Head::kSequenceClassification &&
      architecture.head != Head::kTokenClassification)
    return {};
  TESSERA_ASSIGN_OR_RETURN(architecture.label_names, config.strings_by_index("id2label"));
  TESSERA_ASSIGN_OR_RETURN(const int64_t labels, config.integer_or("num_labels", 2, 1, kMostUnits));
  architecture.labels = architecture.label_names.empty()
                            ? static_cast<int32_t>(labels)
                            : static_cast<int32_t>(architecture.label_names.size());
  return read_label_scores(config, architecture);
}

Status read_end_ids(const Checkpoint& checkpoint, Architecture& architecture) {
  const Config& generation = checkpoint.generation_config();
  // null is an answer too: no token ends a text.
  const Config& config = generation.contains("eos_token_id") ? generation : checkpoint.config();
  TESSERA_ASSIGN_OR_RETURN(const std::vector<int64_t> ids, config.integers("eos_token_id"));
  for (int64_t id : ids) {
    // Some configurations keep an id that the vocabulary lacks; it can never be generated.
    if (id >= 0 && id < architecture.vocabulary_size)
      architecture.end_ids.push_back(static_cast<int32_t>(id));
  }
  return {};
}

Result<Architecture> read_record(const Config& config, const Checkpoint* checkpoint) {
  Architecture architecture;
  TESSERA_ASSIGN_OR_RETURN(const Family* family, find_family(config));
  architecture.family = family->model_type;
  TESSERA_RETURN_IF_ERROR(read_head(config, checkpoint, architecture));
  TESSERA_RETURN_IF_ERROR(read_labels(config, architecture));
  TESSERA_RETURN_IF_ERROR(family->read(config, architecture));
  TESSERA_RETURN_IF_ERROR(check_widths(config, architecture));
  TESSERA_RETURN_IF_ERROR(check(architecture, config.source()));
  return architecture;
}

}  // namespace

AttentionShape attention_shape(const LayerRecord& layer, Mask mask, const ValueHeads& values,
                               DType cache) {
  const auto head_size = static_cast<double>(layer.head_size);
  return {.query_heads = layer.query_heads,
          .pages = {.kv_heads = layer.kv_heads,
                    .d_k = layer.head_size,
                    .d_v = values.size,
                    .value_heads = values.heads,
                    .dtype = cache},
          .scale = layer.score_scale > 0 ? layer.score_scale
                                         : static_cast<float>(1 / std::sqrt(head_size)),
          .mask = mask,
          .window = layer.window,
          .outputs = values.outputs};
}

AttentionShape Architecture::attention_shape_as_stored(int32_t number) const {
  const LayerRecord& record = layer(number);
  return attention_shape(record, mask, {.heads = record.kv_heads, .size = record.head_size},
                         DType::kF32);
}

namespace {

struct Refusal {
  std::string_view what;
  bool (*asked)(const Architecture& architecture, const LayerRecord& layer);
};
using A = const Architecture&;
using L = const LayerRecord&;
constexpr Refusal kRefusals[] = {
    {"a projection of embeddings", [](A a, L) { return a.embedding_width() != a.hidden_size; }},
    {"a cap of attention scores", [](A, L layer) { return layer.score_cap != 0; }},
    {"biases of attention scores", [](A, L layer) { return layer.score_bias != ScoreBias::kNone; }},
    {"attention windows on both sides (is_causal: false and sliding_window)",
     [](A a, L layer) { return a.mask == Mask::kNone && layer.window > 0; }},
    {"cross-attention", [](A, L layer) { return layer.cross_attention != CrossAttention::kNone; }},
};

}  // namespace

Status check(const Architecture& architecture, const std::string& source) {
  for (int32_t number = 0; number < architecture.layer_count(); ++number) {
    for (const Refusal& refusal : kRefusals) {
      if (!refusal.asked(architecture, architecture.layer(number))) continue;
      return unsupported(fmt::format("{}: layer {}: Tessera does not run models with {} yet",
                                     source, number, refusal.what));
    }
  }
  return {};
}

Result<Architecture> read_architecture(const Checkpoint& checkpoint) {
  TESSERA_ASSIGN_OR_RETURN(Architecture architecture,
                           read_record(checkpoint.config(), &checkpoint));
  drop_absent_prefix(checkpoint, architecture.names);
  TESSERA_RETURN_IF_ERROR(read_end_ids(checkpoint, architecture));
  return architecture;
}

Result<Architecture> read_architecture(const Config& config) {
  return read_record(config, nullptr);
}

Result<std::string> class_with_head(const Config& config, Head head) {
  TESSERA_ASSIGN_OR_RETURN(const Family* family, find_family(config));
  const std::string prefix(kClassPrefixes[family - std::begin(kFamilies)]);
  if (prefix == "GPT2" && head == Head::kCausalLm) return prefix + "LMHeadModel";
  const auto* row = std::find_if(std::begin(kClassEndings), std::end(kClassEndings),
                                 [&](const ClassEnding& one) { return one.head == head; });
  return prefix + std::string(row->ending);
}

Status check_sequence(const Architecture& architecture, const TokenSequence& sequence,
                      const std::string& name, int32_t tokenizer_tokens) {
  const size_t length = sequence.ids.size(), types = sequence.type_ids.size();
  if (length == 0)
    return invalid_input(fmt::format("{}: expected at least one token, found none", name));
  if (length > static_cast<size_t>(architecture.max_positions)) {
    return invalid_input(
        fmt::format("{}: expected at most {} tokens, the model's context, found {}", name,
                    architecture.max_positions, length));
  }
  if (types != 0 && types != length) {
    return invalid_input(
        fmt::format("{}: expected {} type ids, one a token, found {}", name, length, types));
  }
  const int32_t largest_type = std::max(1, architecture.type_vocabulary_size) - 1;
  for (size_t i = 0; i < length; ++i) {
    const int32_t id = sequence.ids[i], type = types == 0 ? 0 : sequence.type_ids[i];
    if (id < 0 || id >= architecture.vocabulary_size) {
      return invalid_input(
          fmt::format("{}: expected ids from 0 to {}, found {} at token {}{}", name,
                      architecture.vocabulary_size - 1, id, i,
                      id >= 0 && id < tokenizer_tokens
                          ? fmt::format(" (the tokenizer has {} tokens, the model's embedding {})",
                                        tokenizer_tokens, architecture.vocabulary_size)
                          : ""));
    }
    if (type < 0 || type > largest_type) {
      return invalid_input(fmt::format("{}: expected type ids from 0 to {}, found {} at token {}",
                                       name, largest_type, type, i));
    }
  }
  return {};
}

}  // namespace tessera
