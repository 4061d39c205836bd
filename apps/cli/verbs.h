#pragma once

#include "cli/options.h"

namespace tessera::cli {

// Each does one verb with what stands behind it and gives the exit code.
int run_verb(const Arguments& arguments);
int embed_verb(const Arguments& arguments);
int inspect_verb(const Arguments& arguments);
int bench_verb(const Arguments& arguments);
int machine_verb(const Arguments& arguments);
int dump_verb(const Arguments& arguments);

}  // namespace tessera::cli
