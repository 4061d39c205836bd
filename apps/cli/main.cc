#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <exception>
#include <new>

#include "cli/bus_error.h"
#include "cli/help.h"
#include "cli/hints.h"
#include "cli/table.h"
#include "cli/terminal.h"
#include "cli/verbs.h"

namespace tessera::cli {
namespace {

// What is called with the words after it.
constexpr Verb kOwnVerbs[] = {
    {"completion", "", completion_verb},
    {"man", "", manual_verb},
    {"version", "", version_verb},
};

// What other programs call our verbs.
struct OtherName {
  const char* name;
  const char* instead;
};
constexpr OtherName kOtherNames[] = {
    {"generate", "run"},
    {"chat", "run MODEL --chat"},
    {"complete", "run"},
    {"infer", "run"},
    {"predict", "run"},
    {"encode", "embed"},
    {"embedding", "embed"},
    {"ner", "tag"},
    {"qa", "answer"},
    {"quantize", "compress MODEL -o OUT --quantize int8"},
    {"prune", "compress MODEL -o OUT --prune-tiles 0.5"},
    {"dequantize", "export"},
    {"densify", "export"},
    {"convert", "export"},
    {"optimize", "compress"},
    {"perplexity", "eval --task perplexity"},
    {"evaluate", "eval"},
    {"benchmark", "bench"},
    {"info", "inspect"},
    {"show", "inspect"},
    {"detokenize", "tokenize MODEL --decode"},
};

// Verbs of other programs that we have not.
struct NoVerb {
  const char* name;
  const char* sentence;
};
constexpr const char* kDownloads = "Tessera downloads nothing: hf download OWNER/NAME gets a model";
constexpr const char* kLists =
    "Tessera takes models from any directory and from the hub's cache, which hf cache shows";
constexpr NoVerb kNoVerbs[] = {
    {"serve", "Tessera has no server yet"},
    {"server", "Tessera has no server yet"},
    {"pull", kDownloads},
    {"download", kDownloads},
    {"list", kLists},
    {"ls", kLists},
};

int print(const std::string& text) {
  Output out;
  Status status = out.write(text);
  if (status.ok()) status = out.flush();
  return finish(status);
}

std::string help(int width) {
  std::vector<std::vector<std::string>> rows;
  for (const Verb& verb : verbs()) rows.push_back({"  " + std::string(verb.name), verb.summary});
  const auto prose = [&](const char* text) { return wrapped(text, width); };
  return prose("Usage: tessera VERB [options] MODEL ...") +
         prose(
             "\nTessera runs, compresses and measures transformers on the CPU. MODEL is a "
             "checkpoint directory, or OWNER/NAME in the cache of the Hugging Face hub.") +
         "\nVerbs:\n" + format_table({{}, {}}, rows, width) + "\nMore:\n" +
         format_table({{}, {}},
                      {{"  help VERB", "List all options of a verb, with examples."},
                       {"  -V, --version", "Show version, commit, compiler, CPU and kernels."},
                       {"  completion SHELL", "Print a completion script for bash, zsh or fish."}},
                      width) +
         "\nExamples:\n"
         "  tessera run models/tales \"Once upon a time\"\n"
         "  tessera inspect models/tales\n"
         "  tessera bench models/tales --batch 1,8\n"
         "  tessera compress models/tales -o small --quantize int8\n\n" +
         prose(
             "Any option can also be set by an environment variable, as "
             "TESSERA_RUN_TEMPERATURE sets --temperature of run, or in a file: --config FILE.") +
         prose(
             "\nThe exit status is 0 when all is done, 1 after a failure, 2 for wrong usage, "
             "130 after an interrupt and 143 after SIGTERM.");
}

int show_help() { return print(help(terminal_width(stdout).value_or(kUsualWidth))); }

const Verb* find_verb(const std::string& name) {
  for (const std::span<const Verb> table : {verbs(), std::span<const Verb>(kOwnVerbs)}) {
    const auto found = std::find_if(table.begin(), table.end(),
                                    [&](const Verb& verb) { return name == verb.name; });
    if (found != table.end()) return &*found;
  }
  return nullptr;
}

// What a word that is no verb was meant to be.
std::string hint_at_verb(const std::string& word) {
  for (const OtherName& other : kOtherNames) {
    if (word == other.name) return fmt::format("; Tessera calls it tessera {}", other.instead);
  }
  for (const NoVerb& each : kNoVerbs) {
    if (word == each.name) return fmt::format("; {}", each.sentence);
  }
  struct stat found {};
  if (stat(word.c_str(), &found) == 0 && S_ISDIR(found.st_mode))
    return "; the verb comes first, as in tessera run " + word;
  std::vector<std::string> names;
  for (const Verb& verb : verbs()) names.push_back(verb.name);
  return did_you_mean(word, names);
}

int refuse(const std::string& word) {
  std::vector<std::string> names;
  for (const Verb& verb : verbs()) names.push_back(verb.name);
  if (word.starts_with('-') && word.size() > 1) {
    const std::vector<std::string> options = {"--help", "--version"};
    complain(fmt::format("unknown option {}{}; options of a verb come after it", word,
                         did_you_mean(word, options)));
  } else {
    const std::string hint = hint_at_verb(word);
    const std::string list = hint.empty() ? fmt::format(" ({})", either_of(names)) : "";
    complain(fmt::format("expected a verb{}, found \"{}\"{}", list, word, hint));
  }
  say("Try: tessera --help\n");
  return kUsage;
}

// No file that is opened later may get the number of a standard stream that is closed, and with it
// what is written there. To read or write there fails as before.
void occupy_standard_streams() {
  int file = 0;
  while (file >= 0 && file <= STDERR_FILENO) file = open("/dev/null", O_PATH);
  if (file >= 0) close(file);
}

int dispatch(std::vector<std::string> words) {
  if (words.empty()) {
    say(help(terminal_width(stderr).value_or(kUsualWidth)));
    return kUsage;
  }
  std::string name = words.front();
  words.erase(words.begin());
  if (name == "help" && !words.empty()) {
    name = words.front();
    words = {"--help"};
  }
  if (name == "help" || name == "--help" || name == "-h") return show_help();
  if (name == "--version" || name == "-V") name = "version";
  const Verb* const verb = find_verb(name);
  if (verb == nullptr) return refuse(name);
  return verb->main({words, nullptr});
}

}  // namespace
}  // namespace tessera::cli

int main(int argc, char** argv) {
  // A reader that has enough ends us quietly, even if the parent process ignored the signal.
  std::signal(SIGPIPE, SIG_DFL);
  tessera::cli::occupy_standard_streams();
  tessera::cli::report_cut_files();
  try {
    return tessera::cli::dispatch({argv + 1, argv + argc});
  } catch (const std::bad_alloc&) {
    tessera::cli::complain("out of memory");
  } catch (const std::exception& error) {
    tessera::cli::complain(error.what());
  }
  return tessera::cli::kFailed;
}
