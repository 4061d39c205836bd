#pragma once

#include <cstdint>
#include <string_view>

namespace tessera {

// How a family of chat templates writes a conversation. "{bos}" and "{eos}" in a text stand for the
// tokenizer's own tokens, "{today}" for the date, as "05 Mar 2026".
struct ChatForm {
  struct Around {
    std::string_view before, after;
  };
  enum class System {
    kTurn,             // a turn of its own
    kTurnUnlessEmpty,  // none where it has no text
    kTurnAlways,       // an empty one where the conversation has none
    kFirstUser,        // in the first message of the user
    kLastUser,         // in the last one
    kNone,             // the template refuses it or leaves it out
  };
  enum class Trim {
    kNothing,
    kMessages,  // what a role says
    kWhole,     // the same, together with the system message in it
  };
  enum class Order { kAny, kAlternating };
  enum class Thoughts { kKept, kDropped };  // of the assistant, up to </think>

  std::string_view name;
  std::string_view begin;
  Around system, user, assistant;
  std::string_view reply;   // opens what the assistant is to write
  std::string_view stop;    // the token that ends it
  int default_system = -1;  // which of the template's texts stands for a missing system message
  System system_place = System::kTurn;
  Trim trim = Trim::kNothing;
  Order order = Order::kAny;
  Thoughts thoughts = Thoughts::kKept;
};

// The form of the templates with this hash (see ChatSignature); null for one that is not known.
const ChatForm* find_chat_form(uint64_t hash);

}  // namespace tessera
