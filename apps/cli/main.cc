#include <fmt/format.h>

#include <csignal>
#include <exception>
#include <new>

#include "cli/bus_error.h"
#include "cli/table.h"
#include "cli/terminal.h"
#include "cli/verbs.h"

namespace tessera::cli {
namespace {

struct Verb {
  const char* name;
  const char* summary;
  int (*main)(const Arguments& arguments);
};

constexpr Verb kVerbs[] = {
    {"run", "continue a text", run_verb},
    {"embed", "turn texts into vectors", embed_verb},
    {"classify", "give texts their labels", classify_verb},
    {"tag", "find entities in texts", tag_verb},
    {"answer", "find answers in a context", answer_verb},
    {"fill-mask", "say what may stand at a mask", fill_mask_verb},
    {"rerank", "order documents by relevance", rerank_verb},
    {"tokenize", "turn texts into token ids and back", tokenize_verb},
    {"inspect", "say what a model is and how it will be executed", inspect_verb},
    {"compress", "make it smaller and faster", compress_verb},
    {"eval", "measure how good it is at a task", eval_verb},
    {"bench", "measure how fast it runs", bench_verb},
    {"machine", "measure what this machine can do at most", machine_verb},
    {"dump", "write logits and hidden states for comparison", dump_verb},
    {"report", "accuracy, latency and size of variants side by side", report_verb},
    {"plot", "draw what reports and benchmarks measure", plot_verb},
};

int print(const std::string& text) {
  Output out;
  Status status = out.write(text);
  if (status.ok()) status = out.flush();
  return finish(status);
}

std::string help() {
  std::vector<std::vector<std::string>> rows;
  for (const Verb& verb : kVerbs) rows.push_back({"  " + std::string(verb.name), verb.summary});
  return "Runs transformers on the CPU, from Hugging Face checkpoint directories.\n"
         "Usage: tessera VERB [options] MODEL ...\n\nVerbs:\n" +
         format_table({{}, {}}, rows) +
         "\n  tessera VERB --help    all options of a verb, with examples\n"
         "  tessera --version\n\n"
         "Examples:\n"
         "  tessera run models/tales --prompt \"Once upon a time\"\n"
         "  tessera embed models/all-MiniLM-L6-v2 \"An example sentence\" --json\n"
         "  tessera inspect models/tales\n"
         "  tessera bench models/tales --batch 1,8\n\n"
         "Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted.\n";
}

int dispatch(const Arguments& arguments) {
  if (arguments.empty()) {
    fmt::print(stderr, "{}", help());
    return kUsage;
  }
  if (arguments[0] == "--help" || arguments[0] == "-h") return print(help());
  if (arguments[0] == "--version") return print("tessera " TESSERA_VERSION "\n");
  for (const Verb& verb : kVerbs) {
    if (arguments[0] == verb.name) return verb.main({arguments.begin() + 1, arguments.end()});
  }
  std::string names;
  for (const Verb& verb : kVerbs)
    names += fmt::format("{}{}", names.empty() ? "" : ", ", verb.name);
  fmt::print(stderr, "tessera: expected a verb ({}), found \"{}\"\nTry: tessera --help\n", names,
             arguments[0]);
  return kUsage;
}

}  // namespace
}  // namespace tessera::cli

int main(int argc, char** argv) {
  // A reader that has enough ends us quietly, even if the parent process ignored the signal.
  std::signal(SIGPIPE, SIG_DFL);
  tessera::cli::report_cut_files();
  try {
    return tessera::cli::dispatch({argv + 1, argv + argc});
  } catch (const std::bad_alloc&) {
    fmt::print(stderr, "tessera: out of memory\n");
  } catch (const std::exception& error) {
    fmt::print(stderr, "tessera: {}\n", error.what());
  }
  return tessera::cli::kFailed;
}
