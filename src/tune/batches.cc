#include "tune/batches.h"

#include <fmt/format.h>

#include <algorithm>
#include <mutex>
#include <numeric>
#include <optional>
#include <utility>

#include "base/guarded.h"
#include "model/sentence_encoder.h"
#include "tune/examples.h"
#include "tune/labelled.h"
#include "tune/plain_text.h"
#include "tune/random.h"

namespace tessera {
namespace training {
namespace {

constexpr size_t at(int64_t index) { return static_cast<size_t>(index); }

// What is done to the tokens of kMaskedLm.
struct Masking {
  double share = 0;
  int32_t mask_id = 0;
  int32_t vocabulary = 0;
  std::vector<int32_t> special_ids;

  bool is_special(int32_t id) const {
    return std::find(special_ids.begin(), special_ids.end(), id) != special_ids.end();
  }
};

void mask_row(const Masking& masking, Random& random, int32_t row, Batch& batch) {
  constexpr int64_t kMasked = 8, kReplaced = 1;  // of ten
  int32_t& id = batch.ids[at(row)];
  batch.rows.push_back(row);
  batch.labels.push_back(id);
  const int64_t drawn = random.below(10);
  if (drawn < kMasked) {
    id = masking.mask_id;
  } else if (drawn < kMasked + kReplaced) {
    id = static_cast<int32_t>(random.below(masking.vocabulary));
  }
}

// A batch holds a token that is not special, as each of its sequences does.
void mask(const Masking& masking, Random random, Batch& batch) {
  std::vector<int32_t> open;
  for (size_t i = 0; i < batch.ids.size(); ++i) {
    if (!masking.is_special(batch.ids[i])) open.push_back(static_cast<int32_t>(i));
  }
  for (const int32_t row : open) {
    if (random.happens(masking.share)) mask_row(masking, random, row, batch);
  }
  if (!batch.rows.empty()) return;
  mask_row(masking, random, open[at(random.below(static_cast<int64_t>(open.size())))], batch);
}

// All that reading the data gave.
struct Data {
  std::unique_ptr<Examples> examples;
  std::optional<Masking> masking;
  std::vector<std::string> label_names;
  int64_t cut = 0;
};

class SampledBatches final : public Batches {
 public:
  SampledBatches(Data data, const TuneOptions& options)
      : data_(std::move(data)),
        most_examples_(options.batch),
        most_tokens_(options.batch_tokens),
        seed_(options.seed) {}

  Batch batch(int64_t number) const override {
    const std::lock_guard<std::mutex> turn(mutex_);
    while (static_cast<int64_t>(begins_.size()) <= number)
      begins_.push_back(walk(begins_.back(), [](int64_t, int64_t) {}));
    Batch batch;
    const Place end = walk(begins_[at(number)], [&](int64_t epoch, int64_t example) {
      data_.examples->append(epoch, example, batch);
    });
    if (static_cast<int64_t>(begins_.size()) == number + 1) begins_.push_back(end);
    if (data_.masking) mask(*data_.masking, Random(seed_, Random::Use::kMasks, number), batch);
    return batch;
  }

  int64_t examples() const override { return data_.examples->size(); }
  int64_t cut() const override { return data_.cut; }
  std::vector<std::string> label_names() const override { return data_.label_names; }

 private:
  struct Place {
    int64_t epoch = 0, index = 0;  // in the epoch's order
  };
  struct Order {
    int64_t epoch = -1;
    std::vector<int64_t> examples;
  };

  // Gives the examples of the batch that begins at a place to `take`; returns where the next one
  // begins.
  template <typename Take>
  Place walk(Place place, Take take) const {
    const auto move_on = [&] {
      if (place.index == data_.examples->count(place.epoch)) place = {place.epoch + 1, 0};
    };
    move_on();
    const int64_t most = most_examples_ > 0 ? most_examples_ : data_.examples->count(place.epoch);
    for (int64_t taken = 0, tokens = 0; taken < most; ++taken, ++place.index) {
      move_on();
      const int64_t example = order(place.epoch)[at(place.index)];
      tokens += data_.examples->tokens(place.epoch, example);
      if (most_examples_ == 0 && tokens > most_tokens_) break;
      take(place.epoch, example);
    }
    return place;
  }

  // A shuffle of Fisher and Yates. Batches lie in one epoch or two.
  const std::vector<int64_t>& order(int64_t epoch) const {
    Order& order = orders_[epoch % 2];
    if (order.epoch == epoch) return order.examples;
    order.epoch = epoch;
    order.examples.resize(at(data_.examples->count(epoch)));
    std::iota(order.examples.begin(), order.examples.end(), 0);
    Random random(seed_, Random::Use::kOrder, epoch);
    for (int64_t i = static_cast<int64_t>(order.examples.size()) - 1; i > 0; --i)
      std::swap(order.examples[at(i)], order.examples[at(random.below(i + 1))]);
    return order.examples;
  }

  Data data_;
  int64_t most_examples_;  // 0: as many as most_tokens_ hold
  int64_t most_tokens_;
  uint64_t seed_;
  mutable std::mutex mutex_;
  mutable Order orders_[2];
  mutable std::vector<Place> begins_ = {{}};  // of the batches up to here
};

// The sequences of an example.
int64_t sequences_of(TuneTask task) { return task == TuneTask::kEmbeddings ? 2 : 1; }

Status check_model(TuneTask task, const Architecture& architecture) {
  const bool needs_decoder = task == TuneTask::kCausalLm || task == TuneTask::kDataToText;
  if (needs_decoder && !architecture.is_decoder()) {
    return unsupported(
        fmt::format("{}: expected a decoder, whose tokens see those before them only, found a "
                    "model whose tokens "
                    "see all others",
                    name(task)));
  }
  if (task == TuneTask::kMaskedLm && architecture.is_decoder()) {
    return unsupported(
        "masked_lm: expected a model whose tokens see all others, found a decoder, whose tokens "
        "see "
        "those before them only");
  }
  if (task == TuneTask::kRegression && architecture.labels > 1) {
    return unsupported(
        fmt::format("regression: expected a model with one output, found {}", architecture.labels));
  }
  return {};
}

Result<int32_t> choose_max_tokens(const TuneOptions& options, const Architecture& architecture,
                                  int32_t usual_tokens) {
  int32_t room = architecture.max_positions;
  std::string where = "the model's positions";
  if (options.batch == 0 && options.batch_tokens / sequences_of(options.task) < room) {
    room = options.batch_tokens / static_cast<int32_t>(sequences_of(options.task));
    where = sequences_of(options.task) == 1 ? "what a batch may hold"
                                            : "so that a batch may hold two texts";
  }
  if (options.max_tokens == 0) return std::min(usual_tokens, room);
  if (options.max_tokens <= room) return options.max_tokens;
  return invalid_input(fmt::format("max_tokens: expected at most {}, {}, found {}", room, where,
                                   options.max_tokens));
}

Result<Masking> make_masking(const TuneOptions& options, const TextEncoder& encoder) {
  const Tokenizer& tokenizer = encoder.tokenizer();
  Masking masking{.share = options.masked_share};
  masking.vocabulary =
      std::min(tokenizer.vocabulary_size(), encoder.architecture().vocabulary_size);
  const std::optional<int32_t> mask_id = tokenizer.mask_id();
  if (!mask_id || *mask_id >= masking.vocabulary) {
    return unsupported(
        "masked_lm: expected a model whose tokenizer has a mask token, found one without");
  }
  masking.mask_id = *mask_id;
  for (size_t i = 0; i < names_of(TokenRole{}).size(); ++i) {
    if (const auto id = tokenizer.special_id(static_cast<TokenRole>(i)))
      masking.special_ids.push_back(*id);
  }
  return masking;
}

template <typename List>
std::unique_ptr<Examples> owned(List list) {
  return std::make_unique<List>(std::move(list));
}

// Two pairs at least: one alone has no other to be far from.
Status check_contrast(const TuneOptions& options, const ExampleList& pairs) {
  if (pairs.has_values()) return {};
  if (pairs.size() < 2 || options.batch == 1) {
    return invalid_input(
        fmt::format("embeddings: expected at least 2 pairs {} where they have no values, found 1",
                    pairs.size() < 2 ? "of texts" : "in a batch"));
  }
  if (options.batch > 0) return {};
  int64_t longest = 0, second = 0;
  for (int64_t i = 0; i < pairs.size(); ++i) {
    const int64_t tokens = pairs.tokens(0, i);
    second = std::max(second, std::min(tokens, longest));
    longest = std::max(longest, tokens);
  }
  if (longest + second <= options.batch_tokens) return {};
  return invalid_input(
      fmt::format("batch_tokens: expected at least {}, which the two longest pairs take, found {}",
                  longest + second, options.batch_tokens));
}

Result<Data> read_plain(const TextEncoder& encoder, const TuneOptions& options) {
  Data data;
  const bool predicts = options.task == TuneTask::kCausalLm;
  if (predicts || (options.task == TuneTask::kDistil && encoder.architecture().is_decoder())) {
    TESSERA_ASSIGN_OR_RETURN(std::vector<int32_t> ids,
                             read_stream(encoder, options.data, predicts ? 2 : 1));
    data.examples =
        owned(TokenStream(std::move(ids), encoder.max_tokens(),
                          predicts ? Predict::kNextToken : Predict::kNothing, options.seed));
    return data;
  }
  if (options.task == TuneTask::kMaskedLm) {
    TESSERA_ASSIGN_OR_RETURN(data.masking, make_masking(options, encoder));
  }
  TESSERA_ASSIGN_OR_RETURN(
      Lines lines, read_lines(encoder, options.data,
                              data.masking ? data.masking->special_ids : std::vector<int32_t>()));
  data.examples = owned(std::move(lines.examples));
  data.cut = lines.cut;
  return data;
}

Result<Data> read_data(const TextEncoder& encoder, const TuneOptions& options) {
  if (options.task <= TuneTask::kMaskedLm) return read_plain(encoder, options);
  TESSERA_ASSIGN_OR_RETURN(const Records records, read_records(options.task, options.data));
  TESSERA_ASSIGN_OR_RETURN(Labelled labelled, encode_labelled(options.task, encoder, records));
  if (options.task == TuneTask::kEmbeddings)
    TESSERA_RETURN_IF_ERROR(check_contrast(options, labelled.examples));
  Data data;
  data.examples = owned(std::move(labelled.examples));
  data.label_names = std::move(labelled.label_names);
  data.cut = labelled.cut;
  return data;
}

// Of QA windows as SQuAD's scripts have them; prompts with what follows are long.
int32_t usual_tokens_of(TuneTask task) {
  if (task == TuneTask::kQuestionAnswering) return 384;
  return task == TuneTask::kDataToText ? 512 : 256;
}

}  // namespace

Result<std::unique_ptr<Batches>> make_batches(std::shared_ptr<const Tokenizer> tokenizer,
                                              const Architecture& architecture,
                                              const TuneOptions& options, int32_t usual_tokens) {
  TESSERA_RETURN_IF_ERROR(check_model(options.task, architecture));
  TESSERA_ASSIGN_OR_RETURN(const int32_t max_tokens,
                           choose_max_tokens(options, architecture, usual_tokens));
  const auto goes_on = [&] {
    return !options.on_progress || options.on_progress({.steps = options.steps});
  };
  TESSERA_ASSIGN_OR_RETURN(
      const TextEncoder encoder,
      TextEncoder::make(std::move(tokenizer), architecture, max_tokens, options.threads, goes_on));
  TESSERA_ASSIGN_OR_RETURN(Data data, read_data(encoder, options));
  const int64_t least = data.examples->least_count();
  if (options.batch > least) {
    return invalid_input(
        fmt::format("batch: expected at most {}, which is all that {} holds, found {}", least,
                    fmt::join(options.data, ", "), options.batch));
  }
  return std::unique_ptr<Batches>(std::make_unique<SampledBatches>(std::move(data), options));
}

}  // namespace training

Result<std::unique_ptr<Batches>> read_batches(const ModelDirectory& home,
                                              const Architecture& architecture,
                                              const TuneOptions& options) {
  return guarded("data", [&]() -> Result<std::unique_ptr<Batches>> {
    TESSERA_ASSIGN_OR_RETURN(auto tokenizer, Tokenizer::open(home.transformer));
    TESSERA_ASSIGN_OR_RETURN(const SentenceEncoder encoder, read_sentence_encoder(home));
    int32_t usual = training::usual_tokens_of(options.task);
    if (encoder.max_tokens > 0) usual = std::min(usual, encoder.max_tokens);
    return training::make_batches(std::move(tokenizer), architecture, options, usual);
  });
}

}  // namespace tessera
