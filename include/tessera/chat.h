#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tessera/export.h"
#include "tessera/status.h"

namespace tessera {

struct ChatMessage {
  std::string role = {};  // "system", "user" or "assistant"
  std::string content = {};
};

// Conversations as the text that a model was trained on, for the common forms of chat templates:
// ChatML (Qwen and others), Llama 2 and 3, Mistral, Zephyr, Phi, Gemma. Immutable and safe to share
// between threads.
class TESSERA_API ChatFormat {
 public:
  // Reads the template that the directory ships (chat_template.jinja, or chat_template in
  // tokenizer_config.json). kNotFound without one; kUnsupported for one that is not among the known
  // forms, since a template is recognised as a whole and never executed.
  static Result<ChatFormat> open(const std::string& directory);
  // The template's text, and the tokens that it may write.
  static Result<ChatFormat> from_template(std::string_view text, std::string begin_token,
                                          std::string end_token);

  // The conversation and the beginning of the assistant's next message, exactly as transformers'
  // apply_chat_template gives it with add_generation_prompt. At most one system message, at the
  // beginning; the last message is the user's. What special tokens there must be are in the text:
  // encode it with SpecialTokens::kOmit.
  Result<std::string> format(std::span<const ChatMessage> messages) const;

  // "ChatML", "Llama 3", ...
  const std::string& name() const;
  // Tokens that end the assistant's message; generation should stop at each.
  const std::vector<std::string>& end_tokens() const;

 private:
  ChatFormat() = default;  // there is none without a template
  struct State;
  std::shared_ptr<const State> state_;
};

// ChatFormat::open(directory) and format(messages) in one.
TESSERA_API Result<std::string> format_chat(const std::string& directory,
                                            std::span<const ChatMessage> messages);

}  // namespace tessera
