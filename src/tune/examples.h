#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "tessera/model.h"
#include "tune/batch.h"

namespace tessera::training {

// What an epoch is made of: examples, each as it goes into a batch.
class Examples {
 public:
  virtual ~Examples() = default;
  // How many there are in an epoch, at least one; `example` is one of them, from 0.
  virtual int64_t count(int64_t epoch) const = 0;
  virtual int64_t tokens(int64_t epoch, int64_t example) const = 0;
  virtual void append(int64_t epoch, int64_t example, Batch& batch) const = 0;
  // The least count of any epoch, and what Batches::examples() tells.
  virtual int64_t least_count() const = 0;
  virtual int64_t size() const = 0;
};

// An example of its own.
struct Example {
  TokenSequence tokens;
  std::optional<TokenSequence> second;  // of a pair
  std::vector<int32_t> rows;            // as of Batch, counted in `tokens`
  std::vector<int32_t> labels;
  std::optional<float> value;
};

// Examples that are the same in every epoch.
class ExampleList final : public Examples {
 public:
  // All or none have a second sequence; all or none have a value.
  void add(const Example& example);

  int64_t count(int64_t) const override { return size(); }
  int64_t tokens(int64_t, int64_t example) const override;
  void append(int64_t, int64_t example, Batch& batch) const override;
  int64_t least_count() const override { return size(); }
  int64_t size() const override { return static_cast<int64_t>(ends_.size()); }
  bool has_values() const { return !values_.empty(); }

 private:
  // Where what an example has ends in the lists below; it begins where the one before ends.
  struct Ends {
    int64_t ids = 0;
    int64_t first_ids = 0;  // of its first sequence
    int64_t rows = 0;
    int64_t labels = 0;
  };
  Ends before(int64_t example) const;
  void add_tokens(const TokenSequence& tokens);

  std::vector<Ends> ends_;
  std::vector<int32_t> ids_;
  std::vector<int32_t> type_ids_;  // as many, or none: all are 0
  std::vector<int32_t> rows_;
  std::vector<int32_t> labels_;
  std::vector<float> values_;
};

// Whether the next token is to be predicted.
enum class Predict { kNothing, kNextToken };

// Blocks of a stream of tokens. Epoch e begins at an offset o that the seed and e give:
//   [0, o), [o, o + block), [o + block, o + 2 block), ..., [.., tokens)
// the first one only where o > 0. Where the next token is predicted the last token of the stream is
// in no block, so that every row predicts one.
class TokenStream final : public Examples {
 public:
  // At least one token, or two where the next one is predicted; block > 0.
  TokenStream(std::vector<int32_t> ids, int64_t block, Predict predict, uint64_t seed);

  int64_t count(int64_t epoch) const override;
  int64_t tokens(int64_t epoch, int64_t example) const override;
  void append(int64_t epoch, int64_t example, Batch& batch) const override;
  int64_t least_count() const override;
  int64_t size() const override { return tokens_; }

 private:
  struct Part {
    int64_t begin = 0, end = 0;
  };
  Part part(int64_t epoch, int64_t example) const;
  int64_t offset(int64_t epoch) const;

  std::vector<int32_t> ids_;
  int64_t tokens_;  // that stand in blocks
  int64_t block_;
  Predict predict_;
  uint64_t seed_;
};

}  // namespace tessera::training
