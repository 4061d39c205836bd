#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "io/model_directory.h"
#include "model/architecture.h"
#include "tessera/tune.h"

namespace tessera {

// What one pass of training reads: sequences without padding, one after another, and what is to be
// predicted of them. Sequence s has rows offsets[s] to offsets[s + 1].
//
//   task                 rows                          labels                        values
//   kDistil              -                             -                             -
//   kCausalLm,           those that predict a token    the tokens behind them        -
//   kDataToText
//   kMaskedLm            masked ones                   their tokens                  -
//   kClassification      -                             [sequences]: the class        -
//   kRegression          -                             -                             [sequences]
//   kTokenClassification a word's first token          its class                     -
//   kQuestionAnswering   -                             [sequences][2]: first and     -
//                                                      last row of the answer,
//                                                      counted in the sequence
//   kEmbeddings          -                             -                             [pairs] or
//   empty
// Sequences 2 i and 2 i + 1 of kEmbeddings are a pair; without values those of other pairs are to
// be far from them.
struct Batch {
  std::vector<int32_t> ids;
  std::vector<int32_t> type_ids;  // [rows], or empty: all 0
  std::vector<int32_t> offsets = {0};
  std::vector<int32_t> rows;
  std::vector<int32_t> labels;
  std::vector<float> values;

  int64_t tokens() const { return static_cast<int64_t>(ids.size()); }
  int64_t sequences() const { return static_cast<int64_t>(offsets.size()) - 1; }
};

// The batches of a training. A batch is a function of the seed and its number alone, so a training
// that is taken up reads what it would have read.
//
// An epoch is every example once, in an order that the seed and the epoch's number give; a pair of
// kEmbeddings is one example. Epochs follow each other without a gap, and a batch takes the next
// examples of them: `batch` of them, or where that is 0 as many as fit into batch_tokens, but never
// more than there are. So a batch of tokens has at most batch_tokens, and the example behind it
// would not have fitted; no example is longer than batch_tokens.
//
// What decoders read of plain text, for kCausalLm and kDistil, is one stream of tokens, and the
// examples of an epoch are blocks of max_tokens that tile it from a random offset on; what stands
// before the offset and behind the last block are shorter ones. Tokens of kMaskedLm that are not
// special are chosen each by itself with the probability masked_share, at least one in a batch; of
// those chosen 80% become the mask token, 10% any token, and 10% stay (Devlin et al. 2019).
class Batches {
 public:
  virtual ~Batches() = default;
  // May be called by several threads. number >= 0.
  virtual Batch batch(int64_t number) const = 0;
  // What there is to learn from: the examples of an epoch, or the tokens where they are one stream.
  virtual int64_t examples() const = 0;
  // Texts that were longer than max_tokens, and lost tokens.
  virtual int64_t cut() const { return 0; }
  // What the classes that the labels count are called: by the model, or where the architecture has
  // no labels (it has no head for them yet) by the data, whose numbers are in their order, and
  // other labels in that of their bytes. Empty where neither has names, and for tasks without
  // classes.
  virtual std::vector<std::string> label_names() const { return {}; }
};

// Reads the data that the options name, which check() has passed; docs/tune-data.md has the
// formats. kInvalidInput, with the file and the line, for data that is empty or not what the task
// needs; kUnsupported for a task that the model cannot learn.
Result<std::unique_ptr<Batches>> read_batches(const ModelDirectory& home,
                                              const Architecture& architecture,
                                              const TuneOptions& options);

}  // namespace tessera
