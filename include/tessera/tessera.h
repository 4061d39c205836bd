#pragma once

// Everything at once; and where to begin to read.
//   status.h     how functions fail
//   model.h      load a checkpoint, see what it is, run it on token ids, embed
//   tokenizer.h  text to ids and back, with all that tokenizer.json can say
//   engine.h     generate, one request or many at a time
//   chat.h       conversations as the text that a model was trained on
//   tasks.h      classify, tag, answer, fill masks, rerank
//   machine.h    what this machine can do at most, measured and kept
//   compress.h   a pruned or quantized checkpoint from another one
//   evaluate.h   how good a model is at a task; logits and hidden states for comparison
//   records.h    lines, and rows of CSV, TSV and JSON lines
//   report.h     variants of a model side by side, and plots
// Link with tessera::tessera (CMake) or what `pkg-config --cflags --libs tessera` says; C++20. The
// folder examples/ beside the documentation has whole programs.
#include "tessera/chat.h"       // IWYU pragma: export
#include "tessera/compress.h"   // IWYU pragma: export
#include "tessera/engine.h"     // IWYU pragma: export
#include "tessera/evaluate.h"   // IWYU pragma: export
#include "tessera/machine.h"    // IWYU pragma: export
#include "tessera/model.h"      // IWYU pragma: export
#include "tessera/records.h"    // IWYU pragma: export
#include "tessera/report.h"     // IWYU pragma: export
#include "tessera/status.h"     // IWYU pragma: export
#include "tessera/tasks.h"      // IWYU pragma: export
#include "tessera/tokenizer.h"  // IWYU pragma: export
#include "tessera/version.h"    // IWYU pragma: export
