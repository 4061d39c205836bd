#include <fmt/format.h>

#include <algorithm>

#include "evaluate/run.h"
#include "evaluate/text_score.h"
#include "io/json_at.h"
#include "io/mapped_file.h"
#include "runtime/tasks/batching.h"

namespace tessera::evaluation {
namespace {

constexpr size_t kMostBytes = size_t{1} << 28;

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

Result<Question> parse_question(const JsonAt& object, const std::string& context,
                                const std::string& path) {
  TESSERA_ASSIGN_OR_RETURN(const JsonAt id, object.need("id"));
  TESSERA_ASSIGN_OR_RETURN(const JsonAt text, object.need("question"));
  TESSERA_ASSIGN_OR_RETURN(const JsonAt answers, object.need("answers"));
  Question question;
  TESSERA_ASSIGN_OR_RETURN(question.id, id.text());
  TESSERA_ASSIGN_OR_RETURN(std::string asked, text.text());
  question.row = {fmt::format("{}: {}", path, object.path()), {std::move(asked), context}};
  if (is_blank(question.row.fields[0])) return text.wrong("a question");
  TESSERA_ASSIGN_OR_RETURN(const std::vector<JsonAt> list, answers.list(0, kMostBytes));
  for (const JsonAt& each : list) {
    TESSERA_ASSIGN_OR_RETURN(const JsonAt answer, each.need("text"));
    TESSERA_ASSIGN_OR_RETURN(std::string words, answer.text());
    question.expected.push_back(std::move(words));
  }
  const std::optional<JsonAt> impossible = object.find("is_impossible");
  if (!impossible) {
    if (question.expected.empty()) return answers.wrong("at least one answer");
    return question;
  }
  TESSERA_ASSIGN_OR_RETURN(const Truth truth, impossible->truth());
  if (truth == Truth::kYes) question.expected.clear();
  if (truth == Truth::kNo && question.expected.empty()) return answers.wrong("an answer");
  return question;
}

Status parse_paragraph(Run& run, const JsonAt& paragraph, const std::string& path,
                       Questions* questions) {
  TESSERA_ASSIGN_OR_RETURN(const JsonAt context, paragraph.need("context"));
  TESSERA_ASSIGN_OR_RETURN(const std::string text, context.text());
  TESSERA_ASSIGN_OR_RETURN(const JsonAt asked, paragraph.need("qas"));
  TESSERA_ASSIGN_OR_RETURN(const std::vector<JsonAt> list, asked.list(0, kMostBytes));
  for (const JsonAt& object : list) {
    if (is_full(run, *questions)) return {};
    Result<Question> question = parse_question(object, text, path);
    if (!question.ok()) {
      TESSERA_RETURN_IF_ERROR(run.bad(question.status().message()));
      continue;
    }
    questions->some_impossible = questions->some_impossible || question->expected.empty();
    questions->all.push_back(std::move(question).value());
  }
  return {};
}

Status parse_file(Run& run, const std::string& path, Questions* questions) {
  TESSERA_ASSIGN_OR_RETURN(const std::string text, read_text_file(path, kMostBytes));
  TESSERA_ASSIGN_OR_RETURN(const Json json, parse_json(text, path));
  TESSERA_ASSIGN_OR_RETURN(const JsonAt data, JsonAt(json, path).need("data"));
  TESSERA_ASSIGN_OR_RETURN(const std::vector<JsonAt> articles, data.list(0, kMostBytes));
  for (const JsonAt& article : articles) {
    TESSERA_ASSIGN_OR_RETURN(const JsonAt paragraphs, article.need("paragraphs"));
    TESSERA_ASSIGN_OR_RETURN(const std::vector<JsonAt> list, paragraphs.list(0, kMostBytes));
    for (const JsonAt& paragraph : list) {
      Status status = parse_paragraph(run, paragraph, path, questions);
      if (status.code() == StatusCode::kInvalidInput) status = run.bad(status.message());
      TESSERA_RETURN_IF_ERROR(status);
    }
  }
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
    TESSERA_RETURN_IF_ERROR(parse_file(run, path, &questions));
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
