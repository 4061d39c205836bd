#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "evaluate/run.h"
#include "evaluate/text_score.h"
#include "tessera/engine.h"
#include "tessera/records.h"

namespace tessera::evaluation {
namespace {

// Prompts in the engine at a time: enough to share the weights' way through the caches.
constexpr size_t kAtATime = 32;

struct Case {
  std::string place;
  std::string input;
  std::vector<std::string> references;
};

std::string_view without_ends(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n";
  const size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpace) + 1 - begin);
}

// References alone, a line each, those of one input together and a blank line between.
Status read_groups(Run& run, const std::string& path, std::vector<Case>* cases) {
  TESSERA_ASSIGN_OR_RETURN(const std::unique_ptr<LineReader> lines, LineReader::open(path));
  bool open = false;
  for (std::string line;;) {
    TESSERA_ASSIGN_OR_RETURN(const bool more, lines->next(&line));
    if (!more) return {};
    if (is_blank(line)) {
      open = false;
      continue;
    }
    const std::string place = fmt::format("{}, line {}", path, lines->line());
    if (const Status status = check_utf8(line); !status.ok()) {
      TESSERA_RETURN_IF_ERROR(run.bad(fmt::format("{}: {}", place, status.message())));
      continue;
    }
    if (!open) cases->push_back({place, "", {}});
    open = true;
    cases->back().references.emplace_back(without_ends(line));
  }
}

// Rows of input and reference; those of equal inputs belong together, in the order of the first.
Status read_table(Run& run, std::vector<Case>* cases) {
  const DataColumns& names = run.task.data.columns;
  if (names.pair.empty()) {
    return invalid_input("expected the column of the references, found none");
  }
  TESSERA_ASSIGN_OR_RETURN(
      const std::vector<DataRow> rows,
      read_rows(run, run.task.data, {{names.text, names.pair}}, RowLimit::kNone));
  std::map<std::string, size_t> known;
  for (const DataRow& row : rows) {
    const auto [at, is_new] = known.try_emplace(row.fields[0], cases->size());
    if (is_new) cases->push_back({row.place, row.fields[0], {}});
    (*cases)[at->second].references.push_back(row.fields[1]);
  }
  return {};
}

Result<std::vector<Case>> read_cases(Run& run) {
  std::vector<Case> cases;
  const DataFile& file = run.task.data;
  const bool groups =
      file.format == DataFormat::kAuto && !file.paths.empty() && file.paths[0].ends_with(".txt");
  if (groups) {
    for (const std::string& path : file.paths) {
      TESSERA_RETURN_IF_ERROR(read_groups(run, path, &cases));
    }
  } else {
    TESSERA_RETURN_IF_ERROR(read_table(run, &cases));
  }
  if (cases.empty()) {
    return invalid_input(
        fmt::format("{}: expected references, found none", fmt::join(file.paths, ", ")));
  }
  const auto most = static_cast<size_t>(run.task.max_examples);
  if (most > 0 && cases.size() > most) cases.resize(most);
  return cases;
}

Result<std::vector<std::string>> read_predictions(const Run& run, size_t expected) {
  const std::string& path = run.task.data_to_text.predictions;
  TESSERA_ASSIGN_OR_RETURN(const std::unique_ptr<LineReader> lines, LineReader::open(path));
  std::vector<std::string> texts;
  for (std::string line;;) {
    TESSERA_ASSIGN_OR_RETURN(const bool more, lines->next(&line));
    if (!more) break;
    if (const Status status = check_utf8(line); !status.ok()) {
      return lines->error(lines->line(), status.message());
    }
    texts.emplace_back(without_ends(line));
  }
  const bool limited = run.task.max_examples > 0 && texts.size() > expected;
  if (limited) texts.resize(expected);
  if (texts.size() == expected) return texts;
  return invalid_input(fmt::format("{}: expected {} lines, one for each input, found {}", path,
                                   expected, texts.size()));
}

// Continues the prompts of the cases, several at a time.
class Generator {
 public:
  Generator(Run& run, const std::shared_ptr<Model>& model, const std::vector<Case>& cases)
      : run_(run), model_(model), cases_(cases), texts_(cases.size()) {}

  Result<std::vector<std::string>> run() {
    TESSERA_ASSIGN_OR_RETURN(engine_,
                             Engine::create(model_, {.step_tokens = Engine::kBatchStepTokens}));
    for (size_t next = 0, done = 0; done < cases_.size();) {
      while (next < cases_.size() && numbers_.size() < kAtATime) {
        const Result<int64_t> number = submit(cases_[next]);
        if (!number.ok()) return at(cases_[next], number.status());
        numbers_[*number] = next++;
      }
      TESSERA_ASSIGN_OR_RETURN(const std::vector<Event> events, engine_->step());
      for (const Event& event : events) {
        if (event.finished == FinishReason::kFailed)
          return at(cases_[numbers_.at(event.request)], event.status);
        done += take(event);
      }
      TESSERA_RETURN_IF_ERROR(run_.progress("generating", static_cast<int64_t>(done),
                                            static_cast<int64_t>(cases_.size())));
    }
    return std::move(texts_);
  }

 private:
  static Status at(const Case& each, const Status& status) {
    return {status.code(), fmt::format("{}: {}", each.place, status.message())};
  }

  Result<int64_t> submit(const Case& each) {
    const DataToTextOptions& options = run_.task.data_to_text;
    std::string prompt = options.prompt;
    const size_t at = prompt.find("{}");
    if (at == std::string::npos) {
      return invalid_input(
          fmt::format("prompt: expected {{}}, where the input goes, found \"{}\"", prompt));
    }
    prompt.replace(at, 2, each.input);
    TESSERA_ASSIGN_OR_RETURN(TokenSequence tokens, model_->tokenize(prompt));
    run_.result.counts.tokens += static_cast<int64_t>(tokens.ids.size());
    Request request{.prompt_ids = std::move(tokens.ids),
                    .max_new_tokens = options.max_new_tokens,
                    .beams = options.beams};
    if (!options.stop.empty() && options.beams == 1) request.stop_strings = {options.stop};
    return engine_->submit(std::move(request));
  }

  // How many cases it ends.
  size_t take(const Event& event) {
    if (event.sequence != 0) return 0;
    std::string& text = texts_[numbers_.at(event.request)];
    text += event.text;
    if (event.finished == FinishReason::kNone) return 0;
    // Beams know no stop strings.
    const std::string& stop = run_.task.data_to_text.stop;
    if (!stop.empty()) text = text.substr(0, text.find(stop));
    text = without_ends(text);
    numbers_.erase(event.request);
    return 1;
  }

  Run& run_;
  const std::shared_ptr<Model>& model_;
  const std::vector<Case>& cases_;
  std::vector<std::string> texts_;
  std::unique_ptr<Engine> engine_;
  std::map<int64_t, size_t> numbers_;  // cases by their requests
};

Result<std::vector<std::string>> texts_of(Run& run, const std::shared_ptr<Model>& model,
                                          const std::vector<Case>& cases) {
  const DataToTextOptions& options = run.task.data_to_text;
  if (!options.predictions.empty()) {
    run.result.method = "texts of " + options.predictions;
    return read_predictions(run, cases.size());
  }
  TESSERA_RETURN_IF_ERROR(run.need(model).status());
  if (cases[0].input.empty()) {
    return invalid_input("expected inputs beside the references, found a file of references alone");
  }
  run.result.method =
      options.beams == 1 ? std::string("greedy") : fmt::format("{} beams", options.beams);
  return Generator(run, model, cases).run();
}

}  // namespace

Status run_data_to_text(Run& run, const std::shared_ptr<Model>& model) {
  TESSERA_ASSIGN_OR_RETURN(std::vector<Case> cases, read_cases(run));
  TESSERA_ASSIGN_OR_RETURN(std::vector<std::string> texts, texts_of(run, model, cases));
  std::vector<ScoredText> scored;
  for (size_t i = 0; i < cases.size(); ++i) scored.push_back({texts[i], cases[i].references});
  TESSERA_RETURN_IF_ERROR(run.progress("scoring", 0, 0));
  std::vector<std::vector<double>> values = score_texts(scored);
  for (size_t i = 0; i < cases.size(); ++i) {
    const double bleu = TextScore(values[i]).bleu();
    run.result.examples.push_back({.id = cases[i].place,
                                   .score = bleu,
                                   .output = std::move(texts[i]),
                                   .expected = cases[i].references.front(),
                                   .values = std::move(values[i])});
  }
  return {};
}

}  // namespace tessera::evaluation
