// Any template is refused with a sentence, or formats a conversation.

#include "support/target.h"
#include "tessera/chat.h"

namespace tessera::fuzz {

void check(std::string_view input) {
  const auto format = ChatFormat::from_template(input, "<s>", "</s>");
  if (!format.ok()) return require(!format.status().message().empty());
  const ChatMessage messages[] = {
      {"system", "s"}, {"user", "a"}, {"assistant", "b"}, {"user", "c"}};
  const auto text = format->format(messages);
  require(text.ok() ? !text->empty() : !text.status().message().empty());
}

}  // namespace tessera::fuzz
