#include "runtime/sequence_pass.h"

#include <algorithm>
#include <mutex>
#include <vector>

#include "runtime/cache_rules.h"
#include "runtime/pruned_pass.h"

namespace tessera {
namespace {

constexpr size_t at(int64_t index) { return static_cast<size_t>(index); }

// Texts that go through their steps together, and their keys and values, at most.
constexpr size_t kTextsAtATime = 32;
constexpr int64_t kStepCacheBytes = int64_t{1} << 30;

// Room for the next rows in a layer; a table that may lose keys shares no page with another.
Status make_room(Sequence& sequence, int32_t layer, int32_t rows, CachePool& pool) {
  PageTable& table = sequence.tables[at(layer)];
  const int32_t keys = sequence.keys_with(rows, at(layer));
  if (sequence.cascade && sequence.cascade->may_drop(layer)) return pool.own(table, keys);
  return pool.reserve(table, keys - table.tokens());
}

// Gives back the pages that no window of a token to come reaches, and those that a cascade left.
void drop_unseen(const Architecture& architecture, Sequence& sequence, CachePool& pool) {
  for (int32_t layer = 0; layer < architecture.layer_count(); ++layer) {
    PageTable& table = sequence.tables[at(layer)];
    const int32_t window = architecture.layer(layer).window;
    if (window > 0) pool.drop_before(table, int64_t{sequence.done} - window + 1);
    if (sequence.cascade) pool.trim(table);
  }
}

// The rows of a pass and what belongs to them.
struct Rows {
  TokenLayout layout;
  std::vector<int32_t> ids, head_rows, prompt_tokens;

  explicit Rows(std::span<const SequencePart> parts) {
    for (const SequencePart& part : parts) {
      const auto begin = part.sequence->ids.begin() + part.sequence->done;
      layout.append(part.rows, part.sequence->done);
      ids.insert(ids.end(), begin, begin + part.rows);
      if (part.is_read) head_rows.push_back(static_cast<int32_t>(ids.size()) - 1);
      prompt_tokens.push_back(part.prompt_tokens);
    }
  }
};

// How the parts read. Rows of a prompt read everything, however many of them run at a time.
class PartRules {
 public:
  PartRules(const ModelState& state, std::span<const SequencePart> parts)
      : everything_(read_rules({}, state.weights.layers.size())) {
    const auto& layers = state.weights.layers;
    bool differ = std::any_of(layers.begin(), layers.end(),
                              [](const LayerWeights& layer) { return layer.attention.selects(); });
    for (const SequencePart& part : parts) {
      differ = differ || part.rules != nullptr;
      rules_.push_back(part.sequence->done < part.prompt_tokens ? everything_.data() : part.rules);
    }
    if (!differ) rules_.clear();
  }
  std::span<const ReadRules* const> rules() const { return rules_; }

 private:
  std::vector<ReadRules> everything_;
  std::vector<const ReadRules*> rules_;  // [parts]; none where all read everything
};

// A run of texts on their way; releases their pages.
class Steps {
 public:
  Steps(ModelState& state, std::span<const SteppedText> texts, size_t first, const TakeStep& take)
      : state_(state),
        texts_(texts),
        first_(first),
        take_(take),
        pool_(state.weights.largest_page(), INT64_MAX) {
    const ScheduledModel model = scheduled_model(state.architecture);
    for (const SteppedText& text : texts) {
      Sequence& sequence =
          sequences_.emplace_back(Sequence{.ids = {text.ids.begin(), text.ids.end()},
                                           .tables = std::vector<PageTable>(at(model.layers))});
      if (state.prunes()) sequence.prune(*state.pruning, model);
    }
  }
  ~Steps() {
    for (Sequence& sequence : sequences_)
      for (PageTable& table : sequence.tables) pool_.release(table);
  }

  Status run() {
    for (size_t i = 0; i < texts_.size(); ++i) {
      parts_ = {part(i, texts_[i].prompt)};
      owners_ = {i};
      TESSERA_RETURN_IF_ERROR(pass());
    }
    while (true) {
      parts_.clear();
      owners_.clear();
      for (size_t i = 0; i < texts_.size(); ++i) {
        // Behind the last token nothing is predicted.
        if (sequences_[i].waiting() <= 1) continue;
        parts_.push_back(part(i, 1));
        owners_.push_back(i);
      }
      if (parts_.empty()) return {};
      TESSERA_RETURN_IF_ERROR(pass());
    }
  }

 private:
  SequencePart part(size_t i, int32_t rows) {
    return {.sequence = &sequences_[i],
            .rows = rows,
            .prompt_tokens = texts_[i].prompt,
            .is_read = true};
  }

  Status pass() {
    const Forward forward = [&](const ForwardInput& input, ForwardOutput& output) {
      return state_.executor->run(input, output);
    };
    ForwardOutput output;
    TESSERA_RETURN_IF_ERROR(run_parts(state_, pool_, forward, parts_, output));
    std::span<const float> rest = output.logits;
    for (const size_t i : owners_) {
      TESSERA_RETURN_IF_ERROR(
          take_(first_ + i, sequences_[i].done - 1, rest.first(at(output.width))));
      rest = rest.subspan(at(output.width));
    }
    return {};
  }

  ModelState& state_;
  std::span<const SteppedText> texts_;
  size_t first_;
  const TakeStep& take_;
  CachePool pool_;
  std::vector<Sequence> sequences_;
  std::vector<SequencePart> parts_;
  std::vector<size_t> owners_;  // of the parts
};

// How many of the first texts fit together.
size_t texts_together(const ModelState& state, std::span<const SteppedText> texts) {
  const int64_t page_bytes =
      state.architecture.layer_count() * state.weights.largest_page().page_bytes();
  int64_t bytes = 0;
  size_t count = 0;
  for (; count < std::min(texts.size(), kTextsAtATime); ++count) {
    bytes += page_bytes * pages_for(static_cast<int32_t>(texts[count].ids.size()));
    if (count > 0 && bytes > kStepCacheBytes) break;
  }
  return count;
}

}  // namespace

Status run_parts(const ModelState& state, CachePool& pool, const Forward& forward,
                 std::span<const SequencePart> parts, ForwardOutput& output) {
  const Rows rows(parts);
  std::vector<TokenCascade*> cascades;
  std::vector<HeadCascade*> heads;
  for (const SequencePart& part : parts) {
    cascades.push_back(part.begin());
    heads.push_back(part.sequence->heads ? &*part.sequence->heads : nullptr);
  }
  std::vector<PageTable*> tables;
  for (int32_t layer = 0; layer < state.architecture.layer_count(); ++layer) {
    for (const SequencePart& part : parts) {
      TESSERA_RETURN_IF_ERROR(make_room(*part.sequence, layer, part.rows, pool));
      tables.push_back(&part.sequence->tables[at(layer)]);
    }
  }
  const PartRules part_rules(state, parts);
  const PrunedPass pruned(state, std::move(cascades), std::move(heads), rows.layout, rows.ids);
  ForwardInput input{.ids = rows.ids,
                     .layout = &rows.layout,
                     .prompt_tokens = rows.prompt_tokens,
                     .tables = tables,
                     .head_rows = rows.head_rows.empty() ? HeadRows::kNone : HeadRows::kGiven,
                     .given_head_rows = rows.head_rows,
                     .read_rules = part_rules.rules()};
  pruned.schedule(input);
  TESSERA_RETURN_IF_ERROR(forward(input, output));
  for (const SequencePart& part : parts) {
    part.sequence->done += part.rows;
    drop_unseen(state.architecture, *part.sequence, pool);
  }
  return {};
}

void forget_unrun(Sequence& sequence) {
  for (PageTable& table : sequence.tables) {
    std::vector<int32_t>& positions = table.positions;
    while (!positions.empty() && positions.back() >= sequence.done) positions.pop_back();
  }
}

Status run_in_steps(ModelState& state, std::span<const SteppedText> texts, const TakeStep& take) {
  const std::lock_guard<std::mutex> turn(state.in_use);
  for (size_t first = 0; first < texts.size();) {
    const size_t count = texts_together(state, texts.subspan(first));
    TESSERA_RETURN_IF_ERROR(Steps(state, texts.subspan(first, count), first, take).run());
    first += count;
  }
  return {};
}

}  // namespace tessera
