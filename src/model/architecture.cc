#include "model/architecture.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "model/families/families.h"
#include "tessera/model.h"

namespace tessera {
namespace {

constexpr Family kFamilies[] = {
#define TESSERA_FAMILY(model_type, read) {model_type, read},
#include "model/families/table.inc"
#undef TESSERA_FAMILY
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

Status read_head(const Config& config, Architecture& architecture) {
  TESSERA_ASSIGN_OR_RETURN(const std::vector<std::string> classes, config.strings("architectures"));
  if (classes.empty()) return {};
  architecture.class_name = classes.front();
  std::string known;
  for (const ClassEnding& row : kClassEndings) {
    if (architecture.class_name.ends_with(row.ending) &&
        !architecture.class_name.ends_with("DoubleHeadsModel")) {
      architecture.head = row.head;
      return {};
    }
    known += fmt::format("{}{}", known.empty() ? "" : ", ", row.ending);
  }
  return unsupported(
      fmt::format("{}: architectures: expected a class that ends in one of {}, found \"{}\"",
                  config.source(), known, architecture.class_name));
}

// Widths are kept in 32 bits, so their products are bounded here.
Status check_widths(const Config& config, const Architecture& a) {
  const int64_t width = int64_t{a.query_heads} * a.head_size;
  if (width <= kMostUnits) return {};
  return invalid_input(fmt::format("{}: expected at most {} for heads x head size, found {} x {}",
                                   config.source(), kMostUnits, a.query_heads, a.head_size));
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
  if (activation.ends_with(".Identity")) architecture.relevance_scores = LabelScores::kLogits;
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
  const Config& config = generation.has("eos_token_id") ? generation : checkpoint.config();
  TESSERA_ASSIGN_OR_RETURN(const std::vector<int64_t> ids, config.integers("eos_token_id"));
  for (int64_t id : ids) {
    // Some configurations keep an id that the vocabulary lacks; it can never be generated.
    if (id >= 0 && id < architecture.vocabulary_size)
      architecture.end_ids.push_back(static_cast<int32_t>(id));
  }
  return {};
}

}  // namespace

ValueHeads Architecture::value_heads(int32_t layer) const {
  if (values.empty()) return {.heads = kv_heads, .size = head_size};
  return values[static_cast<size_t>(layer)];
}

int64_t Architecture::qkv_width(int32_t layer) const {
  const ValueHeads value = value_heads(layer);
  return query_width() + kv_width() + int64_t{value.heads} * value.size;
}

AttentionShape Architecture::attention_shape(int32_t layer) const {
  const ValueHeads value = value_heads(layer);
  return {.query_heads = query_heads,
          .pages = {.kv_heads = kv_heads,
                    .d_k = head_size,
                    .d_v = value.size,
                    .value_heads = value.heads,
                    .dtype = cache},
          .scale = score_scale,
          .mask = mask,
          .window = windows.empty() ? 0 : windows[static_cast<size_t>(layer)],
          .outputs = value.outputs};
}

PageShape Architecture::largest_page() const {
  PageShape largest = attention_shape(0).pages;
  for (int32_t layer = 1; layer < layers; ++layer) {
    const PageShape shape = attention_shape(layer).pages;
    if (shape.page_bytes() > largest.page_bytes()) largest = shape;
  }
  return largest;
}

Result<Architecture> read_architecture(const Checkpoint& checkpoint) {
  const Config& config = checkpoint.config();
  Architecture architecture;
  TESSERA_ASSIGN_OR_RETURN(const Family* family, find_family(config));
  architecture.family = family->model_type;
  TESSERA_RETURN_IF_ERROR(read_head(config, architecture));
  TESSERA_RETURN_IF_ERROR(read_labels(config, architecture));
  TESSERA_RETURN_IF_ERROR(family->read(config, architecture));
  TESSERA_RETURN_IF_ERROR(check_widths(config, architecture));
  architecture.score_scale =
      static_cast<float>(1 / std::sqrt(static_cast<double>(architecture.head_size)));
  TESSERA_RETURN_IF_ERROR(read_end_ids(checkpoint, architecture));
  return architecture;
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
