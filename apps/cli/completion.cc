#include <fmt/format.h>

#include <algorithm>
#include <functional>

#include "cli/terminal.h"
#include "cli/verbs.h"

namespace tessera::cli {
namespace {

constexpr Synopsis kSynopsis = {
    "completion", "SHELL",
    "Prints the script by which a shell completes verbs, options and their values. SHELL is bash, "
    "zsh or fish.",
    "  source <(tessera completion bash)                # in ~/.bashrc\n"
    "  tessera completion zsh > ~/.zfunc/_tessera       # a folder of $fpath\n"
    "  tessera completion fish > ~/.config/fish/completions/tessera.fish\n"};

std::vector<std::string> verb_names() {
  std::vector<std::string> names;
  for (const Verb& verb : verbs()) names.push_back(verb.name);
  names.insert(names.end(), {"help", "completion", "version"});
  return names;
}

// What follows an option: one of its choices, a file, a folder, or anything.
enum class Value { kChoice, kFile, kFolder, kText };
Value value_of(const OptionDescription& option) {
  if (!option.choices.empty()) return Value::kChoice;
  if (option.placeholder == "FILE" || option.placeholder == "PATH") return Value::kFile;
  if (option.placeholder == "DIR" || option.placeholder == "OUT") return Value::kFolder;
  return Value::kText;
}

// Both names of an option, as shell patterns or words.
std::string names_of(const OptionDescription& option, const char* between) {
  if (option.short_name.empty()) return option.long_name;
  return option.short_name + between + option.long_name;
}

// Single quotes around it, as POSIX shells read them.
std::string quoted(const std::string& text) {
  std::string result = "'";
  for (const char c : text) {
    if (c == '\'') result += "'\\''";
    if (c != '\'') result += c;
  }
  return result + "'";
}

// Without brackets and colons, which zsh would read.
std::string plain(std::string text) {
  std::replace_if(
      text.begin(), text.end(), [](char c) { return c == '[' || c == ']' || c == ':'; }, ' ');
  return text;
}

std::string first_sentence(const std::string& text) {
  const size_t end = text.find(". ");
  std::string sentence = text.substr(0, end);
  if (sentence.ends_with('.')) sentence.pop_back();
  return sentence;
}

std::string bash_script() {
  std::string cases;
  for (const Verb& verb : verbs()) {
    const VerbDescription description = describe(verb);
    std::string words, values;
    for (const OptionDescription& option : description.options) {
      words += " " + names_of(option, " ");
      const std::string pattern = names_of(option, "|");
      switch (value_of(option)) {
        case Value::kChoice:
          values +=
              fmt::format("        {}) words='{}' ;;\n", pattern, fmt::join(option.choices, " "));
          break;
        case Value::kFile:
          values += fmt::format("        {}) kind=files ;;\n", pattern);
          break;
        case Value::kFolder:
          values += fmt::format("        {}) kind=folders ;;\n", pattern);
          break;
        case Value::kText:
          if (!option.placeholder.empty())
            values += fmt::format("        {}) kind=none ;;\n", pattern);
          break;
      }
    }
    cases += fmt::format("    {})\n      options='{}'\n      case $before in\n{}      esac ;;\n",
                         verb.name, words.substr(1), values);
  }
  return fmt::format(
      "# bash completion of tessera; made by tessera completion bash\n"
      "_tessera() {{\n"
      "  local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} options= "
      "words= kind=\n"
      "  COMPREPLY=()\n"
      "  if [ \"$COMP_CWORD\" = 1 ] || {{ [ \"$COMP_CWORD\" = 2 ] && [ \"$before\" = help ]; }}; "
      "then\n"
      "    mapfile -t COMPREPLY < <(compgen -W '{} --help --version' -- \"$word\")\n"
      "    return\n"
      "  fi\n"
      "  case ${{COMP_WORDS[1]}} in\n{}"
      "    completion) words='bash zsh fish' ;;\n"
      "  esac\n"
      "  if [ -n \"$words\" ]; then\n"
      "    mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$word\")\n"
      "  elif [ \"$kind\" = folders ]; then\n"
      "    mapfile -t COMPREPLY < <(compgen -d -- \"$word\")\n"
      "  elif [ \"$kind\" != none ] && [ \"$kind\" != files ] && [ \"${{word:0:1}}\" = - ]; then\n"
      "    mapfile -t COMPREPLY < <(compgen -W \"$options\" -- \"$word\")\n"
      "  elif [ \"$kind\" != none ]; then\n"
      "    mapfile -t COMPREPLY < <(compgen -f -- \"$word\")\n"
      "  fi\n"
      "}}\n"
      "complete -o filenames -F _tessera tessera\n",
      fmt::join(verb_names(), " "), cases);
}

std::string zsh_script() {
  std::string cases, summaries;
  for (const Verb& verb : verbs()) {
    const VerbDescription description = describe(verb);
    summaries +=
        fmt::format("    {}\n", quoted(fmt::format("{}:{}", verb.name, plain(verb.summary))));
    cases += fmt::format("    {})\n      _arguments -s", verb.name);
    for (const OptionDescription& option : description.options) {
      std::string value;
      if (!option.placeholder.empty()) {
        value = fmt::format(":{}:", plain(option.placeholder));
        if (value_of(option) == Value::kChoice)
          value += fmt::format("({})", fmt::join(option.choices, " "));
        if (value_of(option) == Value::kFile) value += "_files";
        if (value_of(option) == Value::kFolder) value += "_files -/";
      }
      const std::string help = fmt::format("[{}]", plain(first_sentence(option.help)));
      for (const std::string& name : {option.short_name, option.long_name}) {
        if (!name.empty())
          cases += fmt::format(" \\\n        {}", quoted("*" + name + help + value));
      }
    }
    cases += " \\\n        '*:argument:_files' ;;\n";
  }
  return fmt::format(
      "#compdef tessera\n"
      "# zsh completion of tessera; made by tessera completion zsh\n"
      "_tessera() {{\n"
      "  local -a verbs\n"
      "  verbs=(\n{}"
      "    'help:List all options of a verb'\n"
      "    'completion:Print a completion script'\n"
      "    'version:Show version, commit, compiler, CPU and kernels'\n"
      "  )\n"
      "  if (( CURRENT == 2 )) || [[ $CURRENT == 3 && $words[2] == help ]]; then\n"
      "    _describe verb verbs\n"
      "    return\n"
      "  fi\n"
      "  local verb=$words[2]\n"
      "  shift words\n"
      "  (( CURRENT-- ))\n"
      "  case $verb in\n{}"
      "    completion) _values shell bash zsh fish ;;\n"
      "  esac\n"
      "}}\n"
      "if [ \"$funcstack[1]\" = _tessera ]; then\n"
      "  _tessera \"$@\"\n"
      "else\n"
      "  compdef _tessera tessera\n"
      "fi\n",
      summaries, cases);
}

// Single quotes around it, as fish reads them.
std::string fish_quoted(const std::string& text) {
  std::string result = "'";
  for (const char c : text) {
    if (c == '\'' || c == '\\') result += '\\';
    result += c;
  }
  return result + "'";
}

std::string fish_script() {
  std::string script = "# fish completion of tessera; made by tessera completion fish\n";
  const auto add_verb = [&](const std::string& name, const std::string& summary) {
    script += fmt::format("complete -c tessera -n __fish_use_subcommand -f -a {} -d {}\n", name,
                          fish_quoted(summary));
  };
  add_verb("help", "List all options of a verb.");
  add_verb("completion", "Print a completion script.");
  add_verb("version", "Show version, commit, compiler, CPU and kernels.");
  script +=
      "complete -c tessera -n '__fish_seen_subcommand_from completion' -f -a 'bash zsh fish'\n";
  script += fmt::format("complete -c tessera -n '__fish_seen_subcommand_from help' -f -a '{}'\n",
                        fmt::join(verb_names(), " "));
  for (const Verb& verb : verbs()) {
    add_verb(verb.name, verb.summary);
    for (const OptionDescription& option : describe(verb).options) {
      script += fmt::format("complete -c tessera -n '__fish_seen_subcommand_from {}' -l {}",
                            verb.name, option.long_name.substr(2));
      if (!option.short_name.empty()) script += " -s " + option.short_name.substr(1);
      switch (value_of(option)) {
        case Value::kChoice:
          script += fmt::format(" -x -a '{}'", fmt::join(option.choices, " "));
          break;
        case Value::kFile:
          script += " -r";
          break;
        case Value::kFolder:
          script += " -x -a '(__fish_complete_directories)'";
          break;
        case Value::kText:
          script += option.placeholder.empty() ? "" : " -x";
          break;
      }
      script += fmt::format(" -d {}\n", fish_quoted(first_sentence(option.help)));
    }
  }
  return script;
}

struct Shell {
  const char* name;
  std::string (*script)();
};
constexpr Shell kShells[] = {{"bash", bash_script}, {"zsh", zsh_script}, {"fish", fish_script}};

}  // namespace

int completion_verb(const Arguments& arguments) {
  std::string name;
  const Shell* chosen = nullptr;
  Parser parser(kSynopsis);
  parser.add_argument("SHELL", &name, "The shell: bash, zsh or fish.");
  parser.then([&] {
    check_choice("SHELL", {"bash", "zsh", "fish"}, name);
    chosen = std::find_if(std::begin(kShells), std::end(kShells),
                          [&](const Shell& shell) { return name == shell.name; });
  });
  if (const auto code = parser.parse(arguments)) return *code;
  Output out;
  Status status = out.write(chosen->script());
  if (status.ok()) status = out.flush();
  return finish(status);
}

}  // namespace tessera::cli
