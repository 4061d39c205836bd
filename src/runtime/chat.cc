#include "tessera/chat.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <ctime>
#include <optional>

#include "base/guarded.h"
#include "base/status.h"
#include "io/json.h"
#include "io/mapped_file.h"
#include "io/model_directory.h"
#include "runtime/chat_forms.h"
#include "runtime/chat_signature.h"

namespace tessera {
namespace {

constexpr size_t kFileLimitBytes = size_t{64} << 20;

// Empty where there is no such file.
Result<std::optional<std::string>> read_if_there(const std::string& path) {
  Result<std::string> text = read_text_file(path, kFileLimitBytes);
  if (text.ok()) return std::optional(std::move(text).value());
  if (text.status().code() == StatusCode::kNotFound) return std::optional<std::string>();
  return text.status();
}

Result<Json> read_json_if_there(const std::string& path) {
  TESSERA_ASSIGN_OR_RETURN(const std::optional<std::string> text, read_if_there(path));
  if (!text) return Json();
  return parse_json(*text, path);
}

// A token is a string, or an object with its content.
std::string token_of(const Json& config, std::string_view key) {
  const Json* found = config.find(key);
  if (found != nullptr && found->as<Json::Object>() != nullptr) found = found->find("content");
  const std::string* text = found == nullptr ? nullptr : found->as<std::string>();
  return text == nullptr ? "" : *text;
}

// One template, or a list of them with names.
const std::string* template_of(const Json& config) {
  const Json* found = config.find("chat_template");
  if (found == nullptr) return nullptr;
  const Json::Array* const list = found->as<Json::Array>();
  if (list == nullptr) return found->as<std::string>();
  for (const Json& each : *list) {
    const Json* const name = each.find("name");
    const std::string* const text = name == nullptr ? nullptr : name->as<std::string>();
    const Json* const body = each.find("template");
    if (text != nullptr && *text == "default" && body != nullptr) return body->as<std::string>();
  }
  return nullptr;
}

// What str.strip() of Python takes for space.
bool is_space(char32_t c) {
  return (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

size_t space_bytes_at(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) {
    return static_cast<char32_t>(i < text.size() ? static_cast<unsigned char>(text[i]) : 0);
  };
  const char32_t lead = byte(at);
  if (lead < 0x80) return is_space(lead) ? 1 : 0;
  // No space has more than three bytes.
  if (lead < 0xE0) return is_space((lead & 0x1F) << 6 | (byte(at + 1) & 0x3F)) ? 2 : 0;
  const char32_t c = (lead & 0x0F) << 12 | (byte(at + 1) & 0x3F) << 6 | (byte(at + 2) & 0x3F);
  return lead < 0xF0 && is_space(c) ? 3 : 0;
}

std::string_view trimmed(std::string_view text) {
  size_t begin = 0;
  while (begin < text.size()) {
    const size_t bytes = space_bytes_at(text, begin);
    if (bytes == 0) break;
    begin += bytes;
  }
  text.remove_prefix(begin);
  while (!text.empty()) {
    size_t last = text.size() - 1;
    while (last > 0 && (static_cast<unsigned char>(text[last]) & 0xC0) == 0x80) --last;
    if (space_bytes_at(text, last) != text.size() - last) break;
    text = text.substr(0, last);
  }
  return text;
}

// Behind the last </think>, if there is one, less line ends.
std::string_view without_thoughts(std::string_view text) {
  constexpr std::string_view kEnd = "</think>";
  const size_t end = text.rfind(kEnd);
  if (end == std::string_view::npos) return text;
  text.remove_prefix(end + kEnd.size());
  text.remove_prefix(std::min(text.find_first_not_of('\n'), text.size()));
  return text;
}

Status check_messages(const ChatForm& form, std::span<const ChatMessage> messages) {
  if (messages.empty()) return invalid_input("expected messages, found none");
  const bool has_system = messages[0].role == "system";
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string& role = messages[i].role;
    if (role == "system" && i > 0) {
      return invalid_input(
          fmt::format("message {}: expected a system message only at the beginning", i + 1));
    }
    if (role != "system" && role != "user" && role != "assistant") {
      return invalid_input(fmt::format(
          "message {}: expected the role system, user or assistant, found \"{}\"", i + 1, role));
    }
    const bool is_users_turn = (i - (has_system ? 1 : 0)) % 2 == 0;
    if (form.order == ChatForm::Order::kAlternating && role != "system" &&
        (role == "user") != is_users_turn) {
      return invalid_input(fmt::format("message {}: expected {}, since roles alternate, found {}",
                                       i + 1, is_users_turn ? "user" : "assistant", role));
    }
  }
  if (messages.back().role != "user") {
    return invalid_input(fmt::format(
        "expected the last message to be the user's, found the role {}", messages.back().role));
  }
  if (has_system && form.system_place == ChatForm::System::kNone) {
    return unsupported(
        fmt::format("expected no system message: this model's chat template ({}) "
                    "has no place for one",
                    form.name));
  }
  return {};
}

// "05 Mar 2026", in local time.
std::string today() {
  constexpr std::array kMonths = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                  "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  if (localtime_r(&now, &local) == nullptr) return "";
  return fmt::format("{:02} {} {}", local.tm_mday, kMonths[static_cast<size_t>(local.tm_mon)],
                     local.tm_year + 1900);
}

}  // namespace

struct ChatFormat::State {
  ChatForm form;
  std::vector<std::string> texts;  // of the template
  std::string begin_token, end_token;
  std::string name;
  std::vector<std::string> end_tokens;

  void add_marks(std::string_view marks, std::string* text) const {
    while (!marks.empty()) {
      const size_t brace = marks.find('{');
      *text += marks.substr(0, brace);
      if (brace == std::string_view::npos) return;
      marks.remove_prefix(brace);
      const size_t end = marks.find('}') + 1;
      const std::string_view mark = marks.substr(0, end);
      *text += mark == "{bos}" ? begin_token : mark == "{eos}" ? end_token : today();
      marks.remove_prefix(end);
    }
  }

  void add_turn(const ChatForm::Around& around, std::string_view content, std::string* text) const {
    add_marks(around.before, text);
    *text += content;
    add_marks(around.after, text);
  }

  // The system's turn, or what stands where there is none.
  void add_system(const std::string* system, std::string* text) const {
    using System = ChatForm::System;
    const System place = form.system_place;
    if (system == nullptr && form.default_system >= 0) {
      const std::string& given = texts[static_cast<size_t>(form.default_system)];
      if (given.starts_with(form.system.before)) {
        *text += given;
      } else {
        add_turn(form.system, given, text);
      }
      return;
    }
    const bool is_turn = place == System::kTurn ||
                         (place == System::kTurnUnlessEmpty && system && !system->empty()) ||
                         place == System::kTurnAlways;
    if (!is_turn || (system == nullptr && place != System::kTurnAlways)) return;
    std::string_view content = system == nullptr ? std::string_view() : *system;
    if (form.trim != ChatForm::Trim::kNothing) content = trimmed(content);
    add_turn(form.system, content, text);
  }

  std::string user_content(const ChatMessage& message, const std::string* system) const {
    using Trim = ChatForm::Trim;
    std::string content(form.trim == Trim::kMessages ? trimmed(message.content)
                                                     : std::string_view(message.content));
    if (system != nullptr) {
      std::string folded;
      add_turn(form.system, *system, &folded);
      content = folded + content;
    }
    return form.trim == Trim::kWhole ? std::string(trimmed(content)) : content;
  }
};

Result<ChatFormat> ChatFormat::from_template(std::string_view text, std::string begin_token,
                                             std::string end_token) {
  return guarded("chat template", [&]() -> Result<ChatFormat> {
    TESSERA_ASSIGN_OR_RETURN(ChatSignature signature, chat_signature(text));
    const ChatForm* const form = find_chat_form(signature.hash);
    if (form == nullptr || form->default_system >= static_cast<int>(signature.texts.size())) {
      return unsupported(
          fmt::format("chat template: expected one of the known forms of ChatML (Qwen), Llama 2 "
                      "and 3, Mistral, Zephyr, Tulu, Phi and Gemma, found another one (signature "
                      "{:016x}); text that is already formatted can be given as a prompt",
                      signature.hash));
    }
    auto state = std::make_shared<State>();
    state->form = *form;
    state->texts = std::move(signature.texts);
    state->name = form->name;
    if (!form->stop.empty()) state->end_tokens.emplace_back(form->stop);
    if (!end_token.empty() && end_token != form->stop) state->end_tokens.push_back(end_token);
    state->begin_token = std::move(begin_token);
    state->end_token = std::move(end_token);
    ChatFormat format;
    format.state_ = std::move(state);
    return format;
  });
}

Result<ChatFormat> ChatFormat::open(const std::string& name) {
  return guarded(name, [&]() -> Result<ChatFormat> {
    TESSERA_ASSIGN_OR_RETURN(const ModelDirectory home, find_model(name));
    const std::string& directory = home.path;
    TESSERA_ASSIGN_OR_RETURN(const Json config,
                             read_json_if_there(directory + "/tokenizer_config.json"));
    TESSERA_ASSIGN_OR_RETURN(const Json special,
                             read_json_if_there(directory + "/special_tokens_map.json"));
    TESSERA_ASSIGN_OR_RETURN(std::optional<std::string> text,
                             read_if_there(directory + "/chat_template.jinja"));
    if (const std::string* const given = template_of(config); !text && given != nullptr) {
      text = *given;
    }
    if (!text) {
      return not_found(fmt::format(
          "{} has no chat template (chat_template.jinja, or chat_template in "
          "tokenizer_config.json): it was not trained on conversations, or does not say how",
          directory));
    }
    const auto token = [&](std::string_view key) {
      std::string found = token_of(config, key);
      return found.empty() ? token_of(special, key) : found;
    };
    Result<ChatFormat> format = from_template(*text, token("bos_token"), token("eos_token"));
    if (format.ok()) return format;
    return Status(format.status().code(),
                  fmt::format("{}: {}", directory, format.status().message()));
  });
}

Result<std::string> ChatFormat::format(std::span<const ChatMessage> messages) const {
  return guarded("chat format", [&]() -> Result<std::string> {
    const ChatForm& form = state_->form;
    TESSERA_RETURN_IF_ERROR(check_messages(form, messages));
    const std::string* system = messages[0].role == "system" ? &messages[0].content : nullptr;
    if (system != nullptr) messages = messages.subspan(1);
    std::string text;
    state_->add_marks(form.begin, &text);
    state_->add_system(system, &text);
    for (size_t i = 0; i < messages.size(); ++i) {
      const ChatMessage& message = messages[i];
      if (message.role == "user") {
        const bool holds_system =
            (form.system_place == ChatForm::System::kFirstUser && i == 0) ||
            (form.system_place == ChatForm::System::kLastUser && i + 1 == messages.size());
        const std::string content = state_->user_content(message, holds_system ? system : nullptr);
        state_->add_turn(form.user, content, &text);
        continue;
      }
      std::string_view content = message.content;
      if (form.thoughts == ChatForm::Thoughts::kDropped) content = without_thoughts(content);
      if (form.trim != ChatForm::Trim::kNothing) content = trimmed(content);
      state_->add_turn(form.assistant, content, &text);
    }
    state_->add_marks(form.reply, &text);
    return text;
  });
}

const std::string& ChatFormat::name() const { return state_->name; }

const std::vector<std::string>& ChatFormat::end_tokens() const { return state_->end_tokens; }

Result<std::string> format_chat(const std::string& directory,
                                std::span<const ChatMessage> messages) {
  TESSERA_ASSIGN_OR_RETURN(const ChatFormat format, ChatFormat::open(directory));
  return format.format(messages);
}

}  // namespace tessera
