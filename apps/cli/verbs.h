#pragma once

#include "cli/options.h"

namespace tessera::cli {

// Each does one verb with what stands behind it and gives the exit code.
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
int bench_verb(const Arguments& arguments);
int machine_verb(const Arguments& arguments);
int dump_verb(const Arguments& arguments);
int report_verb(const Arguments& arguments);
int plot_verb(const Arguments& arguments);

}  // namespace tessera::cli
