#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "tessera/model.h"
#include "tessera/status.h"

// What models with a head are used for. Every function takes any number of inputs, sorts and
// batches them by length inside and answers in their order; a wrong input fails the call with a
// sentence that names it by its index.
namespace tessera {

// One input: a text, a text with a second one (premise and hypothesis, question and context, query
// and document), or token ids, which are taken as they are.
struct TaskInput {
  std::string text;
  std::optional<std::string> pair;
  std::optional<TokenSequence> tokens;  // instead of the texts
};

// A text longer than the model's context: cut (and marked so), or refused.
enum class TooLong { kCut, kRefuse };

struct TaskOptions {
  TooLong too_long = TooLong::kCut;
  // Called with the inputs done so far; false cancels (kCancelled).
  std::function<bool(int64_t done)> on_progress;
};

// How the scores of a classification head are read: as config.json's problem_type says, else one
// label is a regression and several exclude each other.
struct Classification {
  std::vector<float> logits;  // [labels], in the order of ModelInfo::labels
  // softmax (single label), sigmoid (multiple labels) or the logits (regression).
  std::vector<float> scores;
  int32_t best = 0;  // the label of the largest score
  int64_t tokens = 0;
  bool truncated = false;
};
// Needs Head::kSequenceClassification.
Result<std::vector<Classification>> classify(Model& model, std::span<const TaskInput> inputs,
                                             const TaskOptions& options = {});

// A range of the input: bytes of the text, and tokens. Without text (ids were given) only tokens.
struct TaskSpan {
  int64_t begin_byte = 0, end_byte = 0;
  int32_t begin_token = 0, end_token = 0;
};

struct TaggedToken {
  int32_t id = 0;
  TaskSpan span;
  int32_t label = 0;  // the one with the largest score
  float score = 0;    // its softmax
  bool special = false;
};
// Neighbouring tokens of one entity, joined by the B-, I- (E-, S-, L-, U-) prefixes of their
// labels, or by equal labels where those have none; "O" and special tokens form none.
struct Entity {
  std::string label;  // without its prefix
  std::string text;   // empty when ids were given
  TaskSpan span;
  float score = 0;  // mean over its tokens
};
struct Tagging {
  std::vector<TaggedToken> tokens;
  std::vector<Entity> entities;
  std::vector<float> logits;  // [tokens, labels]
  bool truncated = false;
};
// Needs Head::kTokenClassification.
Result<std::vector<Tagging>> tag(Model& model, std::span<const TaskInput> inputs,
                                 const TaskOptions& options = {});

struct AnswerOptions : TaskOptions {
  int32_t answers = 1;  // the so many best of a question
  int32_t max_answer_tokens = 30;
  int32_t window_tokens = 384;   // at most; the model's context when that is smaller
  int32_t overlap_tokens = 128;  // of the context, between windows; at most half of what fits
};
struct Answer {
  std::string text;  // of the context; empty when ids were given
  TaskSpan span;     // in the context; tokens: of the window (of the ids given)
  float score = 0;   // softmax over start times softmax over end, over the window's context
};
struct Answers {
  std::vector<Answer> best;  // at most `answers`, best first, none overlapping a better one
  // How likely the model holds that there is no answer: start times end at the first token, least
  // over the windows.
  float no_answer_score = 0;
  int32_t windows = 0;
  std::vector<float> start_logits, end_logits;  // [tokens], when ids were given
};
// input.text is the question, input.pair the context. Ids: the context is what has type id 1, or
// everything where no token has. Needs Head::kQuestionAnswering.
Result<std::vector<Answers>> answer(Model& model, std::span<const TaskInput> inputs,
                                    const AnswerOptions& options = {});

struct FillMaskOptions : TaskOptions {
  int32_t candidates = 5;  // a mask
};
struct MaskCandidate {
  int32_t id = 0;
  std::string token;  // as the vocabulary spells it; empty without a tokenizer
  float score = 0;    // softmax over the vocabulary
};
struct FilledMasks {
  std::vector<int32_t> positions;                      // tokens that are masks
  std::vector<std::vector<MaskCandidate>> candidates;  // for each of them, best first
  std::string text;  // with the best of each filled in, special tokens left out; empty for ids
  bool truncated = false;
};
// Every mask token of the text ("[MASK]", "<mask>") is filled. An input without one is an error.
// Needs Head::kMaskedLm.
Result<std::vector<FilledMasks>> fill_mask(Model& model, std::span<const TaskInput> inputs,
                                           const FillMaskOptions& options = {});

struct Ranked {
  int64_t document = 0;  // index
  float score = 0;
};
// Documents by their relevance to a query, best first. A cross-encoder (sequence classification
// with one label: its logit; with two: the softmax of the second) reads each pair; any other
// encoder compares embeddings by cosine.
Result<std::vector<Ranked>> rerank(Model& model, const std::string& query,
                                   std::span<const std::string> documents,
                                   const TaskOptions& options = {});

}  // namespace tessera
