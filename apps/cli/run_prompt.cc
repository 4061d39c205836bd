#include <fmt/format.h>

#include <algorithm>

#include "cli/run.h"

namespace tessera::cli {

Prompter::Prompter(std::shared_ptr<Model> model, const GenerateOptions& options)
    : model_(std::move(model)), options_(options) {}

Status Prompter::open_chat() {
  if (chat_) return {};
  Result<ChatFormat> format = ChatFormat::open(model_->info().directory);
  if (!format.ok()) return format.status();
  chat_ = std::move(format).value();
  for (const std::string& token : chat_->end_tokens()) {
    if (const auto id = model_->tokenizer()->id_of(token)) turn_ends_.push_back(*id);
  }
  return {};
}

Result<std::vector<int32_t>> Prompter::text(const std::string& text) {
  if (options_.chat) {
    const ChatMessage message{"user", text};
    return messages({&message, 1});
  }
  Result<TokenSequence> prompt = model_->tokenize(text);
  if (!prompt.ok()) return prompt.status();
  return std::move(prompt->ids);
}

Result<std::vector<int32_t>> Prompter::messages(std::span<const ChatMessage> messages) {
  if (Status status = open_chat(); !status.ok()) return status;
  std::vector<ChatMessage> all(messages.begin(), messages.end());
  if (options_.system && !all.empty() && all[0].role != "system") {
    all.insert(all.begin(), {"system", *options_.system});
  }
  Result<std::string> text = chat_->format(all);
  if (!text.ok()) return text.status();
  Result<Encoding> encoding =
      model_->tokenizer()->encode({*text, {}}, {.special = SpecialTokens::kOmit});
  if (!encoding.ok()) return encoding.status();
  return std::move(encoding->ids);
}

Result<std::vector<int32_t>> Prompter::record(const Record& record) {
  if (record.tokens) return record.tokens->ids;
  if (!model_->info().has_tokenizer) {
    return unsupported(fmt::format("{} has no tokenizer: give token ids (--format ids)",
                                   model_->info().directory));
  }
  return record.messages.empty() ? text(*record.text) : messages(record.messages);
}

Request Prompter::request(const Sampling& sampling, std::vector<int32_t> prompt_ids) const {
  // The last token is not run and needs no position. A prompt that fills the context is for submit
  // to refuse.
  const ModelInfo& info = model_->info();
  const int64_t room = info.max_positions - static_cast<int64_t>(prompt_ids.size()) + 1;
  Request request;
  request.prompt_ids = std::move(prompt_ids);
  const int64_t usual = info.generation.max_new_tokens.value_or(kDefaultMaxTokens);
  request.max_new_tokens = static_cast<int32_t>(
      options_.max_tokens.value_or(std::max<int64_t>(std::min(room, usual), 1)));
  request.sampling = sampling;
  request.sequences = static_cast<int32_t>(options_.sequences.value_or(1));
  request.beams = static_cast<int32_t>(options_.beams.value_or(1));
  request.stop_strings = options_.stop;
  request.ignore_end = options_.ignore_end;
  request.log_probabilities = options_.logprobs;
  if (!options_.ignore_end) request.stop_ids = turn_ends_;
  return request;
}

}  // namespace tessera::cli
