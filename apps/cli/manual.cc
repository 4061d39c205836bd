#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "cli/commit.h"
#include "cli/hints.h"
#include "cli/terminal.h"
#include "cli/verbs.h"

namespace tessera::cli {
namespace {

constexpr Synopsis kSynopsis = {
    "man", "[VERB]",
    "Prints the manual page of a verb, or of the program, in the form that man reads; with -o "
    "writes all pages to a folder.",
    "  tessera man run | man -l -\n"
    "  tessera man -o share/man/man1\n"};

// Text in a page: hyphens that a reader may copy, backslashes, and no line that roff takes for a
// request.
std::string escaped(const std::string& text) {
  std::string result;
  for (const char c : text) {
    if (c == '\\') {
      result += "\\e";
    } else if (c == '-') {
      result += "\\-";
    } else if ((c == '.' || c == '\'') && (result.empty() || result.back() == '\n')) {
      result += std::string("\\&") + c;
    } else {
      result += c;
    }
  }
  return result;
}

std::string upper(std::string text) {
  for (char& c : text) c = static_cast<char>(std::toupper(c));
  return text;
}

std::string heading(const std::string& page) {
  return fmt::format(".TH {} 1 {} \"Tessera {}\" \"User Commands\"\n", escaped(upper(page)), kDate,
                     TESSERA_VERSION);
}

// A summary as it stands after the name: "continue a text with a language model".
std::string after_name(std::string summary) {
  if (summary.ends_with('.')) summary.pop_back();
  summary[0] = static_cast<char>(std::tolower(summary[0]));
  return escaped(summary);
}

std::string example_lines(const std::string& examples) {
  return ".SH EXAMPLES\n.nf\n" + escaped(examples) + ".fi\n";
}

std::string option_entry(const OptionDescription& option, const std::string& verb) {
  std::string names =
      option.short_name.empty() ? "" : fmt::format("\\fB{}\\fR, ", escaped(option.short_name));
  names += fmt::format("\\fB{}\\fR", escaped(option.long_name));
  if (!option.placeholder.empty()) names += fmt::format(" \\fI{}\\fR", escaped(option.placeholder));
  std::string entry = fmt::format(".TP\n{}\n{}\n", names, escaped(option.help));
  if (option.long_name != "--help")
    entry += fmt::format("Environment: {}.\n", variable_of(verb, option));
  return entry;
}

constexpr const char* kExitStatus =
    ".SH EXIT STATUS\n0 when all is done, 1 after a failure, 2 for wrong usage, 130 after an "
    "interrupt, 143 after SIGTERM.\n";

std::string page_of(const Verb& verb) {
  const VerbDescription description = describe(verb);
  const std::string page = fmt::format("tessera-{}", verb.name);
  std::string text = heading(page);
  text += fmt::format(".SH NAME\n{} \\- {}\n", escaped(page), after_name(verb.summary));
  text += fmt::format(".SH SYNOPSIS\n\\fBtessera {}\\fR [options] {}\n", escaped(verb.name),
                      escaped(description.usage));
  std::string summary = description.summary;
  std::replace(summary.begin(), summary.end(), '\n', ' ');
  text += ".SH DESCRIPTION\n" + escaped(summary) + "\n.SH OPTIONS\n";
  std::string group;
  for (const OptionDescription& option : description.options) {
    if (option.group != group) text += fmt::format(".SS {}\n", option.group);
    group = option.group;
    text += option_entry(option, verb.name);
  }
  return text + kExitStatus + example_lines(description.examples) +
         ".SH SEE ALSO\n.BR tessera (1)\n";
}

std::string page_of_program() {
  std::string text = heading("tessera");
  text +=
      ".SH NAME\ntessera \\- run, compress and measure transformers on the CPU\n"
      ".SH SYNOPSIS\n\\fBtessera\\fR \\fIVERB\\fR [options] \\fIMODEL\\fR ...\n"
      ".SH DESCRIPTION\nMODEL is a directory with config.json and *.safetensors, or OWNER/NAME "
      "in the cache of the Hugging Face hub.\n.SH VERBS\n";
  for (const Verb& verb : verbs()) {
    text +=
        fmt::format(".TP\n.BR tessera\\-{} (1)\n{}\n", escaped(verb.name), escaped(verb.summary));
  }
  text +=
      ".SH ENVIRONMENT\nEvery option can be set by a variable, TESSERA_<VERB>_<OPTION>, as "
      "TESSERA_RUN_MAX_TOKENS sets \\-\\-max\\-tokens of run.\n"
      ".TP\nTESSERA_ISA\nCaps the instruction sets: ref, avx2, avx512, avx512_vnni, avx512_bf16 or "
      "amx.\n"
      ".TP\nTESSERA_KERNEL\nForces one kernel, as norm:avx2.\n"
      ".TP\nTESSERA_MACHINE\nThe file in which tessera machine keeps what it measured.\n";
  return text + kExitStatus +
         example_lines(
             "  tessera run models/tales \"Once upon a time\"\n  tessera inspect models/tales\n");
}

Status write_page(const std::string& folder, const std::string& name, const std::string& page) {
  Output out;
  if (Status status = out.open(fmt::format("{}/{}.1", folder, name)); !status.ok()) return status;
  if (Status status = out.write(page); !status.ok()) return status;
  return out.close();
}

Status write_pages(const std::string& folder) {
  Status status = write_page(folder, "tessera", page_of_program());
  for (const Verb& verb : verbs()) {
    if (status.ok())
      status = write_page(folder, fmt::format("tessera-{}", verb.name), page_of(verb));
  }
  return status;
}

}  // namespace

int manual_verb(const Arguments& arguments) {
  std::string name;
  std::optional<std::string> folder;
  const Verb* verb = nullptr;
  Parser parser(kSynopsis);
  parser.add_argument("VERB", &name, "The verb.").optional();
  parser.group("Output");
  parser.add_text({"-o,--output", "DIR", "Write all pages to DIR, which must be there."}, &folder);
  parser.then([&] {
    std::vector<std::string> names;
    for (const Verb& each : verbs()) {
      names.push_back(each.name);
      if (name == each.name) verb = &each;
    }
    if (!name.empty()) check_choice("VERB", names, name);
  });
  if (const auto code = parser.parse(arguments)) return *code;
  if (folder) return finish(write_pages(*folder));
  Output out;
  Status status = out.write(verb == nullptr ? page_of_program() : page_of(*verb));
  if (status.ok()) status = out.flush();
  return finish(status);
}

}  // namespace tessera::cli
