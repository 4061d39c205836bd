// Continues a text: generate MODEL TEXT
#include <tessera/engine.h>

#include <iostream>

int fail(const tessera::Status& status) { return std::cerr << status.message() << "\n", 1; }

int main(int argc, char** argv) {
  if (argc != 3) return fail(tessera::invalid_input("usage: generate MODEL TEXT"));
  const auto model = tessera::Model::load(argv[1]);
  if (!model.ok()) return fail(model.status());
  const auto prompt = (*model)->tokenize(argv[2]);
  if (!prompt.ok()) return fail(prompt.status());
  const auto story = tessera::generate(*model, {.prompt_ids = prompt->ids, .max_new_tokens = 40});
  if (!story.ok()) return fail(story.status());
  std::cout << story->text << "\n";
}
