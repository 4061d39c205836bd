#include "runtime/chat_forms.h"

#include <array>

namespace tessera {
namespace {

using Order = ChatForm::Order;
using System = ChatForm::System;
using Thoughts = ChatForm::Thoughts;
using Trim = ChatForm::Trim;

constexpr ChatForm kChatMl = {.name = "ChatML",
                              .system = {"<|im_start|>system\n", "<|im_end|>\n"},
                              .user = {"<|im_start|>user\n", "<|im_end|>\n"},
                              .assistant = {"<|im_start|>assistant\n", "<|im_end|>\n"},
                              .reply = "<|im_start|>assistant\n",
                              .stop = "<|im_end|>"};

constexpr ChatForm kPhi4 = {
    .name = "Phi-4",
    .system = {"<|im_start|>system<|im_sep|>", "<|im_end|>"},
    .user = {"<|im_start|>user<|im_sep|>", "<|im_end|><|im_start|>assistant<|im_sep|>"},
    .assistant = {"", "<|im_end|>"},
    .stop = "<|im_end|>"};

constexpr ChatForm kLlama3 = {
    .name = "Llama 3",
    .begin = "{bos}",
    .system = {"<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>"},
    .user = {"<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"},
    .assistant = {"<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"},
    .reply = "<|start_header_id|>assistant<|end_header_id|>\n\n",
    .stop = "<|eot_id|>",
    .trim = Trim::kMessages};

constexpr ChatForm kLlama2 = {.name = "Llama 2",
                              .system = {"<<SYS>>\n", "\n<</SYS>>\n\n"},
                              .user = {"{bos}[INST] ", " [/INST]"},
                              .assistant = {" ", " {eos}"},
                              .system_place = System::kFirstUser,
                              .trim = Trim::kWhole,
                              .order = Order::kAlternating};

constexpr ChatForm kMistral = {.name = "Mistral",
                               .begin = "{bos}",
                               .system = {"", "\n\n"},
                               .user = {"[INST] ", " [/INST]"},
                               .assistant = {"", "{eos}"},
                               .system_place = System::kNone,
                               .order = Order::kAlternating};

constexpr ChatForm kZephyr = {.name = "Zephyr",
                              .system = {"<|system|>\n", "{eos}\n"},
                              .user = {"<|user|>\n", "{eos}\n"},
                              .assistant = {"<|assistant|>\n", "{eos}\n"},
                              .reply = "<|assistant|>\n"};

constexpr ChatForm kTulu = {.name = "Tulu 3",
                            .system = {"<|system|>\n", "\n"},
                            .user = {"<|user|>\n", "\n"},
                            .assistant = {"<|assistant|>\n", "{eos}\n"},
                            .reply = "<|assistant|>\n"};

constexpr ChatForm kPhi3 = {.name = "Phi-3",
                            .system = {"<|system|>\n", "<|end|>\n"},
                            .user = {"<|user|>\n", "<|end|>\n"},
                            .assistant = {"<|assistant|>\n", "<|end|>\n"},
                            .reply = "<|assistant|>\n",
                            .stop = "<|end|>"};

constexpr ChatForm kGemma = {.name = "Gemma",
                             .begin = "{bos}",
                             .system = {"", "\n\n"},
                             .user = {"<start_of_turn>user\n", "<end_of_turn>\n"},
                             .assistant = {"<start_of_turn>model\n", "<end_of_turn>\n"},
                             .reply = "<start_of_turn>model\n",
                             .stop = "<end_of_turn>",
                             .system_place = System::kNone,
                             .trim = Trim::kMessages,
                             .order = Order::kAlternating};

constexpr ChatForm begun(ChatForm form) {
  form.begin = "{bos}";
  return form;
}

constexpr ChatForm with_default(ChatForm form, int text) {
  form.default_system = text;
  return form;
}

constexpr ChatForm with_system(ChatForm form, System place) {
  form.system_place = place;
  return form;
}

constexpr ChatForm thinking(ChatForm form, std::string_view reply) {
  form.thoughts = Thoughts::kDropped;
  form.reply = reply;
  return form;
}

// The user's turn ends with the beginning of the assistant's.
constexpr ChatForm answering(ChatForm form, std::string_view user_after) {
  form.user.after = user_after;
  form.assistant.before = form.reply = "";
  return form;
}

constexpr ChatForm spaced(ChatForm form, ChatForm::Around user, ChatForm::Around assistant) {
  form.user = user;
  form.assistant = assistant;
  return form;
}

constexpr ChatForm in_any_order(ChatForm form) {
  form.order = Order::kAny;
  return form;
}

// The system turn of Llama 3.1 and later, which tells two dates.
constexpr ChatForm dated(ChatForm form, std::string_view before_system) {
  form.system.before = before_system;
  form.system_place = System::kTurnAlways;
  return form;
}

constexpr ChatForm with_system_around(ChatForm form, ChatForm::Around system) {
  form.system = system;
  form.system_place = System::kTurn;
  return in_any_order(form);
}

constexpr ChatForm kPhi4Mini = [] {
  ChatForm form = kPhi3;
  form.name = "Phi-4-mini";
  form.system = {"<|system|>", "<|end|>"};
  form.user = {"<|user|>", "<|end|>"};
  form.assistant = {"<|assistant|>", "<|end|>"};
  form.reply = "<|assistant|>";
  return form;
}();

struct Row {
  uint64_t hash;
  ChatForm form;
};

// Each is checked against transformers' rendering of the template named beside it.
constexpr std::array kRows = {
    Row{0xb8b22c8980fa8855, kChatMl},                          // the plain one
    Row{0xe90ae2325f5e2027, kChatMl},                          // Dolphin 2.5
    Row{0x60a283c23215dece, begun(kChatMl)},                   // InternLM2, Nous Hermes 2
    Row{0x4a283187f3930119, begun(kChatMl)},                   // Zephyr Gemma
    Row{0xaddd8ba720d86b15, with_default(kChatMl, 0)},         // Qwen1.5
    Row{0x0902401b929e018a, with_default(kChatMl, 0)},         // Qwen2, SmolLM2, OpenCoder, Sailor2
    Row{0xe6ce7b76275a23eb, with_default(begun(kChatMl), 0)},  // Hermes 3
    Row{0x007ac226149eae53, with_default(kChatMl, 0)},         // Stable Code
    Row{0x8826d56fc98e0ddf, with_default(kChatMl, 1)},         // Qwen2.5
    Row{0x383f12d0be0f1415, with_default(kChatMl, 1)},         // Qwen2.5, corrected
    Row{0x5b68a00a20114842, thinking(kChatMl, "<|im_start|>assistant\n")},           // Qwen3
    Row{0xe088a4b20eb71206, thinking(kChatMl, "<|im_start|>assistant\n<think>\n")},  // QwQ
    Row{0xd1568a2026dfaa27, kPhi4},
    Row{0x1f22d7f2662ce64d, kLlama3},
    Row{0x92bf1dacc885d529, kLlama3},  // Dolphin Llama 3
    Row{0x852c61569909f6ba,
        dated(kLlama3,
              "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December "
              "2023\nToday Date: 26 Jul 2024\n\n")},  // Llama 3.1
    Row{0x86a4518b9c6f2c8c,
        dated(kLlama3,
              "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December "
              "2023\nToday Date: {today}\n\n")},  // Llama 3.2
    Row{0x7399fbb885535e13, kLlama2},
    Row{0xe36ab1ca7b8591c4, kLlama2},  // with a switch for a default prompt
    Row{0x7e02530bce6c8315, spaced(kMistral, kMistral.user, {"", "{eos} "})},  // 7B v0.1
    Row{0x253098313a0d46ab, kMistral},                                         // Mixtral v0.1
    Row{0xc40357193a0c3675, with_system(spaced(kMistral, {"[INST] ", "[/INST]"}, {" ", "{eos}"}),
                                        System::kLastUser)},  // Mixtral 8x22B
    Row{0xa9342a2866cc643d, with_system(spaced(kMistral, {" [INST] ", " [/INST]"}, {" ", "{eos}"}),
                                        System::kFirstUser)},  // Mixtral 8x7B, later
    Row{0x898ff7541dff6f4c, with_system(spaced(kMistral, {"[INST]", "[/INST]"}, {"", "{eos}"}),
                                        System::kLastUser)},  // Nemo
    Row{0x22455d1df8925a59,
        in_any_order(spaced(kMistral, {" [INST] ", " [/INST]"}, {" ", " {eos}"}))},  // 7B v0.3
    Row{0xc631fc4c848d515d,
        with_system_around(spaced(kMistral, {"[INST] ", "[/INST]"}, {" ", "{eos}"}),
                           {"[SYSTEM_PROMPT] ", "[/SYSTEM_PROMPT]"})},  // Large
    Row{0x50b0db7e84d53ad3,
        with_system_around(spaced(kMistral, {"[INST]", "[/INST]"}, {"", "{eos}"}),
                           {"[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"})},  // Small
    Row{0xe3e318f39183b23b, kZephyr},                                  // and TinyLlama
    Row{0x7eaecab05b2825dd, kTulu},
    Row{0x8413b29f6d2efdaa, begun(kTulu)},  // OLMo 2
    Row{0xe0bc54929f4193eb, kPhi3},
    Row{0x0d555d49ed0d385d, with_system(kPhi3, System::kTurnUnlessEmpty)},  // Phi-3.5
    Row{0x637aa4ad2c329f28,
        with_system(answering(kPhi3, "<|end|>\n<|assistant|>\n"), System::kNone)},  // Phi-3 medium
    Row{0x4e3a50e70794304c, begun(answering(kPhi3, "<|end|>\n<|assistant|>\n"))},   // LLaVA Phi-3
    Row{0x8534113dddbce956, kPhi4Mini},
    Row{0x6b420007a8ed2801, kGemma},  // 1 and 2
    Row{0xbd46570c2a0f7199, kGemma},  // 3, whose system message is no plain text
    Row{0x0bf8da049313f930, with_system(kGemma, System::kFirstUser)},  // 3
};

}  // namespace

const ChatForm* find_chat_form(uint64_t hash) {
  for (const Row& row : kRows) {
    if (row.hash == hash) return &row.form;
  }
  return nullptr;
}

}  // namespace tessera
