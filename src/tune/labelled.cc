#include "tune/labelled.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <span>

#include "io/json.h"
#include "tessera/tasks.h"
#include "tune/classes.h"

namespace tessera::training {
namespace {

// The bytes of the second text that tokens come from.
Bytes context_of(const std::vector<TokenOrigin>& origins) {
  Bytes context;
  for (const TokenOrigin& origin : origins) {
    if (origin.text != 1) continue;
    if (context.end == 0) context.begin = origin.begin;
    context.end = std::max<size_t>(context.end, origin.end);
  }
  return context;
}

// The first and the last token of the answer; 0 and 0, where "no answer" stands, if it has none.
std::vector<int32_t> answer_rows(const Bytes& answer, const std::vector<TokenOrigin>& origins) {
  std::vector<int32_t> rows = {0, 0};
  for (size_t row = 0; row < origins.size(); ++row) {
    const TokenOrigin& origin = origins[row];
    if (origin.text != 1 || origin.end <= answer.begin || origin.begin >= answer.end) continue;
    if (rows[1] == 0) rows[0] = static_cast<int32_t>(row);
    rows[1] = static_cast<int32_t>(row);
  }
  return rows;
}

// Makes examples of the records of one task, some at a time.
class Labeller {
 public:
  Labeller(TuneTask task, const TextEncoder& encoder, Labelled& labelled)
      : task_(task), encoder_(encoder), labelled_(labelled) {}

  Status run(const Records& records) {
    const bool counts_classes =
        task_ == TuneTask::kClassification || task_ == TuneTask::kTokenClassification;
    if (counts_classes) {
      TESSERA_ASSIGN_OR_RETURN(classes_, Classes::find(encoder_.architecture(), records));
      labelled_.label_names = classes_->names();
    }
    TESSERA_ASSIGN_OR_RETURN(end_of_text_, encoder_.end_of_text());
    for (size_t begin = 0; begin < records.rows.size(); begin += TextEncoder::kAtATime) {
      const size_t count = std::min(TextEncoder::kAtATime, records.rows.size() - begin);
      TESSERA_RETURN_IF_ERROR(add(std::span(records.rows).subspan(begin, count)));
    }
    return check_differ(records);
  }

 private:
  Status add(std::span<const Record> records) {
    switch (task_) {
      case TuneTask::kQuestionAnswering:
        for (const Record& record : records) TESSERA_RETURN_IF_ERROR(add_windows(record));
        return {};
      case TuneTask::kEmbeddings:
        return add_pairs(records);
      case TuneTask::kDataToText:
        return add_completions(records);
      default:
        return add_whole(records);
    }
  }

  Result<TokenSequence> taken(Encoding& encoding, const std::string& place) {
    labelled_.cut += encoding.truncated ? 1 : 0;
    return encoder_.to_sequence(encoding, place);
  }

  // kClassification, kRegression and kTokenClassification.
  Status add_whole(std::span<const Record> records) {
    const Origins origins =
        task_ == TuneTask::kTokenClassification ? Origins::kGive : Origins::kOmit;
    TESSERA_ASSIGN_OR_RETURN(std::vector<Encoding> encodings, encoder_.encode(records, origins));
    for (size_t i = 0; i < records.size(); ++i) {
      const Record& record = records[i];
      Example example;
      if (task_ == TuneTask::kRegression) {
        example.value = static_cast<float>(*record.value);
        note(*record.value);
      } else if (task_ == TuneTask::kClassification) {
        TESSERA_ASSIGN_OR_RETURN(const int32_t label,
                                 classes_->number_of(record.label, record.place));
        example.labels = {label};
        note(label);
      } else {
        TESSERA_RETURN_IF_ERROR(label_words(record, encodings[i].origins, example));
      }
      TESSERA_ASSIGN_OR_RETURN(example.tokens, taken(encodings[i], record.place));
      labelled_.examples.add(example);
    }
    return {};
  }

  // A word's first token has its label; words that were cut off, or of which the tokenizer leaves
  // nothing, have none.
  Status label_words(const Record& record, const std::vector<TokenOrigin>& origins,
                     Example& example) {
    size_t row = 0;
    for (size_t w = 0; w < record.words.size(); ++w) {
      TESSERA_ASSIGN_OR_RETURN(const int32_t label,
                               classes_->number_of(record.word_labels[w], record.place));
      const Bytes& word = record.words[w];
      while (row < origins.size() && (origins[row].text != 0 || origins[row].end <= word.begin))
        ++row;
      if (row == origins.size() || origins[row].begin >= word.end) continue;
      example.rows.push_back(static_cast<int32_t>(row++));
      example.labels.push_back(label);
      note(label);
    }
    if (!example.rows.empty()) return {};
    return invalid_input(fmt::format(
        "{}: expected a word that the tokenizer has a token for, found none", record.place));
  }

  Status add_pairs(std::span<const Record> records) {
    std::vector<Record> firsts, seconds;
    for (const Record& record : records) {
      firsts.push_back({.place = record.place, .text = record.text});
      seconds.push_back({.place = record.place, .text = *record.pair});
    }
    TESSERA_ASSIGN_OR_RETURN(std::vector<Encoding> first, encoder_.encode(firsts, Origins::kOmit));
    TESSERA_ASSIGN_OR_RETURN(std::vector<Encoding> second,
                             encoder_.encode(seconds, Origins::kOmit));
    for (size_t i = 0; i < records.size(); ++i) {
      Example example;
      if (const std::optional<double>& value = records[i].value) {
        if (*value < -1 || *value > 1) {
          return invalid_input(fmt::format("{}: expected a value from -1 to 1, a cosine, found {}",
                                           records[i].place, *value));
        }
        example.value = static_cast<float>(*value);
      }
      TESSERA_ASSIGN_OR_RETURN(example.tokens, taken(first[i], records[i].place));
      TESSERA_ASSIGN_OR_RETURN(example.second, taken(second[i], records[i].place));
      labelled_.examples.add(example);
    }
    return {};
  }

  Status add_completions(std::span<const Record> records) {
    TESSERA_ASSIGN_OR_RETURN(std::vector<Encoding> prompts,
                             encoder_.encode_texts(records, SpecialTokens::kAdd));
    TESSERA_ASSIGN_OR_RETURN(const std::vector<Encoding> completions,
                             encoder_.encode_pairs(records, SpecialTokens::kOmit));
    const auto most = static_cast<size_t>(encoder_.max_tokens());
    for (size_t i = 0; i < records.size(); ++i) {
      const std::string& place = records[i].place;
      const size_t prompt = prompts[i].ids.size();
      if (prompt == 0) {
        return invalid_input(
            fmt::format("{}: expected a prompt of at least one token, found none", place));
      }
      Example example;
      example.labels = completions[i].ids;
      example.labels.insert(example.labels.end(), end_of_text_.begin(), end_of_text_.end());
      // The last one is predicted and not read.
      const size_t read = prompt + example.labels.size() - 1;
      if (read > most) {
        return invalid_input(
            fmt::format("{}: expected a prompt and a completion of at most {} tokens, found {}",
                        place, most, read));
      }
      Encoding& whole = prompts[i];
      whole.ids.insert(whole.ids.end(), example.labels.begin(), example.labels.end() - 1);
      whole.type_ids.clear();
      for (size_t row = prompt - 1; row < read; ++row)
        example.rows.push_back(static_cast<int32_t>(row));
      TESSERA_ASSIGN_OR_RETURN(example.tokens, encoder_.to_sequence(whole, place));
      labelled_.examples.add(example);
    }
    return {};
  }

  Status add_windows(const Record& record) {
    const auto at_record = [&](const Status& status) {
      return Status(status.code(), record.place + ": " + status.message());
    };
    const auto most = static_cast<size_t>(encoder_.max_tokens());
    const Tokenizer& tokenizer = encoder_.tokenizer();
    const Result<Encoding> question = tokenizer.encode({record.text, ""});
    if (!question.ok()) return at_record(question.status());
    if (question->ids.size() >= most) {
      return invalid_input(fmt::format(
          "{}: expected a question that leaves room for its context in {} tokens, found one of {}",
          record.place, most, question->ids.size()));
    }
    const size_t overlap = std::min<size_t>(kUsualOverlapTokens, (most - question->ids.size()) / 2);
    auto windows = tokenizer.encode_windows({record.text, *record.pair}, most, overlap);
    if (!windows.ok()) return at_record(windows.status());
    bool found = false;
    for (Encoding& window : *windows) {
      Bytes context = context_of(window.origins);
      if (&window == &windows->front()) context.begin = 0;
      if (&window == &windows->back()) context.end = record.pair->size();
      Example example{.labels = {0, 0}};
      if (record.answer && context.begin <= record.answer->begin &&
          record.answer->end <= context.end) {
        example.labels = answer_rows(*record.answer, window.origins);
      }
      found = found || example.labels[1] > 0;
      TESSERA_ASSIGN_OR_RETURN(example.tokens, encoder_.to_sequence(window, record.place));
      labelled_.examples.add(example);
    }
    if (found || !record.answer) return {};
    return invalid_input(
        fmt::format("{}: expected an answer that is in one window of {} tokens, found a longer one",
                    record.place, most));
  }

  void note(double target) {
    if (!first_target_) first_target_ = target;
    differ_ = differ_ || target != *first_target_;
  }

  // What is the same everywhere is learnt without looking at any text.
  Status check_differ(const Records& records) const {
    if (!first_target_ || differ_) return {};
    const bool is_value = task_ == TuneTask::kRegression;
    const std::string& label = task_ == TuneTask::kClassification ? records.rows[0].label
                               : is_value                         ? ""
                                                                  : records.rows[0].word_labels[0];
    return invalid_input(fmt::format("{} to {}: expected {}, found only {}", records.rows[0].place,
                                     records.rows.back().place,
                                     is_value ? "values that differ" : "several labels",
                                     is_value ? fmt::format("{}", *first_target_) : quote(label)));
  }

  TuneTask task_;
  const TextEncoder& encoder_;
  Labelled& labelled_;
  std::optional<Classes> classes_;
  std::vector<int32_t> end_of_text_;
  std::optional<double> first_target_;
  bool differ_ = false;
};

}  // namespace

Result<Labelled> encode_labelled(TuneTask task, const TextEncoder& encoder,
                                 const Records& records) {
  Labelled labelled;
  TESSERA_RETURN_IF_ERROR(Labeller(task, encoder, labelled).run(records));
  return labelled;
}

}  // namespace tessera::training
