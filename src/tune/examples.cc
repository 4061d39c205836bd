#include "tune/examples.h"

#include <algorithm>

#include "tune/random.h"

namespace tessera::training {
namespace {

constexpr size_t at(int64_t index) { return static_cast<size_t>(index); }

template <typename T>
void append_part(const std::vector<T>& from, int64_t begin, int64_t end, std::vector<T>& to) {
  to.insert(to.end(), from.begin() + begin, from.begin() + end);
}

template <typename T>
int64_t length(const std::vector<T>& list) {
  return static_cast<int64_t>(list.size());
}

}  // namespace

ExampleList::Ends ExampleList::before(int64_t example) const {
  return example == 0 ? Ends() : ends_[at(example - 1)];
}

void ExampleList::add_tokens(const TokenSequence& tokens) {
  const size_t first = ids_.size();
  ids_.insert(ids_.end(), tokens.ids.begin(), tokens.ids.end());
  const bool typed = std::any_of(tokens.type_ids.begin(), tokens.type_ids.end(),
                                 [](int32_t type) { return type != 0; });
  if (!typed && type_ids_.empty()) return;
  type_ids_.resize(first);
  type_ids_.insert(type_ids_.end(), tokens.type_ids.begin(), tokens.type_ids.end());
  type_ids_.resize(ids_.size());
}

void ExampleList::add(const Example& example) {
  add_tokens(example.tokens);
  const int64_t first_ids = length(ids_);
  if (example.second) add_tokens(*example.second);
  rows_.insert(rows_.end(), example.rows.begin(), example.rows.end());
  labels_.insert(labels_.end(), example.labels.begin(), example.labels.end());
  if (example.value) values_.push_back(*example.value);
  ends_.push_back({length(ids_), first_ids, length(rows_), length(labels_)});
}

int64_t ExampleList::tokens(int64_t, int64_t example) const {
  return ends_[at(example)].ids - before(example).ids;
}

void ExampleList::append(int64_t, int64_t example, Batch& batch) const {
  const Ends begin = before(example), end = ends_[at(example)];
  const int32_t first = batch.offsets.back();
  append_part(ids_, begin.ids, end.ids, batch.ids);
  if (!type_ids_.empty()) append_part(type_ids_, begin.ids, end.ids, batch.type_ids);
  batch.offsets.push_back(first + static_cast<int32_t>(end.first_ids - begin.ids));
  if (end.first_ids < end.ids) batch.offsets.push_back(static_cast<int32_t>(batch.ids.size()));
  for (int64_t i = begin.rows; i < end.rows; ++i) batch.rows.push_back(first + rows_[at(i)]);
  append_part(labels_, begin.labels, end.labels, batch.labels);
  if (has_values()) batch.values.push_back(values_[at(example)]);
}

TokenStream::TokenStream(std::vector<int32_t> ids, int64_t block, Predict predict, uint64_t seed)
    : ids_(std::move(ids)),
      tokens_(length(ids_) - (predict == Predict::kNextToken ? 1 : 0)),
      block_(block),
      predict_(predict),
      seed_(seed) {}

int64_t TokenStream::offset(int64_t epoch) const {
  return Random(seed_, Random::Use::kOffset, epoch).below(std::min(block_, tokens_));
}

int64_t TokenStream::least_count() const { return (tokens_ + block_ - 1) / block_; }

int64_t TokenStream::count(int64_t epoch) const {
  const int64_t first = offset(epoch);
  return (first > 0 ? 1 : 0) + (tokens_ - first + block_ - 1) / block_;
}

TokenStream::Part TokenStream::part(int64_t epoch, int64_t example) const {
  const int64_t first = offset(epoch);
  if (first > 0 && example == 0) return {0, first};
  const int64_t begin = first + (example - (first > 0 ? 1 : 0)) * block_;
  return {begin, std::min(begin + block_, tokens_)};
}

int64_t TokenStream::tokens(int64_t epoch, int64_t example) const {
  const Part block = part(epoch, example);
  return block.end - block.begin;
}

void TokenStream::append(int64_t epoch, int64_t example, Batch& batch) const {
  const Part block = part(epoch, example);
  const int32_t first = batch.offsets.back();
  append_part(ids_, block.begin, block.end, batch.ids);
  batch.offsets.push_back(static_cast<int32_t>(batch.ids.size()));
  if (predict_ == Predict::kNothing) return;
  for (int32_t row = first; row < batch.offsets.back(); ++row) batch.rows.push_back(row);
  append_part(ids_, block.begin + 1, block.end + 1, batch.labels);
}

}  // namespace tessera::training
