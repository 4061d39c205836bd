#include "runtime/tasks/batching.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <mutex>
#include <numeric>
#include <optional>
#include <utility>

#include "runtime/pruned_pass.h"
#include "runtime/scheduler.h"
#include "runtime/whole_sequences.h"

namespace tessera::tasks {
namespace {

// Texts encoded between two looks at whether the caller wants to stop.
constexpr size_t kTextsAtATime = 1024;

struct HeadUse {
  Head head;
  std::string_view does;
  std::string_view function;
};
constexpr HeadUse kHeadUses[] = {
    {Head::kNone, "gives hidden states", "embed"},
    {Head::kCausalLm, "continues texts", "generate"},
    {Head::kMaskedLm, "predicts masked tokens", "fill_mask"},
    {Head::kSequenceClassification, "classifies whole texts", "classify"},
    {Head::kTokenClassification, "classifies tokens", "tag"},
    {Head::kQuestionAnswering, "finds answers in a context", "answer"},
};

const HeadUse& use_of(Head head) {
  return *std::find_if(std::begin(kHeadUses), std::end(kHeadUses),
                       [&](const HeadUse& use) { return use.head == head; });
}

// prompted: the input's first text.
TextPair texts_of(const TaskInput& input, std::string_view prompted) {
  TextPair texts{prompted};
  if (input.pair) texts.second = *input.pair;
  return texts;
}

// Encodes the texts among inputs[begin, end) on all threads.
Status encode(const ModelState& state, std::span<const TaskInput> inputs, size_t begin,
              const EncodeOptions& options, std::span<Sequence> sequences) {
  std::vector<TextPair> texts;
  std::vector<size_t> owners;
  // embed() puts its prompt before texts itself.
  const bool is_classifier = state.sentence_encoder.kind == SentenceEncoder::Kind::kClassifier;
  const std::string prompt = is_classifier ? state.sentence_encoder.default_prompt : "";
  std::vector<std::string> prompted(prompt.empty() ? 0 : inputs.size());
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (inputs[i].tokens) continue;
    if (!prompt.empty()) prompted[i] = prompt + inputs[i].text;
    texts.push_back(texts_of(inputs[i], prompt.empty() ? inputs[i].text : prompted[i]));
    owners.push_back(i);
  }
  if (texts.empty()) return {};
  TESSERA_ASSIGN_OR_RETURN(const Tokenizer* tokenizer,
                           tokenizer_for(state, begin + owners.front()));
  auto encodings = tokenizer->encode_all(texts, options, state.info.threads);
  if (!encodings.ok()) {
    // It counts the texts; the inputs are found by the one that fails alone too.
    for (size_t j = 0; j < texts.size(); ++j) {
      const Status alone = tokenizer->encode(texts[j], options).status();
      if (!alone.ok()) return at_input(begin + owners[j], alone);
    }
    return encodings.status();
  }
  for (size_t j = 0; j < texts.size(); ++j) {
    Encoding& encoding = (*encodings)[j];
    sequences[owners[j]] = {{std::move(encoding.ids), std::move(encoding.type_ids)},
                            std::move(encoding.origins),
                            encoding.truncated};
  }
  return {};
}

// Tokenizers give segments to models that have none (RoBERTa's has one type): all are the first.
void drop_unknown_types(const ModelState& state, TokenSequence& tokens) {
  if (state.architecture.type_vocabulary_size <= 1) tokens.type_ids.clear();
}

Status check_finite(std::span<const float> logits, size_t input) {
  const auto bad =
      std::find_if(logits.begin(), logits.end(), [](float x) { return !std::isfinite(x); });
  if (bad == logits.end()) return {};
  return invalid_input(fmt::format(
      "{}: expected finite logits, found {}: the model's weights are NaN or infinite, or too large",
      name_of(input), *bad));
}

size_t rows_read(const Item& item, HeadRows head_rows) {
  switch (head_rows) {
    case HeadRows::kNone:
      return 0;
    case HeadRows::kAll:
      return item.tokens->ids.size();
    case HeadRows::kGiven:
      return item.rows.size();
    default:
      return 1;
  }
}

Status run_batch(ModelState& state, const Work& work, std::span<const size_t> members,
                 const Take& take) {
  SequenceBatch batch;
  std::vector<int32_t> given_rows;
  for (const size_t item : members) {
    const auto first = static_cast<int32_t>(batch.ids.size());
    for (const int32_t row : work.items[item].rows) given_rows.push_back(first + row);
    batch.add(*work.items[item].tokens);
  }
  const PrunedPass pruned(state, batch, {.head = work.head_rows, .head_rows = given_rows});
  ForwardInput input = batch.input();
  pruned.schedule(input);
  input.head_rows = work.head_rows;
  if (work.head_rows == HeadRows::kGiven) input.given_head_rows = given_rows;
  ForwardOutput output;
  const std::lock_guard<std::mutex> turn(state.in_use);
  TESSERA_RETURN_IF_ERROR(state.executor->run(input, output));
  std::span<const float> rest = output.logits;
  for (const size_t item : members) {
    const size_t count =
        rows_read(work.items[item], work.head_rows) * static_cast<size_t>(output.width);
    TESSERA_RETURN_IF_ERROR(check_finite(rest.first(count), work.items[item].input));
    TESSERA_RETURN_IF_ERROR(take(item, rest.first(count)));
    rest = rest.subspan(count);
  }
  return {};
}

}  // namespace

std::string name_of(size_t input) { return fmt::format("input {}", input); }

Status at_input(size_t input, const Status& status) {
  return {status.code(), fmt::format("{}: {}", name_of(input), status.message())};
}

Status require_head(const Model& model, Head head, std::string_view function) {
  const ModelInfo& info = model.info();
  if (info.head == head) return {};
  const HeadUse& found = use_of(info.head);
  return unsupported(fmt::format("{} expects a model that {}, found {} ({}), which {}: use {}",
                                 function, use_of(head).does, info.architecture, info.directory,
                                 found.does, found.function));
}

Truncation text_truncation(const ModelState& state) {
  Truncation truncation{.max_tokens = text_limit(state)};
  if (state.tokenizer != nullptr) truncation.side = state.tokenizer->truncation_side();
  return truncation;
}

Status check_length(const ModelState& state, const TokenSequence& tokens, size_t input) {
  const size_t limit = text_limit(state), length = tokens.ids.size();
  if (length <= limit) return {};
  return at_input(
      input, invalid_input(fmt::format("expected at most {} tokens, the model's limit, found {}",
                                       limit, length)));
}

Result<const Tokenizer*> tokenizer_for(const ModelState& state, size_t input) {
  if (state.tokenizer != nullptr) return state.tokenizer.get();
  return not_found(fmt::format("{}: {} has no tokenizer: give token ids instead of text",
                               name_of(input), state.info.directory));
}

std::vector<int32_t> special_ids(const ModelState& state) {
  if (state.tokenizer == nullptr) return {};
  auto nothing = state.tokenizer->encode({""});
  return nothing.ok() ? std::move(nothing->ids) : std::vector<int32_t>();
}

Status check_progress(const TaskOptions& options, int64_t done) {
  if (!options.on_progress || options.on_progress(done)) return {};
  return {StatusCode::kCancelled, "cancelled"};
}

Result<std::vector<Sequence>> to_sequences(ModelState& state, std::span<const TaskInput> inputs,
                                           const TaskOptions& options, Origins origins) {
  EncodeOptions encode_options{.origins = origins};
  if (options.too_long == TooLong::kCut) {
    encode_options.truncation = text_truncation(state);
  }
  std::vector<Sequence> sequences(inputs.size());
  for (size_t begin = 0; begin < inputs.size(); begin += kTextsAtATime) {
    TESSERA_RETURN_IF_ERROR(check_progress(options, 0));
    const size_t count = std::min(kTextsAtATime, inputs.size() - begin);
    TESSERA_RETURN_IF_ERROR(encode(state, inputs.subspan(begin, count), begin, encode_options,
                                   std::span(sequences).subspan(begin, count)));
  }
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (inputs[i].tokens) {
      sequences[i].tokens = *inputs[i].tokens;
    } else {
      TESSERA_RETURN_IF_ERROR(check_length(state, sequences[i].tokens, i));
      drop_unknown_types(state, sequences[i].tokens);
    }
    TESSERA_RETURN_IF_ERROR(check_sequence(state, sequences[i].tokens, name_of(i)));
  }
  return sequences;
}

Status run_items(ModelState& state, const Work& work, const TaskOptions& options,
                 const Take& take) {
  if (state.architecture.head == Head::kCausalLm && state.prunes()) {
    return unsupported(
        "pruning: expected texts that are read as a whole, found texts whose every token is "
        "predicted from those before it");
  }
  const auto length = [&](size_t item) {
    return static_cast<int64_t>(work.items[item].tokens->ids.size());
  };
  std::vector<size_t> order(work.items.size());
  std::iota(order.begin(), order.end(), size_t{0});
  // Longest first: what memory is needed is needed at once.
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return length(a) > length(b); });
  std::vector<size_t> missing(work.inputs);
  for (const Item& item : work.items) ++missing[item.input];
  int64_t done = std::count(missing.begin(), missing.end(), size_t{0});
  TESSERA_RETURN_IF_ERROR(check_progress(options, done));
  std::vector<int64_t> lengths;
  for (const size_t item : order) lengths.push_back(length(item));
  for (size_t begin = 0; begin < order.size();) {
    const size_t end = begin + sequences_in_pass(std::span(lengths).subspan(begin), kBatchTokens);
    const std::span<const size_t> members = std::span(order).subspan(begin, end - begin);
    TESSERA_RETURN_IF_ERROR(run_batch(state, work, members, take));
    for (const size_t item : members) done += --missing[work.items[item].input] == 0 ? 1 : 0;
    TESSERA_RETURN_IF_ERROR(check_progress(options, done));
    begin = end;
  }
  return {};
}

std::vector<float> softmax(std::span<const float> logits) {
  std::vector<float> scores(logits.size());
  if (logits.empty()) return scores;
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float x : logits) sum += std::exp(x - largest);
  for (size_t i = 0; i < logits.size(); ++i) {
    scores[i] = static_cast<float>(std::exp(logits[i] - largest) / sum);
  }
  return scores;
}

std::vector<float> to_scores(std::span<const float> logits, LabelScores kind) {
  if (kind == LabelScores::kSoftmax) return softmax(logits);
  std::vector<float> scores(logits.begin(), logits.end());
  if (kind == LabelScores::kLogits) return scores;
  if (kind == LabelScores::kTanh) {
    for (float& x : scores) x = std::tanh(x);
    return scores;
  }
  for (float& x : scores) x = static_cast<float>(1 / (1 + std::exp(-static_cast<double>(x))));
  return scores;
}

int32_t index_of_largest(std::span<const float> values) {
  return static_cast<int32_t>(std::max_element(values.begin(), values.end()) - values.begin());
}

TaskSpan trimmed(const std::string& text, TaskSpan span) {
  constexpr std::string_view kSpace = " \t\n\r\f\v";
  const auto is_space = [&](int64_t at) {
    return kSpace.find(text[static_cast<size_t>(at)]) != std::string_view::npos;
  };
  while (span.begin_byte < span.end_byte && is_space(span.begin_byte)) ++span.begin_byte;
  while (span.begin_byte < span.end_byte && is_space(span.end_byte - 1)) --span.end_byte;
  return span;
}

std::string text_of(const std::string& text, const TaskSpan& span) {
  return text.substr(static_cast<size_t>(span.begin_byte),
                     static_cast<size_t>(span.end_byte - span.begin_byte));
}

}  // namespace tessera::tasks
