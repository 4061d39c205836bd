#pragma once

#include <span>

#include "cli/description.h"
#include "cli/options.h"

namespace tessera::cli {

// Each does one verb with what follows it and gives the exit code.
int run_verb(const Arguments& arguments);
int embed_verb(const Arguments& arguments);
int classify_verb(const Arguments& arguments);
int tag_verb(const Arguments& arguments);
int answer_verb(const Arguments& arguments);
int fill_mask_verb(const Arguments& arguments);
int rerank_verb(const Arguments& arguments);
int tokenize_verb(const Arguments& arguments);
int inspect_verb(const Arguments& arguments);
int eval_verb(const Arguments& arguments);
int compress_verb(const Arguments& arguments);
int tune_verb(const Arguments& arguments);
int export_verb(const Arguments& arguments);
int bench_verb(const Arguments& arguments);
int machine_verb(const Arguments& arguments);
int dump_verb(const Arguments& arguments);
int explain_verb(const Arguments& arguments);
int report_verb(const Arguments& arguments);
int plot_verb(const Arguments& arguments);

struct Verb {
  const char* name;
  const char* summary;  // a line of the help, which begins with what the verb does
  int (*main)(const Arguments& arguments);
};
std::span<const Verb> verbs();
// Its command line; nothing is done.
VerbDescription describe(const Verb& verb);

// What is asked of the program itself: its version, completion scripts for shells, man pages.
int version_verb(const Arguments& arguments);
int completion_verb(const Arguments& arguments);
int manual_verb(const Arguments& arguments);

}  // namespace tessera::cli
