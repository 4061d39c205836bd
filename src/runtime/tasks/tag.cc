#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/guarded.h"
#include "runtime/tasks/batching.h"
#include "runtime/tasks/entities.h"
#include "runtime/tasks/words.h"

namespace tessera::tasks {
namespace {

// Tags the tokens of one input.
class Tagger {
 public:
  Tagger(const ModelState& state, const TagOptions& options)
      : labels_(state.info.labels),
        words_(state.tokenizer.get()),
        special_ids_(special_ids(state)),
        aggregation_(options.aggregation) {}

  Tagging tag(const TaskInput& input, const Sequence& sequence,
              std::span<const float> logits) const {
    Tagging result;
    result.truncated = sequence.truncated;
    result.logits.assign(logits.begin(), logits.end());
    const size_t width = labels_.size();
    std::vector<std::vector<float>> scores;
    for (size_t t = 0; t < sequence.tokens.ids.size(); ++t) {
      scores.push_back(softmax(logits.subspan(t * width, width)));
      result.tokens.push_back(token(input, sequence, t));
      result.tokens.back().label = index_of_largest(logits.subspan(t * width, width));
      result.tokens.back().score = scores.back()[static_cast<size_t>(result.tokens.back().label)];
    }
    result.entities = join_entities(units(input, result.tokens, scores));
    if (!input.tokens) {
      for (Entity& entity : result.entities) {
        entity.span = trimmed(input.text, entity.span);
        entity.text = text_of(input.text, entity.span);
      }
    }
    return result;
  }

 private:
  TaggedToken token(const TaskInput& input, const Sequence& sequence, size_t t) const {
    TaggedToken token;
    token.id = sequence.tokens.ids[t];
    token.span.begin_token = static_cast<int32_t>(t);
    token.span.end_token = token.span.begin_token + 1;
    if (input.tokens) {
      token.special =
          std::find(special_ids_.begin(), special_ids_.end(), token.id) != special_ids_.end();
      return token;
    }
    const TokenOrigin& origin = sequence.origins[t];
    token.special = origin.text < 0;
    token.span.begin_byte = origin.begin;
    token.span.end_byte = origin.end;
    return token;
  }

  using Scores = std::vector<std::vector<float>>;

  std::vector<Unit> units(const TaskInput& input, const std::vector<TaggedToken>& tokens,
                          const Scores& scores) const {
    std::vector<Unit> units;
    std::vector<size_t> word;
    const bool by_word = aggregation_ != Aggregation::kTokens && !input.tokens;
    for (size_t t = 0; t < tokens.size(); ++t) {
      if (tokens[t].special) continue;
      const bool continues =
          by_word && words_.continues(input.text, tokens[t].id, tokens[t].span.begin_byte);
      if (!word.empty() && !continues) {
        units.push_back(unit(word, tokens, scores));
        word.clear();
      }
      word.push_back(t);
    }
    if (!word.empty()) units.push_back(unit(word, tokens, scores));
    return units;
  }

  Unit unit(const std::vector<size_t>& word, const std::vector<TaggedToken>& tokens,
            const Scores& scores) const {
    Unit unit{.span = tokens[word.front()].span};
    unit.span.end_byte = tokens[word.back()].span.end_byte;
    unit.span.end_token = tokens[word.back()].span.end_token;
    size_t decisive = word.front();
    if (aggregation_ == Aggregation::kMax) {
      decisive = *std::max_element(word.begin(), word.end(), [&](size_t a, size_t b) {
        return tokens[a].score < tokens[b].score;
      });
    }
    int32_t label = tokens[decisive].label;
    unit.score = tokens[decisive].score;
    if (aggregation_ == Aggregation::kMean) {
      std::vector<float> mean(labels_.size());
      for (const size_t t : word) {
        for (size_t i = 0; i < mean.size(); ++i) {
          mean[i] += scores[t][i] / static_cast<float>(word.size());
        }
      }
      label = index_of_largest(mean);
      unit.score = mean[static_cast<size_t>(label)];
    }
    unit.label = labels_[static_cast<size_t>(label)];
    return unit;
  }

  const std::vector<std::string>& labels_;
  WordRule words_;
  std::vector<int32_t> special_ids_;
  Aggregation aggregation_;
};

Result<std::vector<Tagging>> run(ModelState& state, std::span<const TaskInput> inputs,
                                 const TagOptions& options) {
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (inputs[i].pair && !inputs[i].tokens)
      return at_input(i, invalid_input("expected one text to tag, found two"));
  }
  TESSERA_ASSIGN_OR_RETURN(const std::vector<Sequence> sequences,
                           to_sequences(state, inputs, options, Origins::kGive));
  std::vector<Item> items;
  for (size_t i = 0; i < sequences.size(); ++i) items.push_back({&sequences[i].tokens, i, {}});
  std::vector<Tagging> results(inputs.size());
  const Tagger tagger(state, options);
  TESSERA_RETURN_IF_ERROR(run_items(state, {items, inputs.size(), head_rows(state.architecture)},
                                    options,
                                    [&](size_t i, std::span<const float> logits) -> Status {
                                      results[i] = tagger.tag(inputs[i], sequences[i], logits);
                                      return {};
                                    }));
  return results;
}

}  // namespace
}  // namespace tessera::tasks

namespace tessera {

Result<std::vector<Tagging>> tag(Model& model, std::span<const TaskInput> inputs,
                                 const TagOptions& options) {
  return guarded("tag", [&]() -> Result<std::vector<Tagging>> {
    TESSERA_RETURN_IF_ERROR(tasks::require_head(model, Head::kTokenClassification, "tag"));
    return tasks::run(state_of(model), inputs, options);
  });
}

}  // namespace tessera
