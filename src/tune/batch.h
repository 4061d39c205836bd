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
class Batches {
 public:
  virtual ~Batches() = default;
  virtual Batch batch(int64_t number) const = 0;
  // What there is to learn from: sequences, or tokens of plain text.
  virtual int64_t examples() const = 0;
};

// Reads the data that the options name. kInvalidInput, with the file and the line, for data that is
// empty or not what the task needs.
Result<std::unique_ptr<Batches>> read_batches(const ModelDirectory& home,
                                              const Architecture& architecture,
                                              const TuneOptions& options);

}  // namespace tessera
