/* Every function of the C interface, from a C program: c_test MODEL [CLASSIFIER] */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tessera/tessera.h>

#define CHECK(condition)                                                                   \
  do {                                                                                     \
    if (!(condition)) {                                                                    \
      fprintf(stderr, "line %d: %s does not hold: %s\n", __LINE__, #condition, tessera_error()); \
      return 1;                                                                            \
    }                                                                                      \
  } while (0)

struct Story {
  char text[4096];
  int pieces, most;
};

static int add_piece(const char* piece, void* user) {
  struct Story* story = user;
  strncat(story->text, piece, sizeof story->text - strlen(story->text) - 1);
  return ++story->pieces == story->most;
}

static int test_errors(void) {
  CHECK(tessera_load("/nowhere/at/all", NULL) == NULL);
  CHECK(strstr(tessera_error(), "/nowhere/at/all") != NULL);
  CHECK(tessera_load(NULL, NULL) == NULL);
  CHECK(strstr(tessera_error(), "NULL") != NULL);
  tessera_free(NULL);
  CHECK(tessera_embedding_size(NULL) == 0 && tessera_label_count(NULL) == 0);
  CHECK(tessera_label(NULL, 0) == NULL);
  return 0;
}

static int test_ids(const tessera_model* model) {
  int32_t ids[64];
  char text[64];
  const char* const sentence = "Once upon a time";
  const int64_t count = tessera_tokenize(model, sentence, ids, 64);
  CHECK(count > 0 && count <= 64);
  CHECK(tessera_tokenize(model, sentence, NULL, 0) == count);
  const int64_t bytes = tessera_detokenize(model, ids, (size_t)count, text, sizeof text);
  CHECK(bytes == (int64_t)strlen(text) && strstr(text, "upon a time") != NULL);
  CHECK(tessera_detokenize(model, ids, (size_t)count, text, 5) == bytes && strlen(text) == 4);
  CHECK(tessera_detokenize(model, ids, (size_t)count, NULL, 0) == bytes);
  ids[0] = -1;
  CHECK(tessera_detokenize(model, ids, 1, NULL, 0) == -1);
  CHECK(tessera_tokenize(model, "\xff", ids, 64) == -1);
  return 0;
}

static int test_embed(tessera_model* model) {
  const int32_t size = tessera_embedding_size(model);
  const char* const texts[] = {"A first text", "Another, longer one", "A first text"};
  float* vectors = malloc(3 * sizeof(float) * (size_t)size);
  CHECK(vectors != NULL && size > 0);
  CHECK(tessera_embed(model, texts, 3, vectors) == 0);
  CHECK(tessera_embed(model, NULL, 0, NULL) == 0);
  float same = 0, other = 0;
  for (int32_t i = 0; i < size; ++i) {
    same = fmaxf(same, fabsf(vectors[i] - vectors[2 * size + i]));
    other = fmaxf(other, fabsf(vectors[i] - vectors[size + i]));
  }
  CHECK(same < 1e-5f && other > 1e-3f);
  const char* const missing[] = {"text", NULL};
  CHECK(tessera_embed(model, missing, 2, vectors) == -1);
  CHECK(strstr(tessera_error(), "text 1") != NULL);
  free(vectors);
  return 0;
}

static int test_generate(tessera_model* model) {
  struct Story whole = {{0}, 0, 0}, again = {{0}, 0, 0}, begun = {{0}, 0, 3};
  tessera_generate_options options;
  memset(&options, 0, sizeof options);
  options.max_tokens = 12;
  CHECK(tessera_generate(model, "Once upon a time", &options, add_piece, &whole) == 0);
  CHECK(tessera_generate(model, "Once upon a time", &options, add_piece, &again) == 0);
  CHECK(whole.pieces > 3 && strcmp(whole.text, again.text) == 0);
  CHECK(tessera_generate(model, "Once upon a time", &options, add_piece, &begun) == 0);
  CHECK(begun.pieces == 3 && strncmp(whole.text, begun.text, strlen(begun.text)) == 0);
  CHECK(tessera_generate(model, "Once upon a time", &options, NULL, NULL) == -1);
  options.top_p = 2;
  CHECK(tessera_generate(model, "Once upon a time", &options, add_piece, &again) == -1);
  printf("%s\n", whole.text);
  return 0;
}

static int test_classify(const char* directory) {
  tessera_load_options options;
  memset(&options, 0, sizeof options);
  options.threads = 1;
  options.dtype = "f33";
  CHECK(tessera_load(directory, &options) == NULL && strstr(tessera_error(), "f33") != NULL);
  options.dtype = "f32";
  tessera_model* model = tessera_load(directory, &options);
  CHECK(model != NULL);
  const int32_t labels = tessera_label_count(model);
  const char* const texts[] = {"a text", "another text"};
  float scores[2 * 16];
  CHECK(labels > 0 && labels <= 16 && tessera_label(model, labels - 1) != NULL);
  CHECK(tessera_label(model, labels) == NULL && tessera_label(model, -1) == NULL);
  CHECK(tessera_classify(model, texts, 2, scores) == 0);
  for (int32_t i = 0; i < 2 * labels; ++i) CHECK(scores[i] >= 0 && scores[i] <= 1);
  tessera_free(model);
  return 0;
}

int main(int argc, char** argv) {
  CHECK(argc >= 2);
  CHECK(strlen(tessera_version()) >= 5);
  if (test_errors()) return 1;
  tessera_model* model = tessera_load(argv[1], NULL);
  CHECK(model != NULL);
  const char* const text = "text";
  float score = 0;
  CHECK(tessera_label_count(model) == 0 && tessera_classify(model, &text, 1, &score) == -1);
  const int failed = test_ids(model) || test_embed(model) || test_generate(model);
  tessera_free(model);
  return failed || (argc > 2 && test_classify(argv[2]));
}
