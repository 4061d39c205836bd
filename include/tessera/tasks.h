#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tessera/export.h"
#include "tessera/model.h"
#include "tessera/names.h"
#include "tessera/status.h"

// What models with a head are used for. Every function takes any number of inputs, sorts and
// batches them by length inside and answers in their order. What cannot be answered fails the call
// with a sentence that names the input ("input 3: ...", counted from 0): a wrong input, and logits
// that are NaN or infinite, which have no order.
namespace tessera {

// One input: a text, a text with a second one (premise and hypothesis, question and context, query
// and document), or token ids, which are taken as they are.
struct TaskInput {
  std::string text = {};
  std::optional<std::string> pair = std::nullopt;
  std::optional<TokenSequence> tokens = std::nullopt;  // instead of the texts
};

// A text longer than ModelInfo::max_text_tokens: cut at its end, of two the longer one first (and
// marked so), or refused. Ids that are too many are always refused.
enum class TooLong { kCut, kRefuse };
constexpr auto names_of(TooLong) { return enum_names("cut", "refuse"); }

// What the options of every task have. Those with more repeat these members, and are TaskOptions
// where these are asked for: a base class would be in the way of {.dimensions = 64}.
struct TaskOptions {
  TooLong too_long = TooLong::kCut;
  // Called with the inputs done so far; false cancels (kCancelled).
  std::function<bool(int64_t done)> on_progress = {};
};

// Whether vectors get the length 1.
enum class Normalise { kAsModel, kYes, kNo };
constexpr auto names_of(Normalise) { return enum_names("as_model", "yes", "no"); }

struct EmbedOptions {
  TooLong too_long = TooLong::kCut;
  std::function<bool(int64_t done)> on_progress = {};
  // Put before each text; not before ids. Nothing: the prompt of that name, one of
  // ModelInfo::prompts; no name either: ModelInfo::default_prompt.
  std::optional<std::string> prompt = {};
  std::optional<std::string> prompt_name = {};
  // One after another; none: as the model says, else the mean.
  std::vector<Pooling> poolings = {};
  // The first so many numbers of each vector only (Matryoshka), which are normalised after that if
  // asked for; 0: as the model says (truncate_dim), else all.
  int32_t dimensions = 0;
  // kAsModel: as modules.json says; yes where there is none.
  Normalise normalise = Normalise::kAsModel;

  operator TaskOptions() const { return {too_long, on_progress}; }  // NOLINT: they are some
};
struct Embedding {
  std::vector<float> vector = {};
  std::vector<int32_t> ids = {};  // that were read
  bool truncated = false;
};
// One text each, or ids, which are cut like texts here. Needs no head. Models that
// sentence-transformers saved give what its encode gives.
TESSERA_API Result<std::vector<Embedding>> embed(Model& model, std::span<const TaskInput> inputs,
                                                 const EmbedOptions& options = {});

struct Classification {
  std::vector<float> logits = {};  // [labels], in the order of ModelInfo::labels
  std::vector<float> scores = {};  // as ModelInfo::label_scores says
  int32_t best = 0;                // the label of the largest score
  int64_t tokens = 0;
  bool truncated = false;
};
// Needs Head::kSequenceClassification.
TESSERA_API Result<std::vector<Classification>> classify(Model& model,
                                                         std::span<const TaskInput> inputs,
                                                         const TaskOptions& options = {});

// A range of the input: bytes of the text (without spaces at its ends), and tokens. Without text
// (ids were given) only tokens.
struct TaskSpan {
  int64_t begin_byte = 0, end_byte = 0;
  int32_t begin_token = 0, end_token = 0;
};

struct TaggedToken {
  int32_t id = 0;
  TaskSpan span = {};
  int32_t label = 0;     // the one with the largest score
  float score = 0;       // its softmax
  bool special = false;  // [CLS] and the like, which the tokenizer added or would add
};

// What an entity is made of. kTokens: tokens by their own labels, which may tear a word. Else whole
// words, whose tokens share a label: that of the first one, that of the largest mean score, or that
// of the token with the largest score. Tokens of one word are those that WordPiece spells "##...",
// or, with other tokenizers, that touch between two letters or digits. Ids have no words: kTokens.
enum class Aggregation { kTokens, kFirst, kMean, kMax };
constexpr auto names_of(Aggregation) { return enum_names("tokens", "first", "mean", "max"); }

struct TagOptions {
  TooLong too_long = TooLong::kCut;
  std::function<bool(int64_t done)> on_progress = {};
  Aggregation aggregation = Aggregation::kTokens;

  operator TaskOptions() const { return {too_long, on_progress}; }  // NOLINT: they are some
};

// Neighbouring tokens or words of one entity, joined by the B-, I- (E-, S-, L-, U-) prefixes of
// their labels, or by equal labels where those have none; "O" and special tokens form none.
struct Entity {
  std::string label = {};  // without its prefix
  std::string text = {};   // empty when ids were given
  TaskSpan span = {};
  float score = 0;  // mean over its tokens (words)
};
struct Tagging {
  std::vector<TaggedToken> tokens = {};
  std::vector<Entity> entities = {};
  std::vector<float> logits = {};  // [tokens, labels]
  bool truncated = false;
};
// One text each, or ids. Needs Head::kTokenClassification.
TESSERA_API Result<std::vector<Tagging>> tag(Model& model, std::span<const TaskInput> inputs,
                                             const TagOptions& options = {});

inline constexpr int32_t kUsualOverlapTokens = 128;

struct AnswerOptions {
  TooLong too_long = TooLong::kCut;
  std::function<bool(int64_t done)> on_progress = {};
  int32_t answers = 1;  // the so many best of a question
  int32_t max_answer_tokens = 30;
  int32_t window_tokens = 384;  // at most; the model's context when that is smaller
  // Context tokens shared by two windows: fewer than fit into one beside the question. Nothing:
  // kUsualOverlapTokens, or half of what fits where that is less.
  std::optional<int32_t> overlap_tokens = {};

  operator TaskOptions() const { return {too_long, on_progress}; }  // NOLINT: they are some
};
// Answers end where words do (see Aggregation), unless ids were given.
struct Answer {
  std::string text = {};  // of the context; empty when ids were given
  TaskSpan span = {};     // in the context; tokens: of the window (of the ids given)
  // Softmax of the start times softmax of the end, each over the first token and the context of the
  // window; the largest where several windows find the same.
  float score = 0;
};
struct Answers {
  std::vector<Answer> best = {};  // at most `answers`, best first, none overlapping a better one
  // How likely the model holds that there is no answer: start times end at the first token, least
  // over the windows.
  float no_answer_score = 0;
  int32_t windows = 0;
  std::vector<float> start_logits = {}, end_logits = {};  // [tokens], when ids were given
};
// input.text is the question, input.pair the context, which is never cut. Ids: one window, whose
// context is what has type id 1, or everything behind the first token where no token has, but for
// special tokens. An empty context has no answers. Needs Head::kQuestionAnswering.
TESSERA_API Result<std::vector<Answers>> answer(Model& model, std::span<const TaskInput> inputs,
                                                const AnswerOptions& options = {});

enum class Logits { kOmit, kGive };
constexpr auto names_of(Logits) { return enum_names("omit", "give"); }

struct FillMaskOptions {
  TooLong too_long = TooLong::kCut;
  std::function<bool(int64_t done)> on_progress = {};
  int32_t candidates = 5;               // a mask
  std::optional<int32_t> mask_id = {};  // instead of the tokenizer's
  Logits logits = Logits::kOmit;

  operator TaskOptions() const { return {too_long, on_progress}; }  // NOLINT: they are some
};
struct MaskCandidate {
  int32_t id = 0;
  std::string token = {};  // as the vocabulary spells it; empty without a tokenizer
  std::string text = {};   // as it reads, perhaps with a space before it
  float score = 0;         // softmax over the vocabulary
};
struct FilledMasks {
  std::vector<int32_t> positions = {};                      // tokens that are masks
  std::vector<std::vector<MaskCandidate>> candidates = {};  // for each of them, best first
  // With the best of each filled in, special tokens left out; empty without a tokenizer.
  std::string text = {};
  std::vector<float> logits = {};  // [masks, vocabulary], where asked for
  bool truncated = false;
};
// Every mask token ("[MASK]", "<mask>") is filled. An input without one, or whose masks are all cut
// off, is an error. Needs Head::kMaskedLm.
TESSERA_API Result<std::vector<FilledMasks>> fill_mask(Model& model,
                                                       std::span<const TaskInput> inputs,
                                                       const FillMaskOptions& options = {});

struct Ranked {
  int64_t document = 0;  // index
  float score = 0;
  bool truncated = false;
};
// Documents by their relevance to a query, best first, equals in their order. A cross-encoder
// (sequence classification with one label: ModelInfo::relevance_scores; with two: the
// softmax of the second) reads each pair; an encoder without a head, or with a masked-LM one,
// compares embeddings as ModelInfo::similarity says, where the query gets the prompt "query" and
// documents the prompt "document" if the model has these. Messages count the documents. A query
// that is too long for an encoder is cut or refused as they are.
TESSERA_API Result<std::vector<Ranked>> rerank(Model& model, const std::string& query,
                                               std::span<const std::string> documents,
                                               const TaskOptions& options = {});

}  // namespace tessera
