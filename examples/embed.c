/* Prints the vector of a text: embed MODEL TEXT */
#include <stdio.h>
#include <stdlib.h>
#include <tessera/tessera.h>

static int fail(void) { return fprintf(stderr, "%s\n", tessera_error()), 1; }

int main(int argc, char** argv) {
  if (argc != 3) return fprintf(stderr, "usage: embed MODEL TEXT\n"), 1;
  tessera_model* model = tessera_load(argv[1], NULL);
  if (model == NULL) return fail();
  const int32_t size = tessera_embedding_size(model);
  const char* const texts[] = {argv[2]};
  float* vector = malloc(sizeof(float) * (size_t)size);
  if (vector == NULL || tessera_embed(model, texts, 1, vector) != 0) return fail();
  for (int32_t i = 0; i < size; ++i) printf("%g\n", vector[i]);
  free(vector);
  tessera_free(model);
  return 0;
}
