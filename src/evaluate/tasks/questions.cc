#include <fmt/format.h>

#include <algorithm>

#include "evaluate/run.h"
#include "evaluate/squad.h"
#include "evaluate/text_score.h"
#include "runtime/tasks/batching.h"

namespace tessera::evaluation {
namespace {

struct Question {
  DataRow row;  // fields: question, context
  std::string id;
  std::vector<std::string> expected;  // empty: it has no answer
};
struct Questions {
  std::vector<Question> all;
  bool some_impossible = false;  // as SQuAD 2.0
};

bool is_full(const Run& run, const Questions& questions) {
  return run.task.max_examples > 0 &&
         questions.all.size() >= static_cast<size_t>(run.task.max_examples);
}

Status take_question(Run& run, Result<SquadQuestion> found, Questions* questions) {
  if (is_full(run, *questions)) return {};
  if (!found.ok()) return run.bad(found.status().message());
  Question question{.row = {found->place, {found->question, found->context}}, .id = found->id};
  for (const SquadAnswer& answer : found->answers) question.expected.push_back(answer.text);
  questions->some_impossible = questions->some_impossible || question.expected.empty();
  questions->all.push_back(std::move(question));
  return {};
}

// The best answer; none where the data has questions without and the model prefers that.
std::string answer_of(const Answers& answers, bool some_impossible) {
  if (answers.best.empty()) return "";
  const Answer& best = answers.best.front();
  return some_impossible && answers.no_answer_score > best.score ? "" : best.text;
}

}  // namespace

Status run_questions(Run& run, Model& model) {
  TESSERA_RETURN_IF_ERROR(
      tasks::require_head(model, Head::kQuestionAnswering, "question answering"));
  Questions questions;
  for (const std::string& path : run.task.data.paths) {
    TESSERA_RETURN_IF_ERROR(read_squad(path, [&](Result<SquadQuestion> found) {
      return take_question(run, std::move(found), &questions);
    }));
  }
  if (questions.all.empty()) {
    return invalid_input(fmt::format("{}: expected at least one question, found none",
                                     fmt::join(run.task.data.paths, ", ")));
  }
  std::vector<TaskInput> inputs;
  std::vector<DataRow> rows;
  for (const Question& question : questions.all) {
    inputs.push_back({question.row.fields[0], question.row.fields[1], std::nullopt});
    rows.push_back({question.row.place, {}});
  }
  const TaskOptions shared = run.task_options("answering", static_cast<int64_t>(inputs.size()));
  AnswerOptions options{.too_long = shared.too_long, .on_progress = shared.on_progress};
  options.max_answer_tokens = run.task.questions.max_answer_tokens;
  options.window_tokens = run.task.questions.window_tokens;
  options.overlap_tokens = run.task.questions.overlap_tokens;
  const auto found = answer(model, inputs, options);
  if (!found.ok()) return at_place(found.status(), rows, 1);
  for (size_t i = 0; i < inputs.size(); ++i) {
    const Question& question = questions.all[i];
    const std::string text = answer_of((*found)[i], questions.some_impossible);
    const AnswerScore score = score_answer(text, question.expected);
    run.result.examples.push_back(
        {.id = question.id,
         .score = score.f1,
         .output = text,
         .expected = question.expected.empty() ? "" : question.expected.front(),
         .values = {score.f1, score.exact}});
  }
  run.result.method = fmt::format("windows of {} tokens, overlap {}", options.window_tokens,
                                  options.overlap_tokens.value_or(kUsualOverlapTokens));
  return {};
}

}  // namespace tessera::evaluation
