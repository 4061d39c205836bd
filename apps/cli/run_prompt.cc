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

Result<Request> Prompter::request(Request made, std::vector<int32_t> prompt_ids) const {
  const GenerationDefaults& model = model_->info().generation;
  const int64_t prompt = static_cast<int64_t>(prompt_ids.size());
  // The last token is not run and needs no position. A prompt that fills the context is for submit
  // to refuse.
  const int64_t room = std::max<int64_t>(model_->info().max_positions - prompt + 1, 1);
  const auto use = [&](const char* key, const std::optional<int32_t>& value) {
    const Status status = check_recommended(model, key);
    return status.ok() ? Result<std::optional<int32_t>>(value) : status;
  };
  int64_t most = std::min(room, kDefaultMaxTokens);
  if (options_.max_tokens) {
    most = *options_.max_tokens;
  } else {
    const auto new_tokens = use("max_new_tokens", model.max_new_tokens);
    if (!new_tokens.ok()) return new_tokens.status();
    constexpr int32_t kNone = -1;
    const int32_t length = *new_tokens ? kNone : model.max_length.value_or(kNone);
    const Status usable = *new_tokens ? Status() : check_recommended(model, "max_length");
    if (!usable.ok()) return usable;
    if (length != kNone && length <= prompt) {
      return invalid_input(fmt::format(
          "generation_config.json: max_length: expected more than the {} tokens of the prompt, "
          "found {}: give --max-tokens",
          prompt, length));
    }
    if (*new_tokens) most = std::min<int64_t>(room, **new_tokens);
    if (length != kNone) most = std::min<int64_t>(room, length - prompt);
  }
  const auto least = use("min_new_tokens", model.min_new_tokens);
  if (!least.ok()) return least.status();
  const auto shortest = use("min_length", *least ? std::nullopt : model.min_length);
  if (!shortest.ok()) return shortest.status();
  const int64_t rest = shortest->value_or(0) - prompt;
  made.rules.min_new_tokens = least->value_or(static_cast<int32_t>(std::max<int64_t>(rest, 0)));
  made.max_new_tokens = static_cast<int32_t>(most);
  made.prompt_ids = std::move(prompt_ids);
  if (!options_.ignore_end) made.stop_ids = turn_ends_;
  return made;
}

}  // namespace tessera::cli
