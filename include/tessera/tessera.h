#pragma once

// Tessera for programs in C, and in every language that calls C; in C++ also everything at once.
// Link with what `pkg-config --cflags --libs tessera` says. docs/c.md has whole programs.
//
//   tessera_model* model = tessera_load("all-MiniLM-L6-v2", NULL);
//   if (model == NULL) return fprintf(stderr, "%s\n", tessera_error()), 1;
//   const char* texts[] = {"A sentence"};
//   float* vector = malloc(sizeof(float) * (size_t)tessera_embedding_size(model));
//   if (tessera_embed(model, texts, 1, vector) != 0) return fprintf(stderr, "%s\n",
//   tessera_error()), 1;
//
// Texts are UTF-8 and end with NUL. Memory is the caller's, but for what a comment says. Functions
// that can fail give 0 for success (those that count: not less than 0; tessera_load: not NULL) and
// else say why in tessera_error. Any thread may call any function with a model until it is freed;
// calls that run the model take turns. Nothing is thrown.
#include <stddef.h>
#include <stdint.h>

#include "tessera/export.h"

#ifdef __cplusplus
extern "C" {
#endif

// The version of the library that runs, as "0.1.0".
TESSERA_API const char* tessera_version(void);

// Why the last call of this thread that failed did so: one sentence, which stays until the next
// failure in this thread.
TESSERA_API const char* tessera_error(void);

typedef struct tessera_model tessera_model;

// What is 0 or NULL has its default.
typedef struct tessera_load_options {
  int32_t threads;    // 0: every CPU that this process may use
  const char* dtype;  // "f32", "bf16", "int8", "w8", "w4", "int4"; NULL: as the checkpoint has it
} tessera_load_options;

// Loads a Hugging Face directory. options may be NULL. NULL when it fails.
TESSERA_API tessera_model* tessera_load(const char* directory, const tessera_load_options* options);
// NULL is allowed; no other call may use the model meanwhile or later.
TESSERA_API void tessera_free(tessera_model* model);

// How many numbers a vector has.
TESSERA_API int32_t tessera_embedding_size(const tessera_model* model);
// Writes a vector for each text, one after another: count * tessera_embedding_size floats.
TESSERA_API int tessera_embed(tessera_model* model, const char* const* texts, size_t count,
                              float* vectors);

// The labels of a classifier, 0 for other models; NULL for a label that there is not. The text
// lives as long as the model.
TESSERA_API int32_t tessera_label_count(const tessera_model* model);
TESSERA_API const char* tessera_label(const tessera_model* model, int32_t label);
// Writes the scores of each text, one text after another: count * tessera_label_count floats.
TESSERA_API int tessera_classify(tessera_model* model, const char* const* texts, size_t count,
                                 float* scores);

// The token ids of a text, special ones included. Gives their number and writes the first `room` of
// them; ids may be NULL where room is 0. -1 when it fails.
TESSERA_API int64_t tessera_tokenize(const tessera_model* model, const char* text, int32_t* ids,
                                     size_t room);
// The text of token ids, without special ones. Gives its bytes without the NUL and writes as many
// as fit into `room` with a NUL behind them, as snprintf does. -1 when it fails.
TESSERA_API int64_t tessera_detokenize(const tessera_model* model, const int32_t* ids, size_t count,
                                       char* text, size_t room);

// What is 0 or NULL has its default; all zero is the likeliest text.
typedef struct tessera_generate_options {
  int32_t max_tokens;        // 0: 128
  float temperature;         // 0: always the likeliest token
  int32_t top_k;             // 0: all tokens
  float top_p;               // 0: all tokens
  float min_p;               // 0: all tokens
  float repetition_penalty;  // 0: none
  uint64_t seed;             // the same seed gives the same text
  const char* stop;          // the text ends before this one; NULL: where the model ends it
} tessera_generate_options;

// Gets the text piece by piece, whole characters each, with what `user` was given to
// tessera_generate. The piece is the library's and lives during the call. Not 0: stop.
typedef int (*tessera_on_text)(const char* piece, void* user);

// Continues a prompt. options may be NULL. Success also where on_text stopped it.
TESSERA_API int tessera_generate(tessera_model* model, const char* prompt,
                                 const tessera_generate_options* options, tessera_on_text on_text,
                                 void* user);

#ifdef __cplusplus
}  // extern "C"

// C++20, with tessera::tessera (CMake) or pkg-config. Where to begin to read:
//   status.h     how functions fail
//   names.h      the names of enums
//   embedder.h   texts to vectors
//   model.h      load a checkpoint, see what it is, run it on token ids
//   tokenizer.h  text to ids and back, with all that tokenizer.json can say
//   engine.h     generate, one request or many at a time
//   chat.h       conversations as the text that a model was trained on
//   tasks.h      embed, classify, tag, answer, fill masks, rerank
//   machine.h    what this machine can do at most, measured and kept
//   compress.h   a pruned or quantized checkpoint from another one
//   tune.h       a checkpoint trained, or healed after it was pruned
//   evaluate.h   how good a model is at a task; logits and hidden states for comparison
//   records.h    lines, and rows of CSV, TSV and JSON lines
//   report.h     variants of a model side by side, and plots
#include "tessera/chat.h"       // IWYU pragma: export
#include "tessera/compress.h"   // IWYU pragma: export
#include "tessera/embedder.h"   // IWYU pragma: export
#include "tessera/engine.h"     // IWYU pragma: export
#include "tessera/evaluate.h"   // IWYU pragma: export
#include "tessera/machine.h"    // IWYU pragma: export
#include "tessera/model.h"      // IWYU pragma: export
#include "tessera/names.h"      // IWYU pragma: export
#include "tessera/pruning.h"    // IWYU pragma: export
#include "tessera/records.h"    // IWYU pragma: export
#include "tessera/report.h"     // IWYU pragma: export
#include "tessera/search.h"     // IWYU pragma: export
#include "tessera/status.h"     // IWYU pragma: export
#include "tessera/tasks.h"      // IWYU pragma: export
#include "tessera/tokenizer.h"  // IWYU pragma: export
#include "tessera/tune.h"       // IWYU pragma: export
#include "tessera/version.h"    // IWYU pragma: export
#endif
