#include "tessera/chat.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "runtime/chat_signature.h"

namespace tessera {
namespace {

// Written as nobody does, so that the tests see what is normalised.
constexpr const char* kChatMl =
    "{#- turns -#}\n{%-for message in messages-%}\n  {{\"<|im_start|>\"+message[ \"role\" "
    "]+\"\\n\" "
    "+ message['content'] + '<|im_end|>\\n'}}\n{%-endfor-%} {%if   add_generation_prompt-%}\n\n"
    "{{'<|im_start|>' + 'assistant\n'}}\n{%-endif%}\n";
constexpr const char* kZephyr =
    "{% for message in messages %}\n  {% if message['role'] == 'user' %}\n"
    "{{ '<|user|>\\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'system' %}\n"
    "{{ '<|system|>\\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'assistant' %}\n"
    "{{ '<|assistant|>\\n' + message['content'] + eos_token }}\n{% endif %}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n"
    "{% endfor %}";
constexpr const char* kGemma =
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('not so') }}{% endif %}{% if (message['role'] == 'assistant') %}"
    "{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}";

std::string formatted(const char* text, std::vector<ChatMessage> messages) {
  const auto format = ChatFormat::from_template(text, "<s>", "</s>");
  if (!format.ok()) return "unknown: " + format.status().message();
  const auto result = format->format(messages);
  return result.ok() ? *result : "refused: " + result.status().message();
}

TEST(ChatFormat, WritesChatMl) {
  EXPECT_EQ(formatted(kChatMl, {{"system", "Be kind."}, {"user", " Hi "}}),
            "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n Hi <|im_end|>\n"
            "<|im_start|>assistant\n");
  EXPECT_EQ(formatted(kChatMl, {{"user", "a"}, {"assistant", "{{ b }}"}, {"user", ""}}),
            "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n{{ b }}<|im_end|>\n"
            "<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n");
  const auto format = ChatFormat::from_template(kChatMl, "<s>", "</s>");
  ASSERT_TRUE(format.ok()) << format.status().message();
  EXPECT_EQ(format->name(), "ChatML");
  EXPECT_EQ(format->end_tokens(), (std::vector<std::string>{"<|im_end|>", "</s>"}));
}

TEST(ChatFormat, KeepsLineEndsBehindValues) {
  EXPECT_EQ(formatted(kZephyr, {{"system", "s"}, {"user", "u"}}),
            "<|system|>\ns</s>\n<|user|>\nu</s>\n<|assistant|>\n");
}

TEST(ChatFormat, TrimsAsPythonDoes) {
  EXPECT_EQ(formatted(kGemma, {{"user", " \x1C\u3000\u00A0 a b\u2003\n\u0085"}}),
            "<s><start_of_turn>user\na b<end_of_turn>\n<start_of_turn>model\n");
  EXPECT_EQ(formatted(kGemma, {{"user", "\u3000 "}}),
            "<s><start_of_turn>user\n<end_of_turn>\n<start_of_turn>model\n");
  // U+2604 ends with the byte of a space's encoding, but is none.
  EXPECT_EQ(formatted(kGemma, {{"user", "\u2604"}}),
            "<s><start_of_turn>user\n\u2604<end_of_turn>\n<start_of_turn>model\n");
}

TEST(ChatFormat, RefusesWhatTheTemplateWould) {
  EXPECT_NE(formatted(kGemma, {{"system", "s"}, {"user", "u"}}).find("no system message"),
            std::string::npos);
  EXPECT_NE(formatted(kGemma, {{"user", "u"}, {"user", "v"}}).find("message 2"), std::string::npos);
  EXPECT_NE(formatted(kChatMl, {{"user", "u"}, {"assistant", "v"}}).find("last message"),
            std::string::npos);
  EXPECT_NE(formatted(kChatMl, {{"tool", "u"}}).find("\"tool\""), std::string::npos);
  EXPECT_NE(formatted(kChatMl, {}).find("none"), std::string::npos);
  EXPECT_NE(formatted(kChatMl, {{"user", "u"}, {"system", "s"}, {"user", "v"}}).find("message 2"),
            std::string::npos);
}

TEST(ChatFormat, KnowsNoTemplateThatDiffers) {
  const std::string known(kChatMl);
  for (size_t i = known.find("#}") + 2; i < known.size(); ++i) {
    std::string changed = known;
    changed[i] = 'X';
    EXPECT_FALSE(ChatFormat::from_template(changed, "<s>", "</s>").ok()) << changed;
  }
  for (const char* text : {"", "{{", "{{ 'a", "{% if %}", "{#", "\\", "{%-", "{{ '\\"}) {
    EXPECT_FALSE(ChatFormat::from_template(text, "", "").ok()) << text;
  }
}

TEST(ChatSignature, KeepsSystemTextsApart) {
  const std::string before = "{% if loop.first %}{{ '<|im_start|>system\\n";
  const auto one = chat_signature(before + "Be one.<|im_end|>\\n' }}{% endif %}");
  const auto two = chat_signature(before + "Be two.<|im_end|>\\n' }}{% endif %}");
  ASSERT_TRUE(one.ok() && two.ok());
  EXPECT_EQ(one->hash, two->hash);
  EXPECT_EQ(two->texts, std::vector<std::string>{"<|im_start|>system\nBe two.<|im_end|>\n"});
  EXPECT_NE(chat_signature("{{ 'a' }}")->hash, chat_signature("{{ a }}")->hash);
  EXPECT_NE(chat_signature("{{ a }}b")->hash, chat_signature("{{ a }} b")->hash);
  EXPECT_EQ(chat_signature("{{ a -}} b")->hash, chat_signature("{{ a -}}b")->hash);
}

class ChatFiles : public testing::Test {
 protected:
  ChatFiles() {
    std::filesystem::remove_all(directory_);
    std::filesystem::create_directories(directory_);
  }
  ~ChatFiles() override { std::filesystem::remove_all(directory_); }
  void write(const char* name, const std::string& text) const {
    std::ofstream(directory_ + "/" + name) << text;
  }
  std::string format() const {
    const auto text = format_chat(directory_, std::vector<ChatMessage>{{"user", "u"}});
    return text.ok() ? *text : text.status().message();
  }
  static std::string quoted(std::string text) {
    for (size_t at = 0; (at = text.find_first_of("\\\"\n", at)) != std::string::npos; at += 2) {
      const bool is_line_end = text[at] == '\n';
      text.insert(at, "\\");
      if (is_line_end) text[at + 1] = 'n';
    }
    return "\"" + text + "\"";
  }

  std::string directory_ = testing::TempDir() + "chat_" +
                           testing::UnitTest::GetInstance()->current_test_info()->name() +
                           std::to_string(getpid());
};

TEST_F(ChatFiles, AreReadAsTheyAreShipped) {
  EXPECT_NE(format().find("no chat template"), std::string::npos);
  const std::string gemma = "<start_of_turn>user\nu<end_of_turn>\n<start_of_turn>model\n";
  write("tokenizer_config.json",
        R"({"bos_token": {"content": "<b>"}, "chat_template": )" + quoted(kGemma) + "}");
  EXPECT_EQ(format(), "<b>" + gemma);
  write("special_tokens_map.json", R"({"bos_token": "<m>"})");
  write("tokenizer_config.json",
        R"({"chat_template": [{"name": "tool_use", "template": "x"},
                              {"name": "default", "template": )" +
            quoted(kGemma) + "}]}");
  EXPECT_EQ(format(), "<m>" + gemma);
  write("chat_template.jinja", kChatMl);
  EXPECT_EQ(format(), "<|im_start|>user\nu<|im_end|>\n<|im_start|>assistant\n");
  write("chat_template.jinja", "{{ messages }}");
  EXPECT_NE(format().find("known forms"), std::string::npos) << format();
  write("tokenizer_config.json", "{");
  EXPECT_NE(format().find("tokenizer_config.json"), std::string::npos) << format();
}

}  // namespace
}  // namespace tessera
