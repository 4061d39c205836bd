#include "evaluate/squad.h"

#include <fmt/format.h>

#include "evaluate/run.h"
#include "io/json_at.h"
#include "io/mapped_file.h"

namespace tessera::evaluation {
namespace {

constexpr size_t kMostBytes = size_t{1} << 28;

Result<SquadAnswer> parse_answer(const JsonAt& object) {
  SquadAnswer answer;
  TESSERA_ASSIGN_OR_RETURN(const JsonAt text, object.need("text"));
  TESSERA_ASSIGN_OR_RETURN(answer.text, text.text());
  const std::optional<JsonAt> start = object.find("answer_start");
  const int64_t* const characters = start ? start->value().as<int64_t>() : nullptr;
  if (characters != nullptr && *characters >= 0) answer.start = *characters;
  return answer;
}

Result<SquadQuestion> parse_question(const JsonAt& object, const std::string& context,
                                     const std::string& path) {
  TESSERA_ASSIGN_OR_RETURN(const JsonAt id, object.need("id"));
  TESSERA_ASSIGN_OR_RETURN(const JsonAt text, object.need("question"));
  TESSERA_ASSIGN_OR_RETURN(const JsonAt answers, object.need("answers"));
  SquadQuestion question{.place = fmt::format("{}: {}", path, object.path()), .context = context};
  TESSERA_ASSIGN_OR_RETURN(question.id, id.text());
  TESSERA_ASSIGN_OR_RETURN(question.question, text.text());
  if (is_blank(question.question)) return text.wrong("a question");
  TESSERA_ASSIGN_OR_RETURN(const std::vector<JsonAt> list, answers.list(0, kMostBytes));
  for (const JsonAt& each : list) {
    TESSERA_ASSIGN_OR_RETURN(SquadAnswer answer, parse_answer(each));
    question.answers.push_back(std::move(answer));
  }
  const std::optional<JsonAt> impossible = object.find("is_impossible");
  if (!impossible) {
    if (question.answers.empty()) return answers.wrong("at least one answer");
    return question;
  }
  TESSERA_ASSIGN_OR_RETURN(const Truth truth, impossible->truth());
  if (truth == Truth::kYes) question.answers.clear();
  if (truth == Truth::kNo && question.answers.empty()) return answers.wrong("an answer");
  return question;
}

struct Paragraph {
  std::string context;
  std::vector<JsonAt> questions;
};

Result<Paragraph> parse_paragraph(const JsonAt& object) {
  Paragraph paragraph;
  TESSERA_ASSIGN_OR_RETURN(const JsonAt context, object.need("context"));
  TESSERA_ASSIGN_OR_RETURN(paragraph.context, context.text());
  TESSERA_ASSIGN_OR_RETURN(const JsonAt asked, object.need("qas"));
  TESSERA_ASSIGN_OR_RETURN(paragraph.questions, asked.list(0, kMostBytes));
  return paragraph;
}

}  // namespace

Status read_squad(const std::string& path,
                  const std::function<Status(Result<SquadQuestion>)>& take) {
  TESSERA_ASSIGN_OR_RETURN(const std::string text, read_text_file(path, kMostBytes));
  TESSERA_ASSIGN_OR_RETURN(const Json json, parse_json(text, path));
  TESSERA_ASSIGN_OR_RETURN(const JsonAt data, JsonAt(json, path).need("data"));
  TESSERA_ASSIGN_OR_RETURN(const std::vector<JsonAt> articles, data.list(0, kMostBytes));
  for (const JsonAt& article : articles) {
    TESSERA_ASSIGN_OR_RETURN(const JsonAt paragraphs, article.need("paragraphs"));
    TESSERA_ASSIGN_OR_RETURN(const std::vector<JsonAt> list, paragraphs.list(0, kMostBytes));
    for (const JsonAt& each : list) {
      const Result<Paragraph> paragraph = parse_paragraph(each);
      if (!paragraph.ok()) {
        TESSERA_RETURN_IF_ERROR(take(paragraph.status()));
        continue;
      }
      for (const JsonAt& object : paragraph->questions)
        TESSERA_RETURN_IF_ERROR(take(parse_question(object, paragraph->context, path)));
    }
  }
  return {};
}

}  // namespace tessera::evaluation
